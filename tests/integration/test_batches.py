"""Runs that finish together are recorded together: what befalls one of them befalls it alone."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import text
from tests.interruptions import Interruption, interrupted_operator
from tests.world import World, at_once

from enrollgate.control.reconciler import END_LIMIT, RECORD_BATCH
from enrollgate.database import queries
from enrollgate.domain.policy import Policy
from enrollgate.domain.run_event import RunEventType

BAD = "a@example.com"
# MySQL and SQLite differ in their triggers.
TRIGGER = "CREATE TRIGGER guard BEFORE UPDATE ON download_tasks FOR EACH ROW "
SIGNAL = (
    f"BEGIN IF NEW.email = '{BAD}' THEN SIGNAL SQLSTATE '45000' "
    "SET MESSAGE_TEXT = 'the guard says no'; END IF; END"
)
KEEP = f"BEGIN IF NEW.email = '{BAD}' THEN SET NEW.status = OLD.status; END IF; END"
RAISE = f"WHEN NEW.email = '{BAD}' BEGIN SELECT RAISE(ABORT, 'the guard says no'); END"
PUT_BACK = (
    "CREATE TRIGGER guard AFTER UPDATE ON download_tasks FOR EACH ROW "
    f"WHEN NEW.email = '{BAD}' AND NEW.status = 'completed' "
    "BEGIN UPDATE download_tasks SET status = OLD.status WHERE id = NEW.id; END"
)


@pytest.fixture(params=["sqlite", "mariadb", "mysql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    policy = Policy(enrollment_timeout=300, max_concurrent_runs=10_000)
    url = str(request.getfixturevalue(f"{request.param}_url"))
    with closing(World(url, policy)) as made:
        yield made


def finished(world: World, count: int) -> list[int]:
    """Return so many tasks whose runs have succeeded, and are not recorded. The third is BAD's."""
    tasks = [
        world.add("enrolled", BAD if number == 2 else "b@example.com") for number in range(count)
    ]
    world.reconcile()
    for task in tasks:
        world.launcher.succeed(f"test-{task}-1")
    return tasks


def outcomes(world: World, tasks: list[int]) -> set[tuple[str | None, str, str | None]]:
    """Return the statuses of these tasks with the states and outcomes of their runs."""
    return {
        (world.status(run.task_id), run.state, run.outcome)
        for run in world.runs()
        if run.task_id in tasks
    }


DONE = {("completed", "finished", "succeeded")}


def test_many_finished_runs_cost_statements_per_batch(world: World) -> None:
    sent = []
    for count in (2, RECORD_BATCH):
        tasks = finished(world, count)
        sent.append(world.reconcile().statements)
        assert outcomes(world, tasks) == DONE
    assert sent[0] == sent[1]
    one = finished(world, 1)
    # SQLite does not count what an INSTEAD OF trigger writes, so the row is read before, too.
    assert world.reconcile().statements <= sent[0] + world.database.is_sqlite
    assert outcomes(world, one) == DONE


def test_more_finished_runs_than_one_pass_records_are_left_to_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enrollgate.control.reconciler.END_LIMIT", 7)
    monkeypatch.setattr("enrollgate.control.reconciler.RECORD_BATCH", 3)
    assert END_LIMIT > 7
    tasks = finished(world, 10)
    summary = world.reconcile()
    assert summary.finished == 7 and summary.more
    assert world.reconcile().finished == 3
    assert outcomes(world, tasks) == DONE


def test_failed_runs_in_a_batch_keep_their_reasons_and_remedies(world: World) -> None:
    tasks = finished(world, 3)
    world.launcher.fail(f"test-{tasks[1]}-1")
    world.reconcile()
    assert [world.status(task) for task in tasks] == ["completed", "failed", "completed"]
    (run,) = world.runs(tasks[1])
    assert (run.outcome, run.reason, run.message) == ("failed", "AccessDenied", "the site said no")
    with world.database.read_transaction() as connection:
        remedies = connection.execute(
            text("SELECT remedy FROM enrollgate_runs ORDER BY task_id")
        ).scalars()
        assert [bool(remedy) for remedy in remedies] == [False, True, False]


@pytest.mark.parametrize("is_silent", [False, True])
def test_refused_row_in_a_batch_is_set_aside_alone(world: World, is_silent: bool) -> None:
    tasks = finished(world, 5)
    if world.database.is_sqlite:
        world.sql(PUT_BACK if is_silent else TRIGGER + RAISE)
    else:
        world.sql(TRIGGER + (KEEP if is_silent else SIGNAL))
    assert world.reconcile().finished == 5
    bad = tasks.pop(2)
    assert outcomes(world, tasks) == DONE
    assert outcomes(world, [bad]) == {("enrolled", "ended", "succeeded")}
    assert [each.task_id for each in queries.tasks_set_aside(world.database)] == [bad]
    world.sql("DROP TRIGGER guard")
    world.clock.advance(10)
    world.reconcile()
    assert outcomes(world, [bad]) == DONE


