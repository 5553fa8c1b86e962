"""A program on a pseudo terminal, to see what a person would see."""

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
# Seconds to wait for what must appear.
_TIMEOUT = 120.0


class Terminal:
    """Run a command with the terminal as its three streams, 60 rows of 160 columns."""

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
        with contextlib.suppress(OSError):  # EIO: the program has closed its end
            while chunk := os.read(self._master, 65536):
                self._raw += chunk

    @property
    def raw(self) -> str:
        """Return everything that the program wrote."""
        return self._raw.decode(errors="replace")

    @property
    def text(self) -> str:
        """Return the same without colours and cursor movements."""
        return _ESCAPES.sub("", self.raw)

    def await_text(self, expected: str) -> None:
        """Wait until the terminal has shown the text. Raises AssertionError if it never does."""
        deadline = time.monotonic() + _TIMEOUT
        while expected not in self.text:
            if time.monotonic() > deadline or (
                self.process.poll() is not None and not self._reader.is_alive()
            ):
                raise AssertionError(f"{expected!r} was not shown: {self.text[-5000:]}")
            time.sleep(0.02)

    def wait(self) -> int:
        """Wait until the program has ended and all its output is read; return the exit code."""
        code = self.process.wait(timeout=_TIMEOUT)
        self._reader.join(timeout=_TIMEOUT)
        return code
