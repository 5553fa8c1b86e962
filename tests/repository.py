"""The files of this repository, for tests about the repository itself."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "operator" / "enrollgate"


def tracked_files() -> list[Path]:
    """Return the files that git tracks; in an unpacked archive, all but the virtual environment."""
    done = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return [
            path for path in REPOSITORY.rglob("*") if path.is_file() and ".venv" not in path.parts
        ]
    return [REPOSITORY / name for name in done.stdout.splitlines() if (REPOSITORY / name).is_file()]
