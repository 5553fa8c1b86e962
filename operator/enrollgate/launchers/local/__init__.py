"""Runs as child processes of one machine, without a cluster."""
