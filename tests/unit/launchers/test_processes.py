import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrollgate.launchers.local import processes

SLEEP = "import time; time.sleep(120)"


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True) as child:
        yield child
        child.kill()


def test_a_process_is_found_with_its_family_ties(sleeper: "subprocess.Popen[bytes]") -> None:
    found = processes.find(sleeper.pid)
    assert found is not None
    assert (found.pid, found.parent, found.session) == (sleeper.pid, os.getpid(), sleeper.pid)
    assert processes.is_alive(found.pid, found.started)
    assert found in list(processes.iter_processes())


def test_both_ways_of_looking_agree(sleeper: "subprocess.Popen[bytes]") -> None:
    by_proc, by_psutil = (
        processes._find_in_proc(sleeper.pid),
        processes._find_by_psutil(sleeper.pid),
    )
    assert by_proc is not None
    assert by_psutil is not None
    assert (by_proc.pid, by_proc.parent, by_proc.session) == (
        by_psutil.pid,
        by_psutil.parent,
        by_psutil.session,
    )
    executable = Path(sys.executable)
    assert processes.names_path(by_proc, executable)
    assert processes._names_path_by_psutil(by_proc, executable)
    assert not processes._names_path_by_psutil(by_proc, Path("/nowhere/at/all"))


def test_a_dead_process_is_not_found_even_before_it_is_reaped(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    found = processes.find(sleeper.pid)
    assert found is not None
    assert processes.send(found, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert processes.find(sleeper.pid) is None
    assert processes._find_by_psutil(sleeper.pid) is None
    assert not processes.send(found, signal.SIGKILL)


def test_a_recycled_pid_is_never_signalled(sleeper: "subprocess.Popen[bytes]") -> None:
    found = processes.find(sleeper.pid)
    assert found is not None
    earlier = processes.Process(found.pid, found.started + "0", found.parent, found.session)
    assert not processes.send(earlier, signal.SIGKILL)
    assert sleeper.poll() is None


def test_orphans_are_only_those_whose_leader_is_dead(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    """The pid of the dead supervisor has gone to a process that leads a session of its own."""
    found = processes.find(sleeper.pid)
    assert found is not None
    assert processes.kill_orphans(sleeper.pid, found.started + "0", Path(sys.executable))
    assert sleeper.poll() is None


def test_a_leader_that_lives_has_no_orphans(sleeper: "subprocess.Popen[bytes]") -> None:
    found = processes.find(sleeper.pid)
    assert found is not None
    assert not processes.kill_orphans(sleeper.pid, found.started, Path(sys.executable))
    assert sleeper.poll() is None


def test_orphans_of_another_boot_are_nobodys(sleeper: "subprocess.Popen[bytes]") -> None:
    assert processes.kill_orphans(sleeper.pid, "another-boot:1", Path(sys.executable))
    assert sleeper.poll() is None
