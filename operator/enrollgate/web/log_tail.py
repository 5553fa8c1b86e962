"""The end of a local run's log, if this process can read it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from enrollgate.common.redaction import redact
from enrollgate.launchers.local.run_directory import (
    RunDirectory,
    finished_folder,
    is_run_name,
    runs_folder,
)

# Bytes of the log's end that are read, and lines of it that are shown.
_TAIL_BYTES = 32 * 1024
_TAIL_LINES = 100


@dataclass(frozen=True, slots=True)
class LogTail:
    """The last lines of a log; or why there are none, and where to look instead."""

    lines: list[str]
    why_not: str = ""


def read_tail(work_dir: Path, name: str) -> LogTail:
    """Return the last lines of a local run's log, without secrets."""
    folders = runs_folder(work_dir), finished_folder(work_dir)
    for folder in folders if is_run_name(name) else ():
        path = RunDirectory(folder / name).log
        try:
            # Opening a pipe must not wait for its writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError as error:
            return LogTail([], f"{path}: {error.strerror}: run the page as the operator's user")
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                continue
            start = max(0, found.st_size - _TAIL_BYTES)
            file.seek(start)
            text = file.read(_TAIL_BYTES).decode(errors="replace")
        lines = text.splitlines()
        # The first line of a part is cut.
        lines = lines[1:] if start else lines
        return LogTail([redact(line) for line in lines[-_TAIL_LINES:]])
    return LogTail([], "The log is not on this machine, or was deleted after ENROLLGATE_RUN_TTL.")
