"""Notice at once that a process has ended, whether this operator or an earlier one started it.

In come pids of runs, out goes a call of `on_exit` with the run's name, from a thread. Each process
is watched through a pidfd; without one it is looked at every second, as when descriptors run short.
A supervisor's parent is init. In a container that is this operator itself: then it reaps the
process, so that no zombie stays.
"""

import contextlib
import os
import resource
import selectors
import threading
from collections.abc import Callable
from dataclasses import dataclass

from enrollgate.common.processes import Process, find, is_alive, open_pidfd

# Seconds between two looks at processes without a pidfd.
_POLL_INTERVAL = 1.0
# Descriptors that are left to everything else: the database, files, the pipes of a launch.
_RESERVE = 32


@dataclass(frozen=True, slots=True)
class _Watched:
    """The name of a process's run, and its pidfd; None if the process has to be polled."""

    name: str
    pidfd: int | None


class Watcher:
    """Calls `on_exit` from its own thread after a watched process has ended, with the name of its
    run. Thread-safe.
    """

    def __init__(self, on_exit: Callable[[str], None]) -> None:
        self._on_exit = on_exit
        self._guard = threading.Lock()
        self._watched = dict[Process, _Watched]()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)

    def watch(self, name: str, pid: int, started: str | None = None) -> bool:
        """Watch this run's process with this pid and start time. Returns False if it has ended.

        Omit `started` only for a process that has just been started: nothing else has its pid yet.
        """
        process = find(pid)
        if process is None or started not in (None, process.started):
            _reap(pid)
            return False
        with self._guard:
            if self._closed or process in self._watched:
                return True
            descriptor, (limit, _) = open_pidfd(process), resource.getrlimit(resource.RLIMIT_NOFILE)
            is_short = limit != resource.RLIM_INFINITY and (descriptor or 0) >= limit - _RESERVE
            if descriptor is not None and is_short:  # the lowest free number was given
                os.close(descriptor)
                descriptor = None
            self._watched[process] = _Watched(name, descriptor)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="run-watcher", daemon=True)
                self._thread.start()
        self._wake()
        return True

    def watches(self, pid: int, started: str) -> bool:
        """Return whether this process is watched."""
        with self._guard:
            return any((each.pid, each.started) == (pid, started) for each in self._watched)

    def close(self) -> None:
        """End the thread. The watched processes live on. Do not call this from `on_exit`."""
        with self._guard:
            self._closed = True
            thread = self._thread
        self._wake()
        if thread is not None:
            thread.join()
        with self._guard:
            for each in self._watched.values():
                if each.pidfd is not None:
                    os.close(each.pidfd)
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
                for process in self._wait_for_exits(selector):
                    _reap(process.pid)
                    with self._guard:
                        ended = self._watched.pop(process)
                    if ended.pidfd is not None:
                        selector.unregister(ended.pidfd)
                        os.close(ended.pidfd)
                    if not self._closed:
                        self._on_exit(ended.name)

    def _wait_for_exits(self, selector: selectors.BaseSelector) -> list[Process]:
        """Wait for exits, a wake-up or the poll interval. Returns the processes that have ended."""
        with self._guard:
            watched = {process: each.pidfd for process, each in self._watched.items()}
        for descriptor in watched.values():
            if descriptor is not None and descriptor not in selector.get_map():
                selector.register(descriptor, selectors.EVENT_READ)
        events = selector.select(_POLL_INTERVAL if None in watched.values() else None)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 512):
                pass
        readable = {key.fd for key, _ in events}
        return [
            process
            for process, descriptor in watched.items()
            if (
                descriptor in readable
                if descriptor is not None
                else not is_alive(process.pid, process.started)
            )
        ]


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # init reaps it
        os.waitpid(pid, os.WNOHANG)
