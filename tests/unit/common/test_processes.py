"""Processes are found, compared and signalled correctly; psutil is the second opinion."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from enrollgate.common import processes

SLEEP = "import time; time.sleep(120)"


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True) as child:
        yield child
        child.kill()


def found(child: "subprocess.Popen[bytes]") -> processes.Process:
    process = processes.find(child.pid)
    assert process is not None
    return process


def test_find_returns_parent_and_session(sleeper: "subprocess.Popen[bytes]") -> None:
    process = found(sleeper)
    assert (process.pid, process.parent, process.session) == (
        sleeper.pid,
        os.getpid(),
        sleeper.pid,
    )
    assert processes.is_alive(process.pid, process.started)
    assert process in list(processes.iter_processes())


def test_find_agrees_with_psutil(sleeper: "subprocess.Popen[bytes]") -> None:
    process, other = found(sleeper), psutil.Process(sleeper.pid)
    assert (process.pid, process.parent) == (other.pid, other.ppid())
    assert process.session == os.getsid(other.pid)
    ticks = int(process.started.rpartition(":")[2])
    started = ticks / os.sysconf("SC_CLK_TCK") + psutil.boot_time()
    assert started == pytest.approx(other.create_time(), abs=0.1)
    listed = {each.pid for each in processes.iter_processes()}
    assert {os.getpid(), os.getppid(), sleeper.pid} <= listed & set(psutil.pids())


def test_mentions_path_finds_arguments(sleeper: "subprocess.Popen[bytes]") -> None:
    assert sys.executable in psutil.Process(sleeper.pid).cmdline()
    assert processes.mentions_path(found(sleeper), Path(sys.executable))
    assert not processes.mentions_path(found(sleeper), Path("/nowhere/at/all"))


def test_find_dead_process_before_it_is_reaped_returns_none(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    process = found(sleeper)
    assert processes.send_signal(process, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert processes.find(sleeper.pid) is None
    assert psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE
    assert not processes.send_signal(process, signal.SIGKILL)


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_send_signal_to_a_reused_pid_sends_nothing(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch, has_pidfd: bool
) -> None:
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    process = found(sleeper)
    earlier = processes.Process(process.pid, process.started + "0", process.parent, process.session)
    assert not processes.send_signal(earlier, signal.SIGKILL)
    assert sleeper.poll() is None


def test_send_signal_without_a_pidfd_still_reaches_the_process(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    assert processes.send_signal(found(sleeper), signal.SIGKILL)
    assert sleeper.wait(timeout=60) == -signal.SIGKILL


def test_kill_orphans_when_another_process_has_the_pid_kills_nothing(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    """The pid of the dead supervisor belongs to a process that leads a session of its own."""
    earlier = found(sleeper).started + "0"
    assert processes.kill_orphans(sleeper.pid, earlier, Path(sys.executable))
    assert sleeper.poll() is None


def test_kill_orphans_when_the_leader_lives_kills_nothing(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    started = found(sleeper).started
    assert not processes.kill_orphans(sleeper.pid, started, Path(sys.executable))
    assert sleeper.poll() is None


def test_kill_orphans_of_another_boot_kills_nothing(sleeper: "subprocess.Popen[bytes]") -> None:
    assert processes.kill_orphans(sleeper.pid, "another-boot:1", Path(sys.executable))
    assert sleeper.poll() is None
