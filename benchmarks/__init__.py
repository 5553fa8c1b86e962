"""What is measured, and against what: `make bench`.

Most figures are ratios of two things that are measured side by side, in one run.
"""
