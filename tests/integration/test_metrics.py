"""The operator's metrics: the list in the docs, values from the start, and what they count."""

import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, make_url, text
from tests.world import World

from enrollgate.control.housekeeping import COOKIES_ACCOUNTS, read_expiries
from enrollgate.control.loop import Loop
from enrollgate.control.progress import ProgressReader
from enrollgate.control.runner import RETRY_BACKOFF
from enrollgate.control.wiring import build_random, count_database_error
from enrollgate.database import (
    DatabaseMisconfigured,
    DatabaseUnavailable,
    RowRefused,
    open_database,
)
from enrollgate.domain.account import cookies_name
from enrollgate.domain.observation import Phase
from enrollgate.domain.policy import Policy
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.launchers import LauncherUnavailable
from enrollgate.telemetry import metrics
from enrollgate.telemetry.metrics import REGISTRY

FRESH = """
from prometheus_client import generate_latest
from enrollgate.telemetry.metrics import REGISTRY
print(generate_latest(REGISTRY).decode())
"""
# Of the process, the platform and Python's garbage collector.
STANDARD = ("process_", "python_")


def rows() -> list[str]:
    """Return the table of the docs: name, kind, labels, meaning."""
    found = []
    for collector in {id(each): each for each in REGISTRY._names_to_collectors.values()}.values():
        for family in collector.collect():
            if not family.name.startswith(STANDARD):
                name = family.name + ("_total" if family.type == "counter" else "")
                labels = ", ".join(getattr(collector, "_labelnames", ())) or "–"
                found.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return sorted(found)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"enrollgate_{name}", labels) or 0.0


def test_list_of_metrics_in_the_docs_is_that_of_the_registry() -> None:
    page = Path("docs/operations.md").read_text(encoding="utf-8").splitlines()
    listed = [line for line in page if line.startswith("| `enrollgate_") and line.count("|") == 5]
    assert sorted(listed) == rows()


def test_all_known_label_values_are_there_from_the_start() -> None:
    text = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, check=True
    ).stdout
    assert "_created" not in text
    for reason in Reason:
        assert f'enrollgate_runs_finished_total{{outcome="failed",reason="{reason}"}} 0.0' in text
    for sample in (
        'enrollgate_runs_finished_total{outcome="succeeded",reason="none"} 0.0',
        'enrollgate_pass_errors_total{kind="DatabaseUnavailable"} 0.0',
        'enrollgate_passes_total{result="aborted"} 0.0',
        'enrollgate_leader_changes_total{change="lost"} 0.0',
        'enrollgate_run_duration_seconds_count{outcome="failed"} 0.0',
        'enrollgate_reconcile_duration_seconds_count{kind="focused"} 0.0',
        'enrollgate_database_errors_total{kind="RowTimedOut"} 0.0',
        'enrollgate_api_errors_total{kind="throttled"} 0.0',
        "enrollgate_attempts_total 0.0",
        "process_resident_memory_bytes ",
    ):
        assert sample in text, sample
    assert 'enrollgate_build_info{version="' in text


def test_waits_durations_and_deliveries_are_counted(sqlite_url: str) -> None:
    names = ("enrollment_wait_seconds", "launch_wait_seconds")
    before = {name: value(f"{name}_sum") for name in names}
    for counter in (metrics.DELIVERED_BYTES, metrics.DELIVERED_ITEMS):
        counter.reset()  # another test counts so many that 300 make no difference
    duration = value("run_duration_seconds_sum", outcome="succeeded")
    with closing(World(sqlite_url)) as world:
        task = world.add("processing")
        world.reconcile()
        world.clock.advance(40)
        world.set(task, "enrolled")
        world.launcher.full = True
        world.reconcile()
        world.clock.advance(7)
        world.launcher.full = False
        at = world.clock.now.replace(tzinfo=UTC)
        world.launcher.launched_at = at
        world.reconcile()
        name = f"test-{task}-1"
        report = Report(None, "done", items_delivered=3, bytes_delivered=300)
        world.launcher.end(name, Phase.SUCCEEDED, report)
        world.launcher.runs[name] = replace(
            world.launcher.runs[name], started_at=at, finished_at=at + timedelta(seconds=90)
        )
        world.clock.advance(100)
        world.reconcile()
    assert value("enrollment_wait_seconds_sum") - before[
        "enrollment_wait_seconds"
    ] == pytest.approx(40)
    assert value("launch_wait_seconds_sum") - before["launch_wait_seconds"] == pytest.approx(7)
    assert value("run_duration_seconds_sum", outcome="succeeded") - duration == pytest.approx(90)
    assert (value("delivered_bytes_total"), value("delivered_items_total")) == (300, 3)


