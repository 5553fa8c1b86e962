"""Print a generated page, or compare it with its file, so that CI finds a stale page."""

import sys
from pathlib import Path


def print_or_check(page: str, arguments: list[str]) -> int:
    """Print the page. With `--check FILE`, compare it, and return 1 if the file is stale."""
    if arguments[:1] == ["--check"] and len(arguments) == 2:
        path = Path(arguments[1])
        if not path.is_file() or path.read_text(encoding="utf-8") != page:
            sys.stderr.write(f"{path} is stale: run `make docs`\n")
            return 1
        return 0
    sys.stdout.write(page)
    return 0
