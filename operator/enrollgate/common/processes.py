"""Find, compare and kill Linux processes, safely even when a pid is used again.

In comes a pid, or a pid with the start time that another process wrote down. Out come `Process`
values and signals.

A pid alone may name another process a moment later. So a `Process` is a pid with its start time,
and nothing here signals a process before it has compared both. A pidfd closes the last gap between
comparing and signalling.

This reads /proc directly, not through psutil. psutil gives the start as a time of day, which moves
when the clock is set, but a start time is written to a file here and compared much later by
another process. psutil also reads /proc/stat for each start time, and it makes each supervisor
larger. Start times here are clock ticks since boot, with the id of that boot.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
# The fields of /proc/PID/status and smaps_rollup that are memory, not mapped files, in kB. The
# second ones divide what processes share among them.
_HELD = re.compile(rb"^(?:RssAnon|RssShmem|VmSwap):\s*(\d+)", re.MULTILINE)
_HELD_ALONE = re.compile(rb"^(?:Pss_Anon|Pss_Shmem|SwapPss):\s*(\d+)", re.MULTILINE)
# Up to 80 rounds with pauses of 0.025 s: about two seconds.
_KILL_ROUNDS = 80
_KILL_PAUSE = 0.025


@dataclass(frozen=True, slots=True)
class Process:
    """One living process. `started` is text that no other process with the same pid shares."""

    pid: int
    started: str
    parent: int
    session: int


def is_supported() -> bool:
    """Return whether this system has the /proc of Linux."""
    return (_PROC / "self" / "stat").exists()


def find(pid: int) -> Process | None:
    """Return the process that has this pid now; None if there is none, or only a zombie."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # proc(5): "pid (comm) state ppid pgrp session ... starttime(22nd) ...". comm may contain ")".
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in b"ZX":
        return None
    return Process(pid, f"{boot_id()}:{int(fields[19])}", int(fields[1]), int(fields[3]))


def is_alive(pid: int, started: str) -> bool:
    """Return whether the pid still belongs to the process with this start time."""
    process = find(pid)
    return process is not None and process.started == started


def iter_processes() -> Iterator[Process]:
    """Yield all living processes that this user can see."""
    for name in os.listdir(_PROC):  # noqa: PTH208 -- faster for hundreds of names
        process = find(int(name)) if name.isdigit() else None
        if process is not None:
            yield process


def session_members(leader: int) -> list[Process]:
    """Return the members of a session, without its leader."""
    return [
        process
        for process in iter_processes()
        if process.session == leader and process.pid != leader
    ]


def descendants(leader: int) -> list[Process]:
    """Return the rest of the leader's session, and its descendants in any session."""
    others = {process.pid: process for process in iter_processes() if process.pid != leader}
    found = {pid for pid, process in others.items() if process.session == leader}
    while True:
        children = {
            pid
            for pid, process in others.items()
            if process.parent == leader or process.parent in found
        } - found
        if not children:
            return [others[pid] for pid in found]
        found |= children


def descendant_memory(leader: int, limit: int) -> int:
    """Return the bytes of memory, swap included, that the leader's descendants take together.

    Files that are mapped do not count. Above `limit`, memory that they share is counted once; that
    takes longer to find out.
    """
    parents, pids = [leader], set[int]()
    while parents:
        for task in (_PROC / str(parents.pop())).glob("task/*/children"):
            with contextlib.suppress(OSError):
                children = {int(pid) for pid in task.read_bytes().split()} - pids
                parents += children
                pids |= children
    held = sum(_kilobytes(pid, "status", _HELD) for pid in pids) * 1024
    if held <= limit:
        return held
    return min(held, sum(_kilobytes(pid, "smaps_rollup", _HELD_ALONE) for pid in pids) * 1024)


def _kilobytes(pid: int, name: str, fields: re.Pattern[bytes]) -> int:
    """Return the sum of these fields of a file of the process (proc(5)); 0 if it is gone."""
    try:
        return sum(map(int, fields.findall((_PROC / str(pid) / name).read_bytes())))
    except OSError:
        return 0


def command_name(process: Process) -> str:
    """Return the name of the process's program, at most 15 bytes (proc(5)); empty if it is gone."""
    try:
        return (_PROC / str(process.pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def mentions_path(process: Process, path: Path) -> bool:
    """Return whether the process's environment, arguments or working directory name the path, or a
    path below it.
    """
    wanted = re.compile(re.escape(os.fsencode(path)) + rb"[/\0]")
    folder = _PROC / str(process.pid)
    for name in ("environ", "cmdline"):
        try:
            if wanted.search((folder / name).read_bytes()):
                return True
        except OSError:
            continue
    try:
        return (folder / "cwd").readlink().is_relative_to(path)
    except OSError:
        return False


def open_pidfd(process: Process) -> int | None:
    """Open a descriptor that becomes readable when exactly this process ends.

    Returns None if the process has ended, or if no descriptor can be opened (old kernel, sandbox,
    open files limit).
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return None
    if is_alive(process.pid, process.started):
        return descriptor
    os.close(descriptor)
    return None


def send_signal(process: Process, number: signal.Signals) -> bool:
    """Signal exactly this process, never another one that got its pid.

    Returns False if the process has ended, or if this user may not signal it.
    """
    descriptor = open_pidfd(process)
    try:
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)
        elif is_alive(process.pid, process.started):
            os.kill(process.pid, number)
        else:
            return False
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def kill_descendants(leader: int) -> bool:
    """Kill the leader's descendants and wait until they are gone.

    Returns False if some are still alive after about two seconds, for example stuck on a dead
    network disk.
    """
    return _kill_until_gone(lambda: descendants(leader))


def kill_orphans(leader: int, started: str, path: Path) -> bool:
    """Kill what is left of a dead leader's session and mentions the path. Wait as
    `kill_descendants` does.

    Nothing is killed if the machine was restarted since, or if another process has the leader's
    pid now: the kernel reuses a pid only when the session of that number is empty. Returns False
    if the leader is alive.
    """
    if started.split(":", 1)[0] != boot_id():
        return True

    def orphans() -> list[Process]:
        if find(leader) is not None:
            return []
        return [member for member in session_members(leader) if mentions_path(member, path)]

    return not is_alive(leader, started) and _kill_until_gone(orphans)


def _kill_until_gone(find_members: Callable[[], list[Process]]) -> bool:
    """Send SIGKILL to whatever is found until nothing is. Returns False if the rounds are used up
    first.
    """
    for _ in range(_KILL_ROUNDS):
        was_sent = [send_signal(member, signal.SIGKILL) for member in find_members()]
        if not any(was_sent):
            return True
        time.sleep(_KILL_PAUSE)
    return False


@cache
def boot_id() -> str:
    """Return the id of this start of the machine, the same in all its containers (random(4))."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
