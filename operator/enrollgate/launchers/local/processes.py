"""Processes, told pinned_cpus even when a pid is used again: who they are, who belongs together, how to end them.

A pid alone may name another process a moment later. A `Process` is a pid with the instant it started (in ticks since boot,
and which boot), and nothing here signals a process without having compared both. On Linux a pidfd closes the last gap
between comparing and signalling. Linux is read through /proc with the standard library alone, since a supervisor lives as
long as its run and should stay small; elsewhere psutil is asked.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_LINUX = sys.platform == "linux"
_KILL_ROUNDS = 80
_KILL_PAUSE = 0.025


@dataclass(frozen=True, slots=True)
class Process:
    """One living process."""

    pid: int
    started: str
    """When it started, as text that no other process with this pid shares."""
    parent: int
    session: int


def find(pid: int) -> Process | None:
    """The process that has this pid now; None if there is none, or only a zombie."""
    return _find_in_proc(pid) if _LINUX else _find_by_psutil(pid)


def is_alive(pid: int, started: str) -> bool:
    """Whether the pid still belongs to the process that started then."""
    process = find(pid)
    return process is not None and process.started == started


def iter_processes() -> Iterator[Process]:
    """All living processes that can be seen."""
    for pid in _pids():
        process = find(pid)
        if process is not None:
            yield process


def session_of(leader: int) -> list[Process]:
    """The members of a session, without its leader."""
    return [
        process
        for process in iter_processes()
        if process.session == leader and process.pid != leader
    ]


def descendants(leader: int) -> list[Process]:
    """The leader's session and all its descendants, those that left the session too; without the leader."""
    rest = {process.pid: process for process in iter_processes() if process.pid != leader}
    family = {pid for pid, process in rest.items() if process.session == leader}
    found = True
    while found:
        more = {
            pid
            for pid, process in rest.items()
            if process.parent in family or process.parent == leader
        } - family
        family |= more
        found = bool(more)
    return [rest[pid] for pid in family]


def names_path(process: Process, path: Path) -> bool:
    """Whether the process bears the path in its environment, its arguments or its working directory."""
    if not _LINUX:
        return _names_path_by_psutil(process, path)
    wanted = os.fsencode(path)
    folder = _PROC / str(process.pid)
    for name in ("environ", "cmdline"):
        try:
            if wanted in (folder / name).read_bytes():
                return True
        except OSError:
            continue
    try:
        return (folder / "cwd").readlink().is_relative_to(path)
    except OSError:
        return False


def send(process: Process, number: signal.Signals) -> bool:
    """Signals exactly this process. False if it is gone, or not ours to signal; a newcomer with its pid gets nothing."""
    try:
        descriptor = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        return False
    except OSError:  # a kernel or a sandbox without pidfds
        descriptor = None
    try:
        if not is_alive(process.pid, process.started):
            return False
        if descriptor is not None and hasattr(signal, "pidfd_send_signal"):
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def kill_all(members: Iterable[Process]) -> bool:
    """Sends SIGKILL to all of them. True if there was none left to send it to."""
    hit = [send(member, signal.SIGKILL) for member in members]
    return not any(hit)


def kill_descendants(leader: int) -> bool:
    """Kills the leader's family and waits until it is gone. False if some of it has not died within about two seconds
    (stuck in the kernel, on a dead network disk perhaps).
    """
    for _ in range(_KILL_ROUNDS):
        if kill_all(descendants(leader)):
            return True
        time.sleep(_KILL_PAUSE)
    return False


def kill_orphans(leader: int, started: str, path: Path) -> bool:
    """Kills what is left of a dead leader's session and bears the path; waits as `kill_descendants` does.

    Nothing is killed if the leader lives (then the answer is False), if its pid has gone to another process, or if the
    machine was started anew: the kernel gives a pid away only after the last member of the session of that number is gone.
    """
    if started.split(":", 1)[0] != _boot():
        return True
    for _ in range(_KILL_ROUNDS):
        current = find(leader)
        if current is not None:
            return current.started != started
        if kill_all([member for member in session_of(leader) if names_path(member, path)]):
            return True
        time.sleep(_KILL_PAUSE)
    return False


def _pids() -> Iterator[int]:
    if not _LINUX:
        import psutil

        yield from psutil.pids()
        return
    for name in os.listdir(_PROC):  # noqa: PTH208 (names are all that is needed, hundreds of them)
        if name.isdigit():
            yield int(name)


@cache
def _boot() -> str:
    """Which start of the machine this is."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _find_in_proc(pid: int) -> Process | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # proc(5): "pid (comm) state ppid pgrp session ... starttime(22nd) ..."; comm may hold anything, ")" too
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in b"ZX":
        return None
    return Process(pid, f"{_boot()}:{int(fields[19])}", int(fields[1]), int(fields[3]))


def _find_by_psutil(pid: int) -> Process | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Process(
            pid, f"{_boot()}:{process.create_time():.2f}", process.ppid(), os.getsid(pid)
        )
    except (psutil.Error, OSError):
        return None


def _names_path_by_psutil(process: Process, path: Path) -> bool:
    import psutil

    try:
        seen = psutil.Process(process.pid)
        words = [*seen.environ().values(), *seen.cmdline(), seen.cwd()]
    except (psutil.Error, OSError):
        return False
    return any(str(path) in word for word in words)
