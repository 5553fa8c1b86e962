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
    parser.add_argument(
        "--web", action="store_true", help="keep the operator and the page until Ctrl-C"
    )
    options = parser.parse_args(arguments)
    good = show(options.folder, Console(emoji=False), keep_page=options.web)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
