"""The instants in `enrollgate_runs` are those of the events, not of the pass that noticed them."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from tests.world import EPOCH, World

from enrollgate.commands.status import load_overview, render, to_json
from enrollgate.database.tables import runs

NAMES = (
    "first_seen_at",
    "enrolled_seen_at",
    "claimed_at",
    "launched_at",
    "started_at",
    "finished_at",
    "recorded_at",
)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with closing(World(database_url)) as world:
        yield world


def at(seconds: float) -> datetime:
    """Return the instant so many seconds after the start of the test, as a launcher has it."""
    return EPOCH.replace(tzinfo=UTC) + timedelta(seconds=seconds)


def seconds(world: World, task: int) -> dict[str, float | None]:
    """Return the instants of the task's last run, as seconds after the start of the test."""
    statement = select(*(runs.c[name] for name in NAMES)).where(runs.c.task_id == task)
    with world.database.read_transaction() as connection:
        row = connection.execute(statement.order_by(runs.c.run_number.desc()).limit(1)).one()
    return {
        name: None if value is None else (value - EPOCH).total_seconds()
        for name, value in zip(NAMES, row, strict=True)
    }


def test_instants_of_a_run_are_kept_after_its_task_is_finished(world: World) -> None:
    task = world.add("processing")
    world.clock.advance(10)
    world.reconcile()
    world.set(task, "enrolled")
    world.clock.advance(30)
    world.launcher.full = True
    world.reconcile()
    world.launcher.full = False
    world.clock.advance(5)
    world.reconcile()
    name = f"test-{task}-1"
    world.clock.advance(3 * 3600)  # no operator runs
    world.launcher.succeed(name)
    world.launcher.runs[name] = replace(
        world.launcher.runs[name], started_at=at(47.5), finished_at=at(600.25)
    )
    world.reconcile()
    assert seconds(world, task) == {
        "first_seen_at": 10,
        "enrolled_seen_at": 40,
        "claimed_at": 40,
        "launched_at": 45,
        "started_at": 47.5,
        "finished_at": 600.25,
        "recorded_at": 45 + 3 * 3600,
    }
    assert world.scalar("SELECT COUNT(*) FROM enrollgate_tasks") == 0


def test_adopted_run_has_the_instant_of_its_launch(world: World) -> None:
    """The operator that launched it died before it could record that."""
    task = world.add("enrolled")
    world.reconcile()
    name = f"test-{task}-1"
    world.sql("UPDATE enrollgate_runs SET state = 'claimed', launched_at = NULL")
    world.launcher.runs[name] = replace(world.launcher.runs[name], launched_at=at(1.5))
    world.clock.advance(3600)
    world.reconcile()
    assert seconds(world, task)["launched_at"] == 1.5


def test_run_that_ended_before_it_was_adopted_has_all_instants(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    name = f"test-{task}-1"
    world.sql("UPDATE enrollgate_runs SET state = 'claimed', launched_at = NULL")
    world.launcher.fail(name)
    world.launcher.runs[name] = replace(
        world.launcher.runs[name], launched_at=at(1), started_at=at(2), finished_at=at(3)
    )
    world.clock.advance(3600)
    world.reconcile()
    found = seconds(world, task)
    assert [found[each] for each in NAMES[2:]] == [0, 1, 2, 3, 3600]


@pytest.mark.parametrize(("skew", "expected"), [(-7200, [0, 0]), (7200, [60, 60])])
def test_wrong_clock_of_a_node_is_bounded_by_claim_and_record(
    world: World, skew: float, expected: list[float]
) -> None:
    task = world.add("enrolled")
    world.reconcile()
    name = f"test-{task}-1"
    world.clock.advance(60)
    world.launcher.succeed(name)
    world.launcher.runs[name] = replace(
        world.launcher.runs[name], started_at=at(10 + skew), finished_at=at(50 + skew)
    )
    world.reconcile()
    found = seconds(world, task)
    assert [found["started_at"], found["finished_at"]] == expected


def test_lost_run_ends_when_it_is_noticed_and_never_started(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    world.clock.advance(60)
    world.launcher.lose(f"test-{task}-1")
    world.launcher.full = True
    world.reconcile()
    statement = select(runs.c.started_at, runs.c.finished_at).where(runs.c.outcome == "lost")
    with world.database.read_transaction() as connection:
        assert connection.execute(statement).one() == (None, world.clock.now)


def test_task_that_timed_out_keeps_when_it_was_first_seen(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    world.clock.advance(300)
    world.reconcile()
    found = seconds(world, task)
    assert (found["first_seen_at"], found["enrolled_seen_at"], found["finished_at"]) == (
        0,
        None,
        300,
    )


def test_task_that_goes_back_to_waiting_is_seen_as_enrolled_again(world: World) -> None:
    task = world.add("enrolled")
    world.launcher.full = True
    world.reconcile()
    world.set(task, "pending")
    world.clock.advance(20)
    world.reconcile()
    world.set(task, "enrolled")
    world.clock.advance(20)
    world.reconcile()
    found = seconds(world, task)
    assert (found["first_seen_at"], found["enrolled_seen_at"]) == (20, 40)


def test_task_claimed_by_a_focused_pass_was_seen_then(world: World) -> None:
    first = world.add("enrolled")
    world.reconcile()
    late = world.add("enrolled")
    world.clock.advance(5)
    world.launcher.succeed(f"test-{first}-1")
    world.reconcile({f"test-{first}-1"})
    found = seconds(world, late)
    assert [found[each] for each in NAMES[:3]] == [5, 5, 5]


def test_status_shows_the_instants_as_json(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    (run,) = to_json(load_overview(world.database, world.tables, "test"))["runs"]
    assert run["task_id"] == task
    assert run["enrolled_seen_at"] == run["claimed_at"] == "2026-01-01T12:00:00Z"
    assert run["started_at"] is None


def test_status_shows_how_long_a_task_waited_and_its_run_lasts(world: World) -> None:
    world.add("enrolled")
    world.launcher.full = True
    world.reconcile()
    world.launcher.full = False
    world.clock.advance(30)
    world.reconcile()
    world.clock.advance(60)
    text = " ".join(
        "\n".join(render(load_overview(world.database, world.tables, "test"), world.tables)).split()
    )
    assert "It waited 30 s from `enrolled` to its launch" in text
    assert "has worked for 1 min" in text
