"""The operator's metrics: the list in the docs, values from the start, and what they count."""

import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path

import pytest
from tests.world import World

from enrollgate.control.loop import Loop
from enrollgate.control.runner import RETRY_BACKOFF
from enrollgate.control.wiring import build_random
from enrollgate.domain.observation import Phase
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.launchers import LauncherUnavailable
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
        "process_resident_memory_bytes ",
    ):
        assert sample in text, sample
    assert 'enrollgate_build_info{version="' in text


def test_waits_durations_and_deliveries_are_counted(sqlite_url: str) -> None:
    names = ("enrollment_wait_seconds", "launch_wait_seconds")
    before = {name: value(f"{name}_sum") for name in names}
    delivered = value("delivered_bytes_total"), value("delivered_items_total")
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
    assert value("enrollment_wait_seconds_sum") - before["enrollment_wait_seconds"] == 40
    assert value("launch_wait_seconds_sum") - before["launch_wait_seconds"] == 7
    assert value("run_duration_seconds_sum", outcome="succeeded") - duration == 90
    assert value("delivered_bytes_total") - delivered[0] == 300
    assert value("delivered_items_total") - delivered[1] == 3


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
