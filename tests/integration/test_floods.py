"""A flood at the gate delays no launch and no result, fills no log, and stops no SIGTERM."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy import event
from structlog.testing import capture_logs
from tests.world import World

from enrollgate.control.reconciler import END_LIMIT
from enrollgate.control.task_log import LINE_LIMIT
from enrollgate.database.tasks import EXPIRY_LIMIT, GATE_LIMIT
from enrollgate.domain.policy import Policy

ROWS = 100_000
_DIGITS = " UNION ALL ".join(f"SELECT {digit} AS n" for digit in range(10))
_NUMBERS = (
    "SELECT a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n + 1 AS id FROM "
    + " CROSS JOIN ".join(f"({_DIGITS}) AS {name}" for name in "abcde")
)
# Statements of one pass in a flood: each failed task takes up to six.
STATEMENTS = 2 * EXPIRY_LIMIT * 6 + 50


@dataclass(frozen=True)
class Flood:
    """Rows with one status, tracked with another one (None: not tracked) since some seconds."""

    status: str
    tracked: str | None = None
    since: int = 0


FLOODS = {
    "new": Flood("processing"),
    "timed out": Flood("processing", "processing", 400),
    "renamed": Flood("whatever", "processing"),
    "enrolled": Flood("enrolled", "processing"),
    "failed by Node.js": Flood("failed", "processing"),
    "changed": Flood("paid", "pending"),
}


def pour(world: World, flood: Flood, rows: int) -> None:
    """Write the rows of a flood, with the ids from 1."""
    world.sql(
        "INSERT INTO download_tasks (id, status, email, course_url) SELECT id, :status, "
        f"'a@example.com', 'https://a.example/' FROM ({_NUMBERS}) AS numbers WHERE id <= :rows",
        status=flood.status,
        rows=rows,
    )
    if flood.tracked:
        world.clock.advance(-flood.since)
        world.sql(
            "INSERT INTO enrollgate_tasks (task_id, first_seen_at, last_seen_status) "
            "SELECT id, :since, :status FROM download_tasks WHERE id <= :rows",
            since=world.clock.now.strftime("%Y-%m-%d %H:%M:%S.000000"),
            status=flood.tracked,
            rows=rows,
        )
        world.clock.advance(flood.since)


@contextmanager
def statements_until_launch(world: World) -> Iterator[list[int]]:
    """Collect how many statements had been sent before each launch."""
    sent, found = [0], list[int]()

    def count(*_: object) -> None:
        sent[0] += 1

    event.listen(world.database.engine, "before_cursor_execute", count)
    launch = world.launcher._launch

    def note(order: object) -> object:
        found.append(sent[0])
        return launch(order)  # type: ignore[arg-type]  # the hook of this test

    world.launcher._launch = note  # type: ignore[assignment]  # as above
    yield found
    event.remove(world.database.engine, "before_cursor_execute", count)
    world.launcher._launch = launch  # type: ignore[method-assign]  # as above


@pytest.fixture
def world(request: pytest.FixtureRequest, database_url: str) -> Iterator[World]:
    world = World(database_url, Policy(enrollment_timeout=300, max_concurrent_runs=2))
    yield world
    world.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOODS)
def test_flood_delays_no_launch_and_no_result(world: World, kind: str) -> None:
    insert = (
        "INSERT INTO download_tasks (id, status, email, course_url) VALUES "
        "(:id, 'enrolled', 'a@example.com', 'https://a.example/')"
    )
    running, late = 200_001, 200_002
    world.sql(insert, id=running)
    world.reconcile()
    pour(world, FLOODS[kind], ROWS)
    world.launcher.succeed(f"test-{running}-1")
    world.sql(insert, id=late)
    beats = list[None]()
    world.operator = world.new_operator(progress=lambda: beats.append(None))
    with capture_logs() as logs, statements_until_launch(world) as before:
        first = world.reconcile()
    assert world.status(running) == "completed"
    launched = {1, 2} if kind == "enrolled" else {late}
    assert {order.task_id for order in world.launcher.orders[1:]} == launched
    assert before and before[0] < 40, "the launch comes before the flood"
    assert first.statements < STATEMENTS and first.more and beats
    assert len(logs) <= LINE_LIMIT + 10
    name = world.launcher.live[0]
    world.launcher.succeed(name)
    with capture_logs() as logs:
        second = world.reconcile()
    assert world.status(int(name.split("-")[1])) == "completed"
    assert len(logs) <= LINE_LIMIT + 10 and second.statements < STATEMENTS
    if kind in ("timed out", "renamed"):
        failed = world.scalar("SELECT COUNT(*) FROM download_tasks WHERE status = 'failed'")
        assert failed == 2 * EXPIRY_LIMIT
    else:
        (summary,) = [each for each in logs if "more tasks in this pass" in str(each["event"])]
        unlisted = int(str(summary["event"]).split()[2])
        assert GATE_LIMIT - LINE_LIMIT <= unlisted < GATE_LIMIT - LINE_LIMIT + 10


@pytest.mark.parametrize("kind", FLOODS)
def test_whole_flood_is_handled_by_the_passes_that_follow(world: World, kind: str) -> None:
    flood, rows = FLOODS[kind], GATE_LIMIT + 500 if kind == "new" else 2 * EXPIRY_LIMIT + 50
    pour(world, flood, rows)
    passes = 1
    while world.reconcile().more:
        passes += 1
        assert passes < 20
    ends = {"timed out": "failed", "renamed": "failed"}.get(kind, flood.status)
    same = f"SELECT COUNT(*) FROM download_tasks WHERE status = '{ends}'"
    assert world.scalar(same) == rows
    tracked = world.scalar(
        f"SELECT COUNT(*) FROM enrollgate_tasks WHERE last_seen_status = '{flood.status}'"
    )
    assert tracked == (0 if ends == "failed" else rows)
    if ends == "failed":
        assert world.scalar("SELECT COUNT(*) FROM enrollgate_tasks") == 0


@pytest.mark.parametrize("kind", ["timed out", "renamed"])
def test_operator_that_is_to_end_begins_no_further_task(sqlite_url: str, kind: str) -> None:
    world = World(sqlite_url, Policy(max_concurrent_runs=1000))
    pour(world, FLOODS[kind], 1000)
    for _ in range(200):
        world.add("enrolled")
    handled = list[None]()
    world.operator = world.new_operator(
        progress=lambda: handled.append(None), is_stopping=lambda: len(handled) > 210
    )
    world.reconcile()
    failed = world.scalar("SELECT COUNT(*) FROM download_tasks WHERE status = 'failed'")
    assert failed < EXPIRY_LIMIT and len(world.launcher.live) <= 200
    world.restart()
    while world.reconcile().more:
        pass
    assert len(world.launcher.live) == 200
    world.close()


def test_flood_of_results_is_recorded_by_pass_after_pass(sqlite_url: str) -> None:
    world = World(sqlite_url, Policy(max_concurrent_runs=END_LIMIT + 200))
    rows = END_LIMIT + 100
    pour(world, FLOODS["enrolled"], rows)
    while world.reconcile().more:
        pass
    names = list(world.launcher.live)
    assert len(names) == rows
    for name in names:
        world.launcher.succeed(name)
    late = world.add("enrolled")
    first = world.reconcile()
    assert first.finished == END_LIMIT and first.more
    assert world.launcher.live == [f"test-{late}-1"], "launches do not wait for the rest"
    second = world.reconcile()
    assert second.finished == 100 and not second.more
    world.close()
