"""`enrollgate logs`: of live, finished and deleted local runs, and what it says without a log."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from tests.world import World

from enrollgate.domain.run import RunPlace


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "enrollgate", "logs", *arguments]


def environment(url: str, work_dir: Path) -> Mapping[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "ENROLLGATE_DATABASE_URL": url,
        "ENROLLGATE_INSTALLATION": "test",
        "ENROLLGATE_WORK_DIR": str(work_dir),
        "KUBECONFIG": "/nowhere/kubeconfig",
    }


def show(url: str, work_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=environment(url, work_dir),
        capture_output=True,
        text=True,
        check=False,
    )


def launch(url: str, place: RunPlace) -> None:
    """Launch a run of task 1, twice in a row."""
    with closing(World(url)) as world:
        world.launcher.place = place
        task = world.add("enrolled")
        world.reconcile()
        world.launcher.fail("test-1-1")
        world.reconcile()
        world.set(task, "enrolled")
        world.reconcile()


@pytest.fixture
def work_dir(sqlite_url: str, tmp_path: Path) -> Path:
    """Give the folder of the two runs of task 1: the first has ended, the second is live."""
    folder = tmp_path / "work"
    launch(sqlite_url, RunPlace("local", "p", socket.gethostname(), "m", str(folder), "b"))
    for kind, name in (("finished", "test-1-1"), ("runs", "test-1-2")):
        (folder / kind / name).mkdir(parents=True)
        (folder / kind / name / "lock").touch()
    (folder / "finished" / "test-1-1" / "log").write_text("[ATTEMPT 1/3]\nfirst\x1b[31m run\n")
    (folder / "runs" / "test-1-2" / "log").write_text("second run\n")
    return folder


def test_log_of_the_last_run_or_of_a_numbered_one_is_shown(sqlite_url: str, work_dir: Path) -> None:
    assert show(sqlite_url, work_dir, "1").stdout == "second run\n"
    first = show(sqlite_url, work_dir, "1", "--run", "1")
    assert first.stdout == "[ATTEMPT 1/3]\nfirst [31m run\n", first
    # The recorded folder counts, not that of whoever asks.
    assert show(sqlite_url, work_dir / "other", "test-1-1").stdout == first.stdout


def test_log_that_is_followed_ends_with_its_run(sqlite_url: str, work_dir: Path) -> None:
    run = work_dir / "runs" / "test-1-2"
    with (run / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        follower = subprocess.Popen(
            command("1", "--follow"),
            env=environment(sqlite_url, work_dir),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        with follower, (run / "log").open("a") as log:
            assert follower.stdout is not None
            assert follower.stdout.readline() == "second run\n"
            log.write("half a")
            log.flush()
            log.write(" line\n")
            log.flush()
            assert follower.stdout.readline() == "half a line\n"
            log.write("the last line, without an end")
            log.flush()
            run.rename(work_dir / "finished" / "test-1-2")
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert follower.stdout.read() == "the last line, without an end\n"
            assert follower.wait() == 0


def test_log_that_is_gone_says_what_is_known_and_why(sqlite_url: str, work_dir: Path) -> None:
    (work_dir / "finished" / "test-1-1" / "log").unlink()
    done = show(sqlite_url, work_dir, "1", "--run", "1")
    assert done.returncode == 1 and not done.stdout
    for words in ("ENROLLGATE_RUN_TTL", "AccessDenied: the site said no"):
        assert words in " ".join(done.stderr.split()), done


def test_log_of_another_machine_names_the_machine(sqlite_url: str, tmp_path: Path) -> None:
    launch(sqlite_url, RunPlace("local", "p", "other-host", "m", "/var/lib/enrollgate", "b"))
    done = show(sqlite_url, tmp_path, "1")
    assert done.returncode == 1
    assert "/var/lib/enrollgate on host other-host, which is not this machine" in done.stderr


def test_log_of_a_job_without_a_cluster_says_what_to_set(sqlite_url: str, tmp_path: Path) -> None:
    launch(sqlite_url, RunPlace("kubernetes", "courses"))
    done = show(sqlite_url, tmp_path, "1")
    text = " ".join(done.stderr.split())
    assert done.returncode == 1 and "set KUBECONFIG" in text and "pods named test-1-2-*" in text


def test_log_of_a_task_without_a_run_says_where_to_look(sqlite_url: str, tmp_path: Path) -> None:
    with closing(World(sqlite_url)) as world:
        world.add("processing")
        world.reconcile()
        late = show(sqlite_url, tmp_path, "1")
        world.clock.advance(300)
        world.reconcile()
    assert late.returncode == 1 and "`enrollgate explain 1` says why" in late.stderr
    never = show(sqlite_url, tmp_path, "1")
    assert never.returncode == 1 and "never launched" in never.stderr
    assert "EnrollmentTimeout" in never.stderr
    huge = show(sqlite_url, tmp_path, str(2**64))
    assert huge.returncode == 1 and f"task {2**64} has no run" in huge.stderr, huge
