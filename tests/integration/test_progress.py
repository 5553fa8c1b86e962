"""Progress and signs of life in the database: what is stored, how often, and what is deleted."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import RowMapping
from tests.world import EPOCH, World

from enrollgate.control.housekeeping import Housekeeping
from enrollgate.control.progress import ProgressReader
from enrollgate.database.task_status import ensure_view, task_status
from enrollgate.domain.observation import Phase
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report

HALF = RunProgress(1, 3, 2, 4, 500, 1000, 50, 50, "Lecture 3", "https://drive.example/1")


class Clock:
    """Seconds of a clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with closing(World(database_url)) as world:
        assert ensure_view(world.database, world.tables, "test") is None
        yield world


def reader(world: World) -> ProgressReader:
    return ProgressReader(world.database, "test", rate=1000, monotonic=Clock())


def row(world: World, task: int) -> RowMapping:
    statement = task_status.select().where(task_status.c.task_id == task)
    with world.database.read_transaction() as connection:
        return connection.execute(statement).mappings().one()


def keeper(world: World, clock: Clock, history: timedelta = timedelta(days=180)) -> Housekeeping:
    about = {"version": "1.2.3", "enrollment_timeout": 300.0, "max_concurrent_runs": 10}
    return Housekeeping(world.database, "test", about=about, history=history, monotonic=clock)


def test_progress_of_many_runs_is_stored_in_one_statement(world: World) -> None:
    tasks = [world.add("enrolled") for _ in range(5)]
    world.operator.reconcile()
    for task in tasks[:4]:
        progress = replace(HALF, items_done=task, current_item=f"Lecture {task}")
        world.launcher.progress[f"test-{task}-1"] = progress
    world.clock.advance(7)
    before = world.database.statements
    reader(world).read_round(world.launcher)
    assert world.database.statements - before == 2  # one reads the live runs, one stores
    for task in tasks[:4]:
        found = row(world, task)
        assert {name: found[name] for name in HALF.to_dict()} == replace(
            HALF, items_done=task, current_item=f"Lecture {task}"
        ).to_dict()
        assert found["progress_at"] == EPOCH + timedelta(seconds=7)
    assert row(world, tasks[4])["progress_at"] is None


def test_unchanged_progress_is_not_stored_again(world: World) -> None:
    one, other = world.add("enrolled"), world.add("enrolled")
    world.operator.reconcile()
    for task in (one, other):
        world.launcher.progress[f"test-{task}-1"] = HALF
    reader(world).read_round(world.launcher)
    world.clock.advance(60)
    before = world.database.statements
    reader(world).read_round(world.launcher)
    assert world.database.statements - before == 1
    world.launcher.progress[f"test-{one}-1"] = replace(HALF, items_done=3)
    reader(world).read_round(world.launcher)
    assert row(world, one)["progress_at"] == EPOCH + timedelta(seconds=60)
    assert row(world, other)["progress_at"] == EPOCH


def test_finished_run_keeps_its_last_numbers_and_the_link(world: World) -> None:
    good, bad = world.add("enrolled"), world.add("enrolled")
    world.operator.reconcile()
    for task in (good, bad):
        world.launcher.progress[f"test-{task}-1"] = HALF
    reader(world).read_round(world.launcher)
    link = "https://drive.example/2"
    done = Report(None, "complete", items_delivered=3, items_skipped=1, bytes_delivered=4000)
    world.launcher.end(f"test-{good}-1", Phase.SUCCEEDED, replace(done, destination_url=link))
    world.launcher.end(f"test-{bad}-1", Phase.FAILED, Report(Reason.ACCESS_DENIED, "no"))
    world.operator.reconcile()
    columns = ("state", "percent", "items_done", "items_total", "bytes_done", "destination_url")
    found = row(world, good)
    assert [found[each] for each in columns] == ["completed", 100, 4, 4, 4000, link]
    found = row(world, bad)
    assert [found[each] for each in columns] == ["failed", 50, 0, 4, 500, HALF.destination_url]
    assert found["current_item"] is found["bytes_per_second"] is None
    world.launcher.progress[f"test-{good}-1"] = HALF
    reader(world).read_round(world.launcher)
    assert row(world, good)["percent"] == 100


def test_sign_of_life_says_when_the_last_pass_was(world: World) -> None:
    clock = Clock()
    housekeeping = keeper(world, clock)
    housekeeping.after_pass(0.25)
    world.clock.advance(100)
    clock.now = 4.0
    housekeeping.after_pass(0.5)
    assert world.scalar("SELECT COUNT(*) FROM enrollgate_operators WHERE pass_seconds = 0.25") == 1
    clock.now = 5.0
    housekeeping.after_pass(0.5)
    with world.database.read_transaction() as connection:
        statement = "SELECT * FROM enrollgate_operators"
        (found,) = connection.exec_driver_sql(statement).mappings().all()
    assert (found["installation"], found["version"], found["pass_seconds"]) == (
        "test",
        "1.2.3",
        0.5,
    )
    assert str(found["last_pass_at"]) > str(found["started_at"])


def test_old_runs_are_deleted_but_not_those_of_open_tasks(world: World) -> None:
    old, open_again, live = (world.add("enrolled") for _ in range(3))
    world.operator.reconcile()
    for task in (old, open_again):
        world.launcher.fail(f"test-{task}-1")
    world.operator.reconcile()
    world.set(open_again, "paid")
    world.operator.reconcile()
    clock = Clock()
    housekeeping = keeper(world, clock)
    housekeeping.after_pass(0.0)
    assert len(world.runs()) == 3
    world.clock.advance(181 * 86_400)
    clock.now = 700.0
    housekeeping.after_pass(0.0)
    assert [run.task_id for run in world.runs()] == [open_again, live]
    assert row(world, old)["state"] == "failed"


def test_new_run_after_its_history_is_deleted_is_number_one_again(world: World) -> None:
    task = world.add("enrolled")
    world.operator.reconcile()
    world.launcher.fail(f"test-{task}-1")
    world.operator.reconcile()
    world.clock.advance(181 * 86_400)
    keeper(world, Clock()).after_pass(0.0)
    assert world.runs() == []
    world.set(task, "enrolled")
    world.operator.reconcile()
    assert world.launcher.live == [f"test-{task}-1"]
