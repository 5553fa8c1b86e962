"""The database's clock is set while tasks wait: each still waits as long as it may."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import ColumnElement, Integer, bindparam, func, text
from tests.conftest import absent
from tests.databases import Server
from tests.databases.server import fresh_database
from tests.interruptions import Interruption, interrupted_operator
from tests.world import World

from enrollgate.database.engine import database_clock
from enrollgate.database.tables import INSTANT

HOUR = 3600.0


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with closing(World(database_url)) as made:
        yield made


def passes(world: World, seconds: float) -> None:
    """Make a pass every 10 seconds, as long as `seconds`."""
    for _ in range(round(seconds / 10)):
        world.clock.advance(10)
        world.reconcile()


@pytest.mark.parametrize(
    "steps",
    [(HOUR,), (-HOUR,), (HOUR, -HOUR), (-HOUR, HOUR), (HOUR, HOUR), (-30.0,), (45.0,)],
    ids=str,
)
def test_clock_that_is_set_fails_no_task_early_or_late(
    world: World, steps: tuple[float, ...]
) -> None:
    task = world.add("processing")
    world.reconcile()
    for step in steps:
        passes(world, 60)
        world.clock.step(step)
        world.reconcile()
        assert world.status(task) == "processing"
    passes(world, 290 - 60 * len(steps))
    assert world.status(task) == "processing"
    passes(world, 10)
    assert world.status(task) == "failed"


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_clock_that_is_set_and_restart_keep_the_time_waited(world: World, step: float) -> None:
    task = world.add("processing")
    world.reconcile()
    passes(world, 100)
    world.clock.step(step)
    world.reconcile()
    world.restart()
    passes(world, 190)
    assert world.status(task) == "processing"
    world.restart()
    passes(world, 10)
    assert world.status(task) == "failed"


def test_hour_without_an_operator_is_no_step(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    world.clock.advance(HOUR)
    world.restart()
    world.reconcile()
    assert world.status(task) == "failed"


def test_hour_of_a_frozen_operator_is_no_step(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    world.clock.advance(HOUR)
    world.reconcile()
    assert world.status(task) == "failed"


def test_operator_frozen_during_a_pass_fails_no_new_task(world: World) -> None:
    """The pass has read the clock; then it is frozen for an hour, and goes on."""
    interruption = Interruption()
    world.operator = interrupted_operator(world, interruption)
    back = world.add("enrolled")
    world.reconcile()
    world.add("processing")
    world.set(back, "processing")
    later = list[int]()

    def freeze() -> None:
        world.clock.advance(HOUR)
        later.append(world.add("processing"))

    with interruption.after(1, freeze):
        world.reconcile()
    passes(world, 290)
    assert world.status(later[0]) == world.status(back) == "processing"
    passes(world, 20)
    assert world.status(later[0]) == world.status(back) == "failed"


@pytest.mark.parametrize("is_seen", [True, False])
def test_pause_of_a_run_that_was_set_aside_ends_after_a_step_back(
    world: World, is_seen: bool
) -> None:
    task = world.add("enrolled")
    world.add("processing")
    world.reconcile()
    late = f"{world.clock.now + timedelta(seconds=500):%Y-%m-%d %H:%M:%S.%f}"
    world.sql("UPDATE enrollgate_runs SET state = 'ended', retry_at = :late", late=late)
    world.clock.step(-HOUR)
    if not is_seen:
        world.restart()
    world.reconcile()
    passes(world, 10)
    assert [run.state for run in world.runs(task)] != ["ended"], "it was not looked at again"


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_step_that_two_operators_notice_moves_each_task_once(world: World, step: float) -> None:
    first, second = world.operator, world.new_operator()
    early = world.add("processing")
    first.reconcile()
    second.reconcile()
    world.clock.advance(100)
    for number in range(3):
        late = world.add("processing")
        (first, second)[number % 2].reconcile()
        (second, first)[number % 2].reconcile()
        world.clock.step(step)
        (first, second)[number % 2].reconcile()
        after = world.add("processing")
        (second, first)[number % 2].reconcile()
        first.reconcile()
        assert waited(world, early) == pytest.approx(100, abs=0.01)
        assert waited(world, late) == waited(world, after) == pytest.approx(0, abs=0.01)
        world.sql("DELETE FROM download_tasks WHERE id <> :id", id=early)
        first.reconcile()


def waited(world: World, task: int) -> float:
    with world.database.read_transaction() as connection:
        statement = text("SELECT first_seen_at FROM enrollgate_tasks WHERE task_id = :id")
        since = connection.execute(
            statement.columns(first_seen_at=INSTANT), {"id": task}
        ).scalar_one()
    assert isinstance(since, datetime)
    return (world.clock.now - since).total_seconds()


def test_clock_set_back_without_an_operator_costs_one_timeout_at_most(world: World) -> None:
    task = world.add("processing")
    world.reconcile()
    world.clock.step(-HOUR)
    world.restart()
    world.reconcile()
    passes(world, 290)
    assert world.status(task) == "processing"
    passes(world, 10)
    assert world.status(task) == "failed"


def test_enrolled_task_is_launched_whatever_the_clock_says(world: World) -> None:
    waiting = world.add("processing")
    world.reconcile()
    for step in (HOUR, -2 * HOUR, HOUR):
        world.clock.step(step)
        task = world.add("enrolled")
        world.reconcile()
        assert f"test-{task}-1" in world.launcher.live
    assert world.status(waiting) == "processing"


def test_servers_own_clock_that_is_set_fails_no_task(server_database_url: str) -> None:
    """By the server's own function, moved: the time that passes is the real one."""
    offset = [0]

    def clock(*, is_sqlite: bool) -> ColumnElement[datetime]:
        now = database_clock(is_sqlite=is_sqlite)
        seconds = bindparam("offset", type_=Integer, unique=True, callable_=lambda: offset[0])
        return func.timestampadd(text("SECOND"), seconds, now, type_=INSTANT)

    with closing(World(server_database_url, database_clock=clock)) as world:
        task = world.add("processing")
        world.reconcile()
        for offset[0] in (3600, 7200, 0, -3600, 0):
            world.reconcile()
            assert world.status(task) == "processing"
        since = world.scalar(
            "SELECT TIMESTAMPDIFF(SECOND, first_seen_at, UTC_TIMESTAMP(6)) FROM enrollgate_tasks"
        )
        assert 0 <= since < 300


