"""Notices at once that a process has ended, whether we started it or an earlier operator did.

On Linux each process is watched through a pidfd; where there is none, it is looked at every second. Processes that are
children of ours are reaped when they end, so that none stays a zombie.
"""

import contextlib
import os
import selectors
import threading
from collections.abc import Callable

from enrollgate.launchers.local.processes import Process, find, is_alive

_POLL_INTERVAL = 1.0


class Watcher:
    """Calls `on_exit`, from a thread of its own, after watched processes have ended. Thread-safe."""

    def __init__(self, on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._guard = threading.Lock()
        self._watched = dict[Process, int | None]()
        """The process's pidfd, None if it has to be looked at."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)

    def watch(self, pid: int, started: str | None = None) -> bool:
        """Watches the process that has this pid and started then. False if it has ended.

        Without `started` it is whoever has the pid: right for a child that was not reaped yet.
        """
        process = find(pid)
        if process is None or started not in (None, process.started):
            _reap(pid)
            return False
        with self._guard:
            if self._closed or process in self._watched:
                return True
            self._watched[process] = _open_pidfd(process)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="run-watcher", daemon=True)
                self._thread.start()
        self._wake()
        return True

    def watches(self, pid: int, started: str) -> bool:
        """Whether that process is being watched."""
        with self._guard:
            return any(
                process.pid == pid and process.started == started for process in self._watched
            )

    def close(self) -> None:
        """Ends the thread and lets go of the processes, which live on. Not to be called from `on_exit`."""
        with self._guard:
            self._closed = True
            thread = self._thread
        self._wake()
        if thread is not None:
            thread.join()
        with self._guard:
            for descriptor in self._watched.values():
                if descriptor is not None:
                    os.close(descriptor)
            self._watched.clear()
            for end in (self._wake_read, self._wake_write):
                with contextlib.suppress(OSError):
                    os.close(end)
            self._wake_read = self._wake_write = -1

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._closed:
                with self._guard:
                    watched = dict(self._watched)
                _register(selector, watched)
                events = selector.select(_POLL_INTERVAL if None in watched.values() else None)
                self._drain()
                signalled = {key.fd for key, _ in events}
                ended = [
                    process for process, fd in watched.items() if _has_ended(process, fd, signalled)
                ]
                for process in ended:
                    self._forget(process, selector)
                if ended and not self._closed:
                    self._on_exit()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 512):
                pass

    def _forget(self, process: Process, selector: selectors.BaseSelector) -> None:
        _reap(process.pid)
        with self._guard:
            descriptor = self._watched.pop(process)
        if descriptor is not None:
            selector.unregister(descriptor)
            os.close(descriptor)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # not a child of this operator
        os.waitpid(pid, os.WNOHANG)


def _register(selector: selectors.BaseSelector, watched: dict[Process, int | None]) -> None:
    known = selector.get_map()
    for descriptor in watched.values():
        if descriptor is not None and descriptor not in known:
            selector.register(descriptor, selectors.EVENT_READ)


def _has_ended(process: Process, descriptor: int | None, signalled: set[int]) -> bool:
    return (
        descriptor in signalled
        if descriptor is not None
        else not is_alive(process.pid, process.started)
    )


def _open_pidfd(process: Process) -> int | None:
    """A descriptor that becomes readable when exactly this process ends."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor = os.pidfd_open(process.pid)
    except (
        OSError
    ):  # gone meanwhile, no descriptors left, or a sandbox without pidfds: look at it instead
        return None
    if is_alive(process.pid, process.started):
        return descriptor
    os.close(descriptor)
    return None
