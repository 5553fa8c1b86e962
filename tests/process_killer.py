"""Kill a process at a chosen point: after a number of bytes, or at a hook of the Drive emulator."""

import subprocess
import threading

from tests.drive_emulator import DriveEmulator


class ProcessKiller:
    """Kills one process at a time.

    The server calls `count` with the number of bytes that it sends or receives.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: int | None = None
        self._reached = threading.Event()

    def count(self, size: int) -> None:
        with self._lock:
            if self._left is not None:
                self._left -= size
                if self._left <= 0:
                    self._left = None
                    self._reached.set()

    def kill_after(self, size: int, process: subprocess.Popen[bytes]) -> int:
        """Kill the process once `size` bytes have been counted, and return its exit code."""
        self._reached.clear()
        with self._lock:
            self._left = size
        while process.poll() is None:
            if self._reached.wait(0.01):
                process.kill()
                break
        return process.wait()

    def kill_at(self, drive: DriveEmulator, hook: str, process: subprocess.Popen[bytes]) -> int:
        """Kill the process when the emulator next calls `hook`, and return its exit code."""
        setattr(drive, hook, process.kill)
        code = process.wait()
        setattr(drive, hook, lambda: None)
        return code
