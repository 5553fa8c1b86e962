"""What is measured, and against what: `make bench`. Ratios, of things measured side by side in one run."""
