"""Run this suite alone: `python -m benchmarks.peers` is `python -m benchmarks peers`."""

import sys

from benchmarks.__main__ import main

if __name__ == "__main__":
    main(["peers", *sys.argv[1:]])
