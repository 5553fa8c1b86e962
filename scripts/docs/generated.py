"""Generated pages: printed, or compared with a file so that CI notices a stale one."""

import sys
from pathlib import Path


def print_or_check(page: str, arguments: list[str]) -> int:
    """Prints the page; with `--check FILE` compares it instead, and gives 1 if the file is stale."""
    if arguments[:1] == ["--check"] and len(arguments) == 2:
        path = Path(arguments[1])
        if not path.is_file() or path.read_text(encoding="utf-8") != page:
            sys.stderr.write(f"{path} is stale: run `make docs`\n")
            return 1
        return 0
    sys.stdout.write(page)
    return 0
