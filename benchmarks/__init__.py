"""What is measured, and against what: `python -m benchmarks`, or `make bench`. Ratios of things measured side by side in one run."""
