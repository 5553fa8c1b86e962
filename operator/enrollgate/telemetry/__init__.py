"""What the operator tells the people and programs that watch it: log lines, metrics, probes."""
