"""A real pseudo terminal with a program on it: what it shows is what a person would see."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Self

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
_PATIENCE = 120.0
"""Seconds to wait for what must appear."""


class Terminal:
    """Runs a command with the terminal as its three streams, 60 rows of 160 columns."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 160, 0, 0))
        plain = {
            name: value
            for name, value in environment.items()
            if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=plain | {"TERM": "xterm"},
            start_new_session=True,
        )
        os.close(slave)
        self._raw = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        os.close(self._master)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
            while chunk := os.read(self._master, 65536):
                self._raw += chunk

    @property
    def raw(self) -> str:
        """Everything that the program ever wrote."""
        return self._raw.decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without colours and cursor movements."""
        return _ESCAPES.sub("", self.raw)

    def await_text(self, words: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while words not in self.text:
            if time.monotonic() > deadline or (
                self.process.poll() is not None and not self._reader.is_alive()
            ):
                raise AssertionError(f"{words!r} was not shown: {self.text[-5000:]}")
            time.sleep(0.02)

    def wait(self) -> int:
        """The exit code, once all that was shown is read."""
        code = self.process.wait(timeout=_PATIENCE)
        self._reader.join(timeout=_PATIENCE)
        return code
