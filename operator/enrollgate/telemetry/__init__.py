"""What the operator tells the people who run it: log lines."""
