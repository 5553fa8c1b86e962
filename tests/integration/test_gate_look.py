"""The look at the gate: what it launches at once, what it leaves, and what it costs the server."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from tests.world import EPOCH, World

from enrollgate.control.confinement import SET_ASIDE
from enrollgate.database import Database
from enrollgate.database.engine import database_clock
from enrollgate.domain.observation import LaunchResult
from enrollgate.domain.planner import Launch
from enrollgate.domain.policy import Policy
from enrollgate.telemetry.metrics import REGISTRY


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with closing(World(database_url, Policy(max_concurrent_runs=3))) as world:
        world.reconcile()
        yield world


def tracked(world: World, task: int) -> tuple[object, ...]:
    with world.database.autocommit() as connection:
        row = connection.execute(
            text(
                "SELECT last_seen_status, first_seen_at, enrolled_seen_at FROM enrollgate_tasks "
                "WHERE task_id = :id"
            ),
            {"id": task},
        ).one()
    return row[0], str(row[1])[:19], str(row[2])[:19]


def test_new_row_is_launched_and_tracked_by_a_look_alone(world: World) -> None:
    task = world.add("enrolled")
    with capture_logs() as logs:
        summary = world.look()
    assert (summary.launched, summary.free) == (1, 2)
    assert world.launcher.live == [f"test-{task}-1"]
    assert tracked(world, task) == ("enrolled", str(EPOCH), str(EPOCH))
    assert [each["event"] for each in logs if "ENROLL CHECK" in str(each["event"])] == [
        f"ENROLL CHECK task={task} status=enrolled enrolled, gate open (0s/300s)"
    ]
    with capture_logs() as logs:
        world.reconcile()
    assert not [each for each in logs if "ENROLL CHECK" in str(each["event"])]


def test_waiting_row_that_was_enrolled_keeps_the_instant_it_was_seen_first(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    world.clock.advance(120)
    assert world.look().launched == 0
    world.set(task, "enrolled")
    with capture_logs() as logs:
        assert world.look().launched == 1
    assert tracked(world, task) == ("enrolled", str(EPOCH), "2026-01-01 12:02:00")
    assert f"task={task} status=enrolled enrolled, gate open (120s/300s)" in str(logs)
    world.launcher.succeed(f"test-{task}-1")
    world.reconcile()
    assert world.status(task) == "completed"


def test_look_counts_how_long_the_enrollment_took(world: World) -> None:
    name = "enrollgate_enrollment_wait_seconds"
    before = {part: REGISTRY.get_sample_value(f"{name}_{part}") or 0 for part in ("sum", "count")}
    task = world.add("processing")
    world.reconcile()
    world.clock.advance(30)
    world.set(task, "enrolled")
    assert world.look().launched == 1
    assert (REGISTRY.get_sample_value(f"{name}_sum") or 0) - before["sum"] == 30
    assert (REGISTRY.get_sample_value(f"{name}_count") or 0) - before["count"] == 1


def test_full_pass_goes_on_after_looks_as_if_there_were_none(world: World) -> None:
    waiting, ended = world.add("processing"), world.add("enrolled")
    world.reconcile()
    world.clock.advance(60)
    rest = world.operator.begin_full_pass()
    new = world.add("enrolled")
    world.set(waiting, "enrolled")
    assert world.look().launched == 2
    world.launcher.succeed(f"test-{ended}-1")
    assert world.operator.reconcile([f"test-{ended}-1"]).finished == 1
    summary = rest()
    assert (summary.launched, summary.finished, summary.unfinished) == (0, 0, 2)
    assert world.status(ended) == "completed"
    world.reconcile()
    for task in (waiting, new):
        assert [run.run_number for run in world.runs(task)] == [1]
        assert tracked(world, task)[0] == "enrolled"
    assert sorted(world.launcher.live) == sorted(f"test-{task}-1" for task in (waiting, new))
    assert tracked(world, waiting)[1:] == (str(EPOCH), "2026-01-01 12:01:00")


def test_look_launches_no_more_than_the_free_slots(world: World) -> None:
    rows = [world.add("enrolled") for _ in range(5)]
    summary = world.look()
    assert (summary.launched, summary.free, summary.unfinished) == (3, 0, 3)
    assert world.launcher.live == [f"test-{row}-1" for row in rows[:3]]
    assert world.look().statements == 0, "no slot is free"
    world.launcher.succeed(f"test-{rows[0]}-1")
    world.operator.reconcile([f"test-{rows[0]}-1"])
    assert world.look().launched == 1
    assert f"test-{rows[3]}-1" in world.launcher.live


@pytest.mark.parametrize("scope", ["installation", "destination"])
def test_look_asks_nothing_while_all_launches_are_on_hold(world: World, scope: str) -> None:
    world.sql(
        "INSERT INTO enrollgate_holds (installation, kind, scope, reason, opened_by) "
        f"VALUES ('test', 'hold', '{scope}', 'DestinationQuota', 'a test')"
    )
    world.add("enrolled")
    summary = world.look()  # it sees the row, and so the hold
    assert (summary.launched, summary.free) == (0, 0)
    assert world.look().statements == 0
    world.sql("UPDATE enrollgate_holds SET closed_at = opened_at")
    world.reconcile()
    assert len(world.launcher.live) == 1


@pytest.mark.parametrize("status", ["processing", "failed", "completed", "refunded", None])
def test_look_leaves_every_other_status_alone(world: World, status: str | None) -> None:
    task = world.add(status)
    assert world.look().launched == 0
    assert world.status(task) == status and world.runs() == []


def test_task_that_is_set_aside_waits_for_its_pause(world: World) -> None:
    task = world.add("enrolled")
    world.launcher.refused[task] = "an admission policy"
    assert world.look().refused == 1
    other = world.add("enrolled")
    assert world.look().launched == 1 and world.launcher.live == [f"test-{other}-1"]
    world.launcher.refused.clear()
    world.clock.advance(SET_ASIDE + 1)
    world.reconcile()
    assert len(world.launcher.live) == 2


def test_row_withdrawn_in_the_moment_of_the_look_is_not_launched(world: World) -> None:
    task = world.add("enrolled")
    launch = world.launcher.launch

    def launch_late(launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        world.set(task, "failed")  # the look has claimed it, and the launcher asks for the first
        return launch(launches)

    world.launcher.launch = launch_late  # type: ignore[method-assign]  # the hook of this test
    world.look()
    assert world.launcher.orders == []
    world.reconcile()
    assert world.status(task) == "failed"
    assert [run.outcome for run in world.runs(task)] == ["revoked"]


def test_burst_is_launched_in_order_with_constant_statements_a_run(database_url: str) -> None:
    with closing(World(database_url, Policy(max_concurrent_runs=1000))) as world:
        world.reconcile()
        values = ",".join(["('enrolled', 'a@example.com', 'https://a.example/')"] * 700)
        world.sql(f"INSERT INTO download_tasks (status, email, course_url) VALUES {values}")
        first, second, last = world.look(), world.look(), world.look()
        assert (first.launched, first.more) == (500, True)
        assert (second.launched, second.more, last.launched) == (200, False, 0)
        assert first.statements / 500 < 0.15 and second.statements / 200 < 0.15
        ids = [order.task_id for order in world.launcher.orders]
        assert ids == sorted(ids) and len(set(ids)) == 700


def test_sqlite_is_looked_at_only_after_a_commit(sqlite_url: str) -> None:
    with closing(World(sqlite_url)) as world:
        world.reconcile()
        world.look()
        assert [world.look().statements for _ in range(3)] == [1, 1, 1], "the pragma alone"
        task = world.add("enrolled")
        assert world.look().launched == 1
        assert world.launcher.live == [f"test-{task}-1"]


# what the server counts


def questions(database: Database) -> int:
    """Return how many commands the server has got from the connections of this operator."""
    found = 0
    for engine in (database.engine, database.autocommit_engine):
        with engine.connect() as connection:
            row = connection.execute(text("SHOW SESSION STATUS LIKE 'Questions'")).one()
            found += int(row[1])
    return found


def counted(database: Database, what: Callable[[], object]) -> int:
    """Return how many commands the server got meanwhile, those of the counting left out."""
    first = questions(database)
    before = questions(database)
    what()
    return questions(database) - before - (before - first)


@pytest.fixture
def served(server_database_url: str) -> Iterator[World]:
    """An operator that has worked for a while: its connections are open."""
    with closing(World(server_database_url, database_clock=database_clock)) as world:
        for _ in range(3):
            world.add("enrolled")
            world.look()
            world.reconcile()
        yield world


def test_server_gets_two_commands_for_an_idle_pass_and_one_for_a_look(served: World) -> None:
    for _ in range(50):
        served.add("processing")
    served.reconcile()
    assert counted(served.database, served.reconcile) == 2
    assert counted(served.database, served.look) == 1


def test_server_gets_seven_commands_for_a_new_enrolled_row(served: World) -> None:
    """Six until its Job exists, and one that records it."""
    served.add("enrolled")
    assert counted(served.database, served.look) == 7
    assert len(served.launcher.orders) == 4


@pytest.mark.parametrize("key", ["INT UNSIGNED", "BIGINT UNSIGNED", "BIGINT", "SMALLINT UNSIGNED"])
def test_look_launches_a_row_whatever_the_type_of_its_key(world: World, key: str) -> None:
    if not world.database.is_sqlite:
        with world.database.engine.begin() as connection:
            connection.exec_driver_sql(
                f"ALTER TABLE download_tasks MODIFY id {key} NOT NULL AUTO_INCREMENT"
            )
    assert world.look().launched == 0
    task = world.add("enrolled")
    assert world.look().launched == 1
    assert world.launcher.live == [f"test-{task}-1"]
