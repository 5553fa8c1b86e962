"""Node.js changes, replaces or re-inserts a row while its run is live.

A run belongs to the row as it was claimed: its id, account and course URL.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import text
from tests.world import COURSE, MemoryLauncher, World

from enrollgate.database import runs
from enrollgate.domain.account import cookies_name
from enrollgate.domain.observation import LaunchResult, Observation, Phase
from enrollgate.domain.planner import Launch
from enrollgate.domain.run import UnfinishedRun

OTHER_COURSE = "https://courses.example.com/course/2"
Change = Callable[[World, int], None]


def replace_row(world: World, task: int, url: str = OTHER_COURSE) -> None:
    world.sql(
        "REPLACE INTO download_tasks (id, status, email, course_url) "
        "VALUES (:id, 'enrolled', 'ada@example.com', :url)",
        id=task,
        url=url,
    )


def insert_again(world: World, task: int, url: str = OTHER_COURSE) -> None:
    world.delete(task)
    world.sql(
        "INSERT INTO download_tasks (id, status, email, course_url) "
        "VALUES (:id, 'enrolled', 'ada@example.com', :url)",
        id=task,
        url=url,
    )


def write(column: str, value: object) -> Change:
    """Return a change of one column."""

    def change(world: World, task: int) -> None:
        world.sql(
            f"UPDATE download_tasks SET {column} = :value WHERE id = :id", value=value, id=task
        )

    return change


CHANGES = {
    "replaced": replace_row,
    "inserted again": insert_again,
    "another course": write("course_url", OTHER_COURSE),
    "a longer path": write("course_url", f"{COURSE}/x"),
    "another account": write("email", "bob@example.com"),
    "upper case": write("course_url", COURSE.replace("course/1", "Course/1")),
    "a trailing space": write("email", "ada@example.com "),
    "no e-mail": write("email", None),
    "an empty e-mail": write("email", ""),
}


class ChangingLauncher(MemoryLauncher):
    """A launcher in memory. Node.js writes while the operator waits for its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.before_the_rest: Callable[[], None] = lambda: None
        self.before_the_launch: Callable[[], None] = lambda: None

    def observe(
        self, expected: Collection[str], *, only: bool = False
    ) -> Mapping[str, Observation]:
        self.before_the_rest()
        self.before_the_rest = lambda: None
        return super().observe(expected, only=only)

    def launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        self.before_the_launch()
        yield from super().launch(launches)


@pytest.fixture
def launcher() -> ChangingLauncher:
    return ChangingLauncher()


@pytest.fixture
def world(database_url: str, launcher: ChangingLauncher) -> Iterator[World]:
    with closing(World(database_url)) as world:
        world.launcher = launcher
        world.restart()
        yield world


def launch_first(world: World) -> tuple[int, str]:
    """Launch the run of a new row. Return the task and the run's name."""
    task = world.add("enrolled")
    world.reconcile()
    assert world.launcher.live == [f"test-{task}-1"]
    return task, f"test-{task}-1"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_row_stops_its_run_and_gets_another_one(world: World, change: Change) -> None:
    task, first = launch_first(world)
    change(world, task)
    world.reconcile()
    assert world.runs(task)[0].state == "stopping" and first in world.launcher.stopping
    world.reconcile()
    before, *after = world.runs(task)
    assert (before.outcome, before.reason) == ("revoked", "TaskChanged")
    assert len(after) == 1, "the row as it is now has a run of its own"
    assert len(world.launcher.live) <= 1


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("end", ["succeed", "fail", "stick"])
def test_result_for_an_earlier_content_does_not_move_the_task(
    world: World, change: Change, end: str
) -> None:
    task, first = launch_first(world)
    getattr(world.launcher, end)(first)
    change(world, task)
    world.reconcile()
    world.reconcile()
    before, after = world.runs(task)
    assert (before.outcome, before.reason) == ("revoked", "TaskChanged")
    assert world.status(task) == "enrolled" or after.reason == "InvalidTask"


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_row_that_changes_in_the_moment_of_the_result_is_left(
    world: World, launcher: ChangingLauncher, end: str
) -> None:
    """Node.js commits after the pass has read the row, and before the result is written."""
    task, first = launch_first(world)
    getattr(world.launcher, end)(first)

    launcher.before_the_rest = lambda: replace_row(world, task)
    world.reconcile()
    assert world.status(task) == "enrolled"
    world.reconcile()
    assert world.launcher.orders[-1].course_url == OTHER_COURSE
    world.launcher.succeed(f"test-{task}-2")
    world.reconcile()
    assert world.status(task) == "completed"


