"""Tests of the image: built from the Dockerfile, run as non-root on a read-only root."""
