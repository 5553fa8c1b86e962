"""`python -m examples.demo`: the four cases of the contract, live on this machine.

It runs a course site, SQLite, the operator and real downloads.
"""

import argparse
import sys
from pathlib import Path

from examples.demo.show import show
from rich.console import Console


def main(arguments: list[str]) -> int:
    """Run the demo. Returns 0 if every case ended as the contract says, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description="Show the four cases of the contract live."
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("demo-output"), help="where the demo keeps its files"
    )
    return 0 if show(parser.parse_args(arguments).folder, Console(emoji=False)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