def test_equal_row_inserted_again_keeps_its_run(world: World) -> None:
    task, first = launch_first(world)
    replace_row(world, task, COURSE)
    world.reconcile()
    insert_again(world, task, COURSE)
    world.reconcile()
    world.launcher.succeed(first)
    world.reconcile()
    assert world.status(task) == "completed" and len(world.runs(task)) == 1


def test_new_content_is_delivered_under_its_own_account(world: World) -> None:
    task, _ = launch_first(world)
    world.sql(
        "UPDATE download_tasks SET email = 'bob@example.com', course_url = :url", url=OTHER_COURSE
    )
    world.reconcile()
    world.reconcile()
    order = world.launcher.orders[-1]
    assert (order.name, order.course_url) == (f"test-{task}-2", OTHER_COURSE)
    assert order.cookies_name == cookies_name("bob@example.com")
    world.launcher.succeed(order.name)
    world.reconcile()
    assert world.status(task) == "completed"


def test_row_that_changes_before_its_launch_is_not_launched(world: World) -> None:
    """The last check before a launch looks at the content, too."""
    task = world.add("enrolled")
    world.launcher.full = True
    world.reconcile()
    world.launcher.full = False
    write("course_url", OTHER_COURSE)(world, task)
    world.reconcile()
    assert [order.course_url for order in world.launcher.orders] == [OTHER_COURSE]
    assert world.runs(task)[0].reason == "TaskChanged"


def test_row_that_changes_in_the_moment_of_its_launch_waits(
    world: World, launcher: ChangingLauncher
) -> None:
    task = world.add("enrolled")
    launcher.before_the_launch = lambda: write("course_url", OTHER_COURSE)(world, task)
    world.reconcile()
    assert world.launcher.orders == []
    world.reconcile()
    assert [order.course_url for order in world.launcher.orders] == [OTHER_COURSE]


def test_failed_task_with_a_corrected_url_runs_once_its_old_run_ended(world: World) -> None:
    task, first = launch_first(world)
    world.launcher.lingering = True
    world.set(task, "failed")
    world.reconcile()
    write("course_url", OTHER_COURSE)(world, task)
    world.set(task, "enrolled")
    for _ in range(3):
        world.reconcile()
    assert world.launcher.live == [first] and len(world.runs(task)) == 1
    world.launcher.lingering = False
    world.reconcile()
    assert world.launcher.live == [f"test-{task}-2"]
    world.launcher.succeed(f"test-{task}-2")
    world.reconcile()
    assert world.status(task) == "completed"
    assert [run.outcome for run in world.runs(task)] == ["revoked", "succeeded"]


def test_changed_row_with_an_unknown_status_stops_its_run_and_fails(world: World) -> None:
    task, _ = launch_first(world)
    write("course_url", OTHER_COURSE)(world, task)
    world.set(task, "odd")
    for _ in range(3):
        world.reconcile()
    assert world.status(task) == "failed" and world.launcher.runs == {}
    assert [run.reason for run in world.runs(task)] == ["TaskChanged", "UnexpectedStatus"]


@pytest.mark.parametrize(
    "columns",
    [
        "VARCHAR(200) CHARACTER SET latin1",
        "VARCHAR(200) CHARACTER SET utf8mb3",
        "VARCHAR(200) CHARACTER SET utf16",
        "VARBINARY(200)",
        "CHAR(200) CHARACTER SET ascii",
        "LONGTEXT CHARACTER SET utf8mb4",
    ],
)
def test_change_is_noticed_in_columns_of_any_type(server_database_url: str, columns: str) -> None:
    with closing(World(server_database_url)) as world:
        world.sql(f"ALTER TABLE download_tasks MODIFY email {columns}, MODIFY course_url {columns}")
        if "ascii" in columns or "utf16" in columns:
            task, first = launch_first(world)
        else:
            task = world.add("enrolled", email="zoë@example.com")
            world.reconcile()
            first = f"test-{task}-1"
        world.reconcile()
        assert world.launcher.live == [first], "a row that did not change keeps its run"
        world.sql("UPDATE download_tasks SET email = 'zoe@example.com'")
        world.reconcile()
        world.reconcile()
        assert world.runs(task)[0].reason == "TaskChanged"
        world.launcher.succeed(f"test-{task}-2")
        world.reconcile()
        assert world.status(task) == "completed"


