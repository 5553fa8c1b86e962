"""What people type: the command line and what it shows. The top layer: it may import every other package."""
