"""Real processes die, and so does the database: nothing is lost, nothing is done twice."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from examples.demo.site import CourseSite
from tests.databases import Server
from tests.databases.server import fresh_database
from tests.e2e.operator_process import OperatorProcess, course_site, wait_until

COURSE = "ceramics"


@pytest.fixture
def site() -> Iterator[CourseSite]:
    with course_site(throttle=150_000) as running:
        yield running


@pytest.fixture
def operator(tmp_path: Path, sqlite_url: str, site: CourseSite) -> Iterator[OperatorProcess]:
    operator = OperatorProcess(tmp_path, sqlite_url, site)
    operator.create_table()
    yield operator
    operator.stop_all()


def workers(operator: OperatorProcess) -> list[psutil.Process]:
    """Return the worker processes of this test, found by the folder in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ENROLLGATE_SCRATCH_DIR", "").startswith(str(operator.folder)):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_operator_killed_during_a_run_adopts_it_after_a_restart(
    operator: OperatorProcess, site: CourseSite
) -> None:
    operator.add(1, COURSE)
    process = operator.start()
    wait_until(lambda: site.media_sent > 50_000, lambda: operator.log)
    process.kill()
    process.wait()
    assert workers(operator), "the run goes on without its operator"
    pid = workers(operator)[0].pid
    operator.start()
    operator.wait_for_status(1, "completed")
    assert operator.runs() == [(1, 1, "finished", "succeeded", None)]
    assert operator.files(1) == site.lectures(COURSE)
    course = sum(map(len, site.lectures(COURSE)))
    # yt-dlp's generic extractor reads a file's first bytes before it downloads it: two requests,
    # one of them short.
    whole = [
        record for record in site.records if record.path.endswith(".mp4") and record.bytes > 100_000
    ]
    assert len(whole) == 4 and sum(record.bytes for record in whole) == course, (
        "every lecture left the site once"
    )
    assert not psutil.pid_exists(pid)


def test_run_that_ended_without_an_operator_is_recorded_later(
    operator: OperatorProcess, site: CourseSite
) -> None:
    site.throttle = 600_000
    operator.add(1, COURSE)
    process = operator.start()
    wait_until(lambda: site.media_sent > 50_000, lambda: operator.log)
    process.kill()
    process.wait()
    wait_until(lambda: not workers(operator), lambda: operator.log)
    assert operator.status(1) == "enrolled"
    operator.start()
    operator.wait_for_status(1, "completed")
    assert operator.runs() == [(1, 1, "finished", "succeeded", None)]


def test_attempt_after_a_killed_worker_moves_only_what_is_missing(
    tmp_path: Path, sqlite_url: str, site: CourseSite
) -> None:
    """The disk shows what is missing between two attempts; the site counts what moves then."""
    operator = OperatorProcess(tmp_path, sqlite_url, site, RETRY_BACKOFF="5")
    try:
        operator.create_table()
        operator.add(1, COURSE)
        operator.start()
        wait_until(lambda: caught_during_a_file(operator, site), lambda: operator.log)
        for worker in workers(operator):
            if "work" in worker.cmdline():
                worker.kill()
                worker.wait()
        killed_at = time.time()
        site.throttle = 150_000
        sizes = {
            f"/courses/{COURSE}/{n}.mp4": len(lecture)
            for n, lecture in enumerate(site.lectures(COURSE), 1)
        }
        missing = sum(sizes.values()) - sum(delivered(operator)) - sum(partial(operator))
        assert 0 < missing < sum(sizes.values()) - 350_000, "a lecture and a part of one are there"
        operator.wait_for_status(1, "completed")
        assert operator.files(1) == site.lectures(COURSE)
        assert operator.runs() == [(1, 1, "finished", "succeeded", None)]
        after = [
            record for record in site.records if record.time > killed_at and record.path in sizes
        ]
        moved = [
            record for record in after if record.status == 206 or record.bytes == sizes[record.path]
        ]
        assert any(record.status == 206 for record in moved), "the partial file is continued"
        assert sum(record.bytes for record in moved) == missing
        # The rest are probes: of a partial file's first bytes, or of what is delivered already.
        assert all(record.bytes < 200_000 for record in after if record not in moved)
    finally:
        operator.stop_all()