def test_number_and_blob_in_sqlite_are_compared_by_their_text(sqlite_url: str) -> None:
    with closing(World(sqlite_url)) as world:
        task, first = launch_first(world)
        world.sql("UPDATE download_tasks SET email = CAST(email AS BLOB)")
        world.reconcile()
        assert world.launcher.live == [first]
        world.sql("UPDATE download_tasks SET email = 7")
        world.reconcile()
        world.reconcile()
        assert world.runs(task)[0].reason == "TaskChanged"
        world.sql("UPDATE download_tasks SET email = '7'")
        world.reconcile()
        world.launcher.succeed(f"test-{task}-2")
        world.reconcile()
        assert world.status(task) == "completed"


def test_run_row_holds_no_email_and_no_url(world: World) -> None:
    """It outlives the task's row, and other programs may read it."""
    launch_first(world)
    with world.database.read_transaction() as connection:
        (row,) = connection.execute(text("SELECT * FROM enrollgate_runs")).all()
    assert "ada" not in str(row) and COURSE not in str(row)


# another claim of the same name


def test_live_orphan_of_another_claim_is_stopped_and_never_adopted(world: World) -> None:
    """A back-up without the claim was restored while its run was live."""
    task, first = launch_first(world)
    orphan = world.launcher.runs[first]
    world.launcher.lingering = True
    world.sql("DELETE FROM enrollgate_runs")
    for _ in range(3):
        world.reconcile()
    assert world.launcher.runs[first].claim_id == orphan.claim_id
    assert first in world.launcher.stopping
    assert [run.state for run in world.runs(task)] == ["claimed"], "it waits for the name"
    world.launcher.lingering = False
    world.reconcile()
    assert world.launcher.live == [first] and world.runs(task)[0].state == "launched"
    assert world.launcher.runs[first].claim_id != orphan.claim_id
    assert len(world.launcher.orders) == 2
    world.launcher.succeed(first)
    world.reconcile()
    assert world.status(task) == "completed"


@pytest.mark.parametrize("end", ["succeed", "fail", "stick"])
def test_ended_orphan_of_another_claim_decides_nothing(world: World, end: str) -> None:
    task, first = launch_first(world)
    orphan = world.launcher.runs[first].claim_id
    world.sql("UPDATE enrollgate_runs SET claim_id = 'of the back-up', state = 'claimed'")
    getattr(world.launcher, end)(first)
    world.reconcile()
    world.reconcile()
    assert world.status(task) == "enrolled" and world.runs(task)[0].state == "launched"
    assert world.launcher.runs[first].claim_id != orphan
    assert world.launcher.runs[first].phase is Phase.LIVE


def test_orphan_of_a_run_known_as_launched_is_replaced_by_a_new_run(world: World) -> None:
    task, first = launch_first(world)
    world.sql("UPDATE enrollgate_runs SET claim_id = 'of the back-up'")
    for _ in range(2):
        world.reconcile()
    assert [run.outcome for run in world.runs(task)] == ["lost", None]
    assert world.launcher.live == [f"test-{task}-2"] and first not in world.launcher.runs


def test_restored_claim_adopts_the_run_that_it_launched(world: World) -> None:
    task, first = launch_first(world)
    world.sql("UPDATE enrollgate_runs SET state = 'claimed', launched_at = NULL")
    world.reconcile()
    assert world.launcher.live == [first] and len(world.launcher.orders) == 1
    assert world.runs(task)[0].state == "launched"


@pytest.mark.parametrize("status", ["failed", "completed"])
def test_a_task_set_back_within_one_pass_gets_a_fresh_run(
    world: World, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    task, first = launch_first(world)
    world.set(task, status)
    read = runs.unfinished

    def set_back_first(*arguments: Any, **options: Any) -> list[UnfinishedRun]:
        world.set(task, "enrolled")
        monkeypatch.setattr(runs, "unfinished", read)
        return read(*arguments, **options)

    monkeypatch.setattr(runs, "unfinished", set_back_first)
    world.reconcile()
    assert first in world.launcher.stopping
    check_fresh_run(world, task)


def check_fresh_run(world: World, task: int) -> None:
    world.reconcile()
    assert [run.outcome for run in world.runs(task)] == ["revoked", None]
    assert world.launcher.live == [f"test-{task}-2"]
