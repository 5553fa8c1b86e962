"""A web server as a process, for as long as a block runs."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.databases.server import die_with_parent

_START_TIMEOUT = 30.0


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[None]:
    """Run the server for this block, once it has written `<its name>.pid` into the folder.

    What it prints is in `server.out` there, beside its own `error.log`.
    """
    name, output = command[0], folder / "server.out"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- no thread of the tests holds a lock here
        )
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while not (folder / f"{name}.pid").exists():
            logs = [each for each in (output, folder / "error.log") if each.exists()]
            assert process.poll() is None, "".join(each.read_text() for each in logs)
            assert time.monotonic() < deadline, f"{name} does not start"
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()