def caught_during_a_file(operator: OperatorProcess, site: CourseSite) -> bool:
    """Return whether a file is half there after another was delivered.

    From then on the site is so slow that the rest of the file takes many seconds.
    """

    def is_midway() -> bool:
        return bool(delivered(operator)) and any(
            50_000 < size < 200_000 for size in partial(operator, ".part")
        )

    if not is_midway():
        return False
    before, site.throttle = site.throttle, 2_000
    if is_midway():
        return True
    site.throttle = before  # the file was complete before the site slowed down
    return False


def delivered(operator: OperatorProcess) -> list[int]:
    return [path.stat().st_size for path in operator.folder.glob("courses/*/*.mp4")]


def partial(operator: OperatorProcess, suffix: str = "") -> list[int]:
    """Return the sizes of the lectures in scratch; with `.part`, of the incomplete ones only."""
    found = operator.folder.glob(f"work/runs/*/scratch/items/*/media-*{suffix}")
    sizes = []
    for path in found:
        if path.suffix == ".version":  # it says which version a partial file is of
            continue
        with contextlib.suppress(FileNotFoundError):  # renamed: it is complete now
            sizes.append(path.stat().st_size)
    return sizes


def test_task_failed_by_node_during_its_run_has_its_processes_ended(
    operator: OperatorProcess, site: CourseSite
) -> None:
    operator.add(1, COURSE)
    operator.start()
    wait_until(lambda: site.media_sent > 50_000, lambda: operator.log)
    operator.sql("UPDATE download_tasks SET status='failed' WHERE id=1")
    wait_until(lambda: operator.runs()[0][2] == "finished", lambda: operator.log)
    assert operator.runs() == [(1, 1, "finished", "revoked", "TaskFailed")]
    assert not workers(operator) and operator.status(1) == "failed"


def test_two_operators_share_the_work_and_do_nothing_twice(
    operator: OperatorProcess, site: CourseSite
) -> None:
    site.throttle = None
    operator.start()
    operator.start()
    for task in range(1, 9):
        operator.add(task, "bread")
    for task in range(1, 9):
        operator.wait_for_status(task, "completed")
    assert [run[:4] for run in operator.runs()] == [
        (task, 1, "finished", "succeeded") for task in range(1, 9)
    ]


def test_mariadb_stopped_for_30_s_during_a_run_loses_nothing(
    own_mariadb: Server, tmp_path: Path, site: CourseSite
) -> None:
    with fresh_database(own_mariadb.url("")) as url:
        operator = OperatorProcess(tmp_path, url, site, ENROLLMENT_TIMEOUT="600")
        try:
            operator.create_table()
            assert operator.command("migrate").returncode == 0
            operator.add(1, COURSE)
            operator.add(2, "bread", status="processing")
            process = operator.start()
            wait_until(lambda: site.media_sent > 50_000, lambda: operator.log)
            own_mariadb.stop()
            time.sleep(30)  # the outage itself, not a wait for something
            assert process.poll() is None, operator.log
            own_mariadb.start()
            operator.wait_for_status(1, "completed")
            assert operator.status(2) == "processing"
            site.enroll("account2@example.com", "bread")
            operator.sql("UPDATE download_tasks SET status='enrolled' WHERE id=2")
            operator.wait_for_status(2, "completed")
            assert [run[:4] for run in operator.runs()] == [
                (1, 1, "finished", "succeeded"),
                (2, 1, "finished", "succeeded"),
            ]
            assert operator.files(1) == site.lectures(COURSE)
            assert "the pass was aborted and will be tried again" in operator.log
            assert "passes succeed again" in operator.log
            assert "@example.com" not in operator.log
        finally:
            operator.stop_all()


def test_operator_asked_to_stop_exits_with_0_and_its_runs_continue(
    operator: OperatorProcess, site: CourseSite
) -> None:
    operator.add(1, COURSE)
    process = operator.start()
    wait_until(lambda: site.media_sent > 50_000, lambda: operator.log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert workers(operator)
    operator.start()
    operator.wait_for_status(1, "completed")
    assert len(operator.runs()) == 1
    # Its directory is moved away after the status is written.
    wait_until(lambda: not any((operator.folder / "work" / "runs").iterdir()))
