"""The log of a local run, while it grows and afterwards."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from enrollgate.launchers.local.run_directory import (
    RunDirectory,
    finished_folder,
    is_run_name,
    runs_folder,
)

# Seconds between two looks at a log that is followed.
_POLL = 0.5
# Bytes that are read at once, and of a line without an end.
_CHUNK = 2**16


def find_log(work_dir: Path, name: str) -> Path | None:
    """Return the log of a run that is live, or finished and not yet deleted; else None."""
    folders = runs_folder(work_dir), finished_folder(work_dir)
    for path in (RunDirectory(folder / name).log for folder in folders if is_run_name(name)):
        if path.is_file() and not path.is_symlink():
            return path
    return None


def read_log(path: Path, *, follow: bool, sleep: Callable[[float], object]) -> Iterator[str]:
    """Yield the lines of a log. With `follow`, wait for more while the run is live.

    The file stays open, so it does not matter that the folder moves when the run has ended. Raises
    OSError.
    """
    run, left = RunDirectory(path.parent), b""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        while True:
            # Asked before the read: what was written until the end is then read, too.
            is_live = follow and run.is_live()
            while part := file.read(_CHUNK):
                *lines, left = (left + part).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
                if len(left) > _CHUNK:
                    yield left.decode(errors="replace")
                    left = b""
            if not is_live:
                break
            sleep(_POLL)
    if left:
        yield left.decode(errors="replace")
