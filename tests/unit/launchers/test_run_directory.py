import fcntl
import os
from pathlib import Path

import pytest

from enrollgate.common.backoff import Backoff
from enrollgate.domain.order import RunOrder
from enrollgate.launchers.local.processes import Process
from enrollgate.launchers.local.run_directory import (
    RunDirectory,
    RunSpec,
    is_run_name,
    read_progress,
)

SPEC = RunSpec(
    RunOrder("enrollgate-1-1", 1, 1, "https://courses.example/1", "cookies.txt"),
    ("python3", "-c", "x"),
    3,
    60,
    5,
    Backoff(),
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    path = tmp_path / "runs" / "enrollgate-1-1"
    path.mkdir(parents=True)
    return RunDirectory(path)


@pytest.mark.parametrize("name", ["enrollgate-1-1", "a", "0", "a" * 63])
def test_these_are_names_of_runs(name: str) -> None:
    assert is_run_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "A", "a_b", "a\n", "a" * 64, "a\0", "é"]
)
def test_these_are_not(name: str) -> None:
    assert not is_run_name(name)


def test_a_spec_survives_being_written_and_read() -> None:
    assert RunSpec.decode(SPEC.encode()) == SPEC


@pytest.mark.parametrize("damage", ["", "null", "[]", "{}", '{"order": 1}', SPEC.encode()[:-20]])
def test_a_damaged_spec_is_refused(damage: str) -> None:
    with pytest.raises(ValueError, match="not a run's spec"):
        RunSpec.decode(damage)


def test_the_lock_is_held_until_its_descriptor_is_closed(run: RunDirectory) -> None:
    assert not run.is_live()
    lock = run.acquire()
    assert lock is not None
    assert run.is_live()
    assert run.acquire() is None
    os.close(lock)
    assert not run.is_live()


def test_looking_at_a_lock_does_not_keep_another_from_taking_it(run: RunDirectory) -> None:
    run.lock.touch()
    observer = os.open(run.lock, os.O_RDWR)
    fcntl.flock(observer, fcntl.LOCK_SH)
    assert not run.is_live()
    os.close(observer)
    lock = run.acquire()
    assert lock is not None
    os.close(lock)


def test_the_lock_of_a_directory_that_was_moved_away_is_not_taken(run: RunDirectory) -> None:
    run.path.rename(run.path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        run.acquire()


def test_the_supervisors_identity_is_read_back(run: RunDirectory) -> None:
    assert run.read_supervisor() is None
    run.write_supervisor(Process(7, "boot:123", 1, 7))
    assert run.read_supervisor() == (7, "boot:123")
    for damage in ("", "7", '{"pid": "7", "started": "x"}', '{"pid": 7}'):
        run.process.write_text(damage)
        assert run.read_supervisor() is None


def test_progress_is_whatever_object_the_worker_wrote_last(
    run: RunDirectory, tmp_path: Path
) -> None:
    assert read_progress(tmp_path, run.name) is None
    run.progress.write_text('{"items_done": 3}')
    assert read_progress(tmp_path, run.name) == {"items_done": 3}
    run.progress.write_text('{"items_done": ')
    assert read_progress(tmp_path, run.name) is None
    assert read_progress(tmp_path, "../runs/" + run.name) is None


def test_what_is_no_file_counts_as_absent(run: RunDirectory) -> None:
    run.result.mkdir()
    assert run.read_result() is None
    run.process.symlink_to(run.process)
    assert run.read_supervisor() is None