def test_real_servers_clock_that_is_set_fails_no_task(own_mariadb: Server) -> None:
    """libfaketime sets the clock of the server process while it works."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        absent("libfaketime", "run scripts/faketime")
    setting = own_mariadb.folder / "clock"
    setting.write_text("+0")
    variables = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": setting,
        "FAKETIME_NO_CACHE": 1,
        "DONT_FAKE_MONOTONIC": 1,
    }
    own_mariadb.stop()
    environment = [f"{name}={value}" for name, value in variables.items()]
    own_mariadb.command = ["env", *environment, *own_mariadb.command]
    own_mariadb.start()
    with (
        fresh_database(own_mariadb.url("")) as url,
        closing(World(url, database_clock=database_clock)) as world,
    ):
        task = world.add("processing")
        world.reconcile()
        for hours in (1, 2, 0, -1, 0):
            setting.write_text(f"{hours * HOUR:+.0f}")
            ahead = world.database.now() - datetime.now(UTC).replace(tzinfo=None)
            assert ahead / timedelta(hours=1) == pytest.approx(hours, abs=0.1)
            world.reconcile()
            assert world.status(task) == "processing"
        waited = "SELECT TIMESTAMPDIFF(SECOND, first_seen_at, UTC_TIMESTAMP(6))"
        assert 0 <= world.scalar(f"{waited} FROM enrollgate_tasks") < 300