def test_held_row_in_a_batch_holds_no_other_up(world: World) -> None:
    if world.database.is_sqlite:
        pytest.skip("SQLite locks the whole file")
    tasks = finished(world, 4)
    bad = tasks.pop(2)
    with closing(world.open()) as database, database.engine.connect() as holder:
        holder.execute(text("SELECT id FROM download_tasks WHERE id = :id FOR UPDATE"), {"id": bad})
        world.reconcile()
        holder.rollback()
    assert outcomes(world, tasks) == DONE
    assert outcomes(world, [bad]) == {("enrolled", "launched", None)}
    world.reconcile()
    assert outcomes(world, [bad]) == DONE


def test_unforeseen_error_in_a_batch_concerns_its_run_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = finished(world, 4)
    bad = tasks.pop(2)
    broken = world.launcher.runs[f"test-{bad}-1"].report
    assert broken is not None
    bounded = type(broken).bounded

    def break_one(report: object) -> object:
        if report is broken:
            raise ZeroDivisionError("nobody foresaw it")
        return bounded(report)  # type: ignore[arg-type]  # a report

    monkeypatch.setattr(type(broken), "bounded", break_one)
    world.reconcile()
    assert outcomes(world, tasks) == DONE
    assert outcomes(world, [bad]) == {("enrolled", "launched", None)}


def changes(world: World, tasks: list[int]) -> list[tuple[Callable[[], object], str]]:
    """Return what may happen to the second of these tasks meanwhile, and the status it leads to."""
    task = tasks[1]
    return [
        (lambda: world.set(task, "failed"), "failed"),
        (lambda: world.set(task, "processing"), "processing"),
        (
            lambda: world.sql(
                "UPDATE download_tasks SET course_url = 'https://other.example' WHERE id = :id",
                id=task,
            ),
            "enrolled",
        ),
    ]


@pytest.mark.parametrize("what", range(3))
def test_changed_row_in_a_batch_is_never_completed(world: World, what: int) -> None:
    """The row changes at each point of the pass, before and after each effect."""
    for points in range(40):
        tasks = finished(world, 3)
        interruption = Interruption()
        operator = interrupted_operator(world, interruption)
        change, status = changes(world, tasks)[what]
        recorded_before = list[bool]()

        def interrupt() -> None:
            recorded_before.append(world.status(tasks[1]) == "completed")  # noqa: B023 -- at once
            change()  # noqa: B023 -- at once

        with interruption.after(points, interrupt):
            operator.reconcile()
        assert outcomes(world, [tasks[0], tasks[2]]) == DONE
        if not recorded_before:
            break
        is_kept = recorded_before[0] and status == "enrolled"
        assert world.status(tasks[1]) == ("completed" if is_kept else status)
        world.sql("DELETE FROM download_tasks")
        world.restart()
        world.launcher.runs.clear()
        world.sql("DELETE FROM enrollgate_runs")
        world.reconcile()
    assert 4 < points < 39


def test_operator_that_ends_at_any_point_leaves_every_run_recorded_once(world: World) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    for points in range(40):
        tasks = finished(world, 3)
        world.launcher.events.clear()
        interruption = Interruption()
        operator = interrupted_operator(world, interruption)
        is_killed = False
        with interruption.after(points, kill):
            try:
                operator.reconcile()
            except Killed:
                is_killed = True
        world.restart()
        world.reconcile()
        assert outcomes(world, tasks) == DONE
        assert not world.launcher.runs
        ends = [
            name for name, event in world.launcher.events if event.kind is RunEventType.COMPLETED
        ]
        assert len(ends) == len(set(ends))
        if not is_killed:
            break
    assert 4 < points < 39


def test_runs_recorded_by_another_operator_meanwhile_are_left_to_it(world: World) -> None:
    for points in range(40):
        tasks = finished(world, 3)
        world.launcher.events.clear()
        interruption = Interruption()
        operator, other = interrupted_operator(world, interruption), world.new_operator()
        with interruption.after(points, other.reconcile):
            operator.reconcile()
            is_reached = interruption.countdown is None
        assert outcomes(world, tasks) == DONE
        ends = [
            name for name, event in world.launcher.events if event.kind is RunEventType.COMPLETED
        ]
        assert sorted(ends) == sorted(f"test-{task}-1" for task in tasks), f"after {points} points"
        if not is_reached:
            break
    assert 4 < points < 39


def test_two_operators_that_record_at_once_record_each_run_once(world: World) -> None:
    tasks = finished(world, 60)
    with closing(world.open()) as first, closing(world.open()) as second:
        operators = [world.new_operator(database) for database in (first, second)]
        at_once(*(operator.reconcile for operator in operators))
    world.reconcile()
    assert outcomes(world, tasks) == DONE
    ends = [name for name, event in world.launcher.events if event.kind is RunEventType.COMPLETED]
    assert sorted(ends) == sorted(f"test-{task}-1" for task in tasks)