def test_each_attempt_is_counted_once_by_progress_or_report(sqlite_url: str) -> None:
    before = value("attempts_total")
    with closing(World(sqlite_url)) as world:
        reader = ProgressReader(world.database, "test", rate=1000, monotonic=time.monotonic)
        names = [f"test-{world.add('enrolled')}-1" for _ in range(3)]
        world.reconcile()
        world.reconcile()
        for attempt in (1, 1, 3):
            world.launcher.progress[names[0]] = RunProgress(attempt, 5, items_done=attempt)
            reader.read_round(world.launcher)
        assert value("attempts_total") - before == 3
        world.launcher.end(names[0], Phase.FAILED, Report(Reason.SITE_ERROR, "no", attempt=5))
        # This one was too quick for its progress to be read; that one's worker left no report.
        world.launcher.end(names[1], Phase.SUCCEEDED, Report(None, "done", attempt=1))
        world.launcher.end(names[2], Phase.FAILED, Report(Reason.OOM_KILLED, "killed"))
        world.launcher.runs[names[2]] = replace(
            world.launcher.runs[names[2]], started_at=world.clock.now.replace(tzinfo=UTC)
        )
        world.reconcile()
    assert value("attempts_total") - before == 5 + 1 + 1


def test_database_errors_are_counted_by_kind(sqlite_url: str) -> None:
    kinds = ("DatabaseUnavailable", "DatabaseMisconfigured", "RowRefused")
    before = {kind: value("database_errors_total", kind=kind) for kind in kinds}
    with closing(World(sqlite_url)) as world:
        world.sql(
            "CREATE TRIGGER never BEFORE UPDATE ON download_tasks "
            "BEGIN SELECT RAISE(ABORT, 'never'); END"
        )
        world.add("processing")
        url = make_url(sqlite_url)
        with closing(open_database(url, on_error=count_database_error)) as database:
            for statement, kind in (
                ("UPDATE download_tasks SET status = 'x'", RowRefused),
                ("SELECT 1 FROM nowhere", DatabaseMisconfigured),
            ):
                send = partial(Connection.execute, statement=text(statement))
                with pytest.raises(kind):
                    database.run_in_transaction(send, of_one_row=kind is RowRefused)
            with pytest.raises(DatabaseUnavailable), database.autocommit():
                database.require_primary(is_read_only=True)
    after = {kind: value("database_errors_total", kind=kind) for kind in kinds}
    assert {kind: after[kind] - before[kind] for kind in kinds} == dict.fromkeys(kinds, 1)


def test_expiry_is_shown_of_the_accounts_that_expire_first(tmp_path: Path) -> None:
    for number in range(COOKIES_ACCOUNTS + 20):
        file = tmp_path / cookies_name(f"{number}@example.com")
        file.write_text(f"example.com\tFALSE\t/\tTRUE\t{2000 + number}\ts\tsecret\n")
    (tmp_path / "cookies.txt").write_text("example.com\tFALSE\t/\tTRUE\t1000\ts\tsecret\n")
    # They end with the browser's session, are no cookies, and are nobody's.
    session = cookies_name("session@example.com")
    (tmp_path / session).write_text("example.com\tFALSE\t/\tTRUE\t0\ts\tsecret\n")
    (tmp_path / cookies_name("broken@example.com")).write_bytes(b"\xff\xfe\xff")
    (tmp_path / "ada@example.com.txt").write_text("example.com\tFALSE\t/\tTRUE\t5\ts\tx\n")
    found = read_expiries(tmp_path)
    first = cookies_name("0@example.com").removeprefix("cookies-")[:12]
    assert list(found.items())[:2] == [("default", 1000), (first, 2000)]
    assert len(found) == COOKIES_ACCOUNTS
    assert read_expiries(tmp_path / "missing") == {}


def test_queue_and_oldest_tasks_are_shown(sqlite_url: str) -> None:
    with closing(World(sqlite_url, Policy(max_concurrent_runs=1))) as world:
        world.add("processing")
        for _ in range(3):
            world.add("enrolled")
        world.reconcile()
        world.clock.advance(25)
        world.reconcile()
        assert value("capacity_runs") == 1 and value("queued_tasks") == 2
        assert value("oldest_waiting_seconds") == value("oldest_queued_seconds") == 25
        for name in world.launcher.live:
            world.launcher.succeed(name)
        for _ in range(3):
            world.reconcile()
            for name in world.launcher.live:
                world.launcher.succeed(name)
        world.reconcile()
        assert value("queued_tasks") == value("oldest_queued_seconds") == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [(LauncherUnavailable("away"), "LauncherUnavailable"), (KeyError("x"), "unexpected")],
)
def test_aborted_passes_are_counted_by_what_was_at_fault(error: Exception, kind: str) -> None:
    before = value("pass_errors_total", kind=kind)
    loop = Loop(interval=0.01, backoff=RETRY_BACKOFF, random=build_random())

    def fail(_changed: object) -> object:
        loop.stop()
        raise error

    loop.run(fail)  # type: ignore[arg-type]  # it only fails
    assert value("pass_errors_total", kind=kind) == before + 1
