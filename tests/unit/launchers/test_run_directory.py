import fcntl
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from tests.odd_json import TEXTS, mutated

from enrollgate.common.backoff import Backoff
from enrollgate.common.processes import Process
from enrollgate.domain.order import RunOrder
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.report import REPORT_LIMIT, Report
from enrollgate.launchers.local.exit_result import RunResult
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

NOW = datetime(2026, 11, 28, tzinfo=UTC)
RESULT = RunResult(True, Report(None, "3 items"), 2, NOW, NOW)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    path = tmp_path / "runs" / "enrollgate-1-1"
    path.mkdir(parents=True)
    return RunDirectory(path)


@pytest.mark.parametrize("name", ["enrollgate-1-1", "a", "0", "a" * 63])
def test_is_run_name_valid_name_is_accepted(name: str) -> None:
    assert is_run_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "A", "a_b", "a\n", "a" * 64, "a\0", "é"]
)
def test_is_run_name_invalid_name_is_refused(name: str) -> None:
    assert not is_run_name(name)


def test_run_spec_round_trip_is_equal() -> None:
    assert RunSpec.decode(SPEC.encode()) == SPEC


@pytest.mark.parametrize("damage", ["", "null", "[]", "{}", '{"order": 1}', SPEC.encode()[:-20]])
def test_decode_damaged_spec_raises_value_error(damage: str) -> None:
    with pytest.raises(ValueError, match="not a run's spec"):
        RunSpec.decode(damage)


def test_lock_is_held_until_its_descriptor_is_closed(run: RunDirectory) -> None:
    assert not run.is_live()
    lock = run.acquire()
    assert lock is not None
    assert run.is_live()
    assert run.acquire() is None
    os.close(lock)
    assert not run.is_live()


def test_acquire_while_an_observer_looks_succeeds(run: RunDirectory) -> None:
    run.lock.touch()
    observer = os.open(run.lock, os.O_RDWR)
    fcntl.flock(observer, fcntl.LOCK_SH)
    assert not run.is_live()
    os.close(observer)
    lock = run.acquire()
    assert lock is not None
    os.close(lock)


def test_acquire_when_the_directory_was_moved_raises(run: RunDirectory) -> None:
    run.path.rename(run.path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        run.acquire()


def test_read_supervisor_returns_what_was_written(run: RunDirectory) -> None:
    assert run.read_supervisor() is None
    run.write_supervisor(Process(7, "boot:123", 1, 7))
    assert run.read_supervisor() == (7, "boot:123")
    for damage in ("", "7", '{"pid": "7", "started": "x"}', '{"pid": 7}'):
        run.supervisor.write_text(damage)
        assert run.read_supervisor() is None


def test_read_progress_returns_the_last_written_object(run: RunDirectory, tmp_path: Path) -> None:
    assert read_progress(tmp_path, run.name) is None
    run.progress.write_text('{"items_done": 3}')
    assert read_progress(tmp_path, run.name) == RunProgress(1, 1, items_done=3)
    run.progress.write_text('{"items_done": ')
    assert read_progress(tmp_path, run.name) is None
    assert read_progress(tmp_path, "../runs/" + run.name) is None


def test_entries_that_are_not_files_count_as_absent(run: RunDirectory) -> None:
    run.result.mkdir()
    assert run.read_result() is None
    run.supervisor.symlink_to(run.supervisor)
    assert run.read_supervisor() is None


@given(TEXTS | mutated(json.loads(SPEC.encode())).map(json.dumps))
def test_decode_any_spec_is_one_or_value_error(text: str) -> None:
    try:
        spec = RunSpec.decode(text)
    except ValueError:
        return
    assert isinstance(spec.max_attempts, int) and all(
        type(each) is str for each in spec.worker_argv
    )
    assert RunSpec.decode(spec.encode()) == spec


@given(TEXTS | mutated(json.loads(RESULT.encode())).map(json.dumps))
def test_decode_any_result_is_one_or_value_error(text: str) -> None:
    try:
        result = RunResult.decode(text)
    except ValueError:
        return
    assert len(result.report.encode()) <= REPORT_LIMIT and type(result.succeeded) is bool
    for instant in (result.started_at, result.finished_at):
        assert instant is None or 1970 <= instant.year < 9000


PROGRESS = RunProgress(1, 3, 3, None, 5, None, 7, None, "Lecture 1", "file:///x").to_dict()


@given(TEXTS | mutated(PROGRESS).map(json.dumps))
def test_read_any_progress_is_bounded_and_typed(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "runs" / "a-1-1")
        run.path.mkdir(parents=True)
        run.progress.write_bytes(text.encode("utf-8", "surrogatepass"))
        found = read_progress(Path(folder), "a-1-1")
    if found is not None:
        assert RunProgress.from_dict(found.to_dict()) == found
        assert all(len(str(value)) <= 500 for value in found.to_dict().values())


def test_read_progress_keeps_every_known_field(run: RunDirectory, tmp_path: Path) -> None:
    written = PROGRESS | {"current_item": "a\x1b \ud800", "new": [1], "updated_at": 1.5}
    run.progress.write_text(json.dumps(written))
    found = read_progress(tmp_path, run.name)
    assert found is not None and found.to_dict() == PROGRESS | {"current_item": "a  ?"}
