"""The view `enrollgate_task_status`: what Node.js sees of its tasks, on all three databases."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import RowMapping, make_url, text
from tests.databases.server import execute, limited_user
from tests.world import EPOCH, World

from enrollgate.database import Tables, holds, open_database
from enrollgate.database.preflight import check_view
from enrollgate.database.task_status import VIEW, ensure_view, find_view_problem, task_status
from enrollgate.domain.account import account_sha256
from enrollgate.domain.check import Severity
from enrollgate.domain.hold import Hold, HoldKind, Scope
from enrollgate.domain.task import Statuses, TaskColumns


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with closing(World(database_url)) as world:
        assert ensure_view(world.database, world.tables, "test") is None
        yield world


def read(world: World, task_id: int) -> RowMapping | None:
    """Return the view's row of a task; None if it has none."""
    statement = task_status.select().where(task_status.c.task_id == task_id)
    with world.database.read_transaction() as connection:
        rows = connection.execute(statement).mappings().all()
    assert len(rows) < 2
    return rows[0] if rows else None


def seen(world: World, task_id: int, *columns: str) -> tuple[object, ...]:
    row = read(world, task_id)
    assert row is not None
    return tuple(row[column] for column in columns)


def test_task_shows_each_state_from_waiting_to_completed(world: World) -> None:
    task = world.add("pending")
    assert seen(world, task, "state", "status", "since") == ("waiting", "pending", None)
    world.operator.reconcile()
    assert seen(world, task, "state", "since", "run_number") == ("waiting", EPOCH, None)
    world.clock.advance(30)
    world.set(task, "enrolled")
    world.launcher.full = True
    world.operator.reconcile()
    assert seen(world, task, "state", "run_name") == ("queued", f"test-{task}-1")
    world.launcher.full = False
    world.operator.reconcile()
    launched = EPOCH + timedelta(seconds=30)
    assert seen(world, task, "state", "since", "run_number") == ("running", launched, 1)
    world.clock.advance(60)
    world.launcher.succeed(f"test-{task}-1")
    world.operator.reconcile()
    columns = ("state", "status", "percent", "reason", "message", "since", "first_seen_at")
    ended = launched + timedelta(seconds=60)
    message = "the course is complete"
    assert seen(world, task, *columns) == (
        *("completed", "completed", 100, None, message, ended, EPOCH),
    )


def test_failed_task_says_why_until_it_is_open_again(world: World) -> None:
    task = world.add("enrolled")
    world.operator.reconcile()
    world.launcher.fail(f"test-{task}-1")
    world.operator.reconcile()
    state, reason, message, remedy = seen(world, task, "state", "reason", "message", "remedy")
    assert (state, reason, message) == ("failed", "AccessDenied", "the site said no")
    assert remedy
    world.set(task, "paid")
    world.operator.reconcile()
    columns = ("state", "run_number", "reason", "message", "remedy", "finished_at")
    assert seen(world, task, *columns) == ("waiting", *[None] * 5)


def test_task_that_timed_out_is_failed_with_its_reason(world: World) -> None:
    task = world.add("paid")
    world.operator.reconcile()
    world.clock.advance(300)
    world.operator.reconcile()
    assert seen(world, task, "state", "reason") == ("failed", "EnrollmentTimeout")


def test_refused_launch_is_held_with_its_message(world: World) -> None:
    task = world.add("enrolled")
    world.launcher.refused[task] = "the quota of Jobs is used up"
    world.operator.reconcile()
    state, message, since = seen(world, task, "state", "message", "since")
    assert (state, since) == ("held", EPOCH)
    assert "the quota of Jobs is used up" in str(message)


def test_queued_task_says_which_quota_its_run_waits_for(world: World) -> None:
    first, second = world.add("enrolled"), world.add("enrolled")
    world.launcher.waits = "the quota `few` allows no further Job now"
    for _ in range(2):
        world.operator.reconcile()
    for task in (first, second):
        assert seen(world, task, "state", "message") == ("queued", world.launcher.waits)
    world.launcher.waits = "the quota `none` allows no further Job now"
    world.operator.reconcile()
    assert seen(world, first, "state", "message") == ("queued", world.launcher.waits)
    world.launcher.waits = ""
    world.operator.reconcile()
    for task in (first, second):
        assert seen(world, task, "state", "message", "reason") == ("running", None, None)


def test_run_that_waits_is_written_only_when_its_reason_changes(world: World) -> None:
    world.add("enrolled")
    world.launcher.waits = "no room"
    sent = [world.operator.reconcile().statements for _ in range(4)]
    assert sent[2] == sent[3] < sent[0]


def test_queued_tasks_have_their_position_in_the_order_of_ids(world: World) -> None:
    tasks = [world.add("enrolled") for _ in range(13)]
    for _ in range(2):
        world.operator.reconcile()
    states = [seen(world, task, "state", "queue_position") for task in tasks]
    assert states == [("running", None)] * 10 + [("queued", place) for place in (1, 2, 3)]


def test_queue_of_several_accounts_or_with_priorities_has_no_positions(world: World) -> None:
    for _ in range(10):
        world.add("enrolled")
    world.operator.reconcile()
    mine, other = world.add("enrolled"), world.add("enrolled", "bob@example.com")
    again, null = world.add("enrolled", " Ada@Example.com"), world.add("enrolled", None)
    world.operator.reconcile()
    queued = ("queued", None)
    for task in (mine, other, again):
        assert seen(world, task, "state", "queue_position") == queued, "accounts take turns"
    for left in (other, null):
        world.set(left, "failed")
    world.operator.reconcile()
    assert seen(world, again, "state", "queue_position") == ("queued", 2)
    world.sql("ALTER TABLE download_tasks ADD COLUMN urgency INTEGER")
    world.tables = Tables.named(TaskColumns(priority="urgency"), world.statuses)
    assert ensure_view(world.database, world.tables, "test") is None
    assert seen(world, again, "state", "queue_position") == queued


def hold_account(world: World) -> int:
    """Open a hold of everybody's account, as the operator does, and return its number."""
    hold = Hold(
        kind=HoldKind.HOLD,
        scope=Scope.ACCOUNT,
        subject=account_sha256("ada@example.com"),
        reason="CookiesExpired",
        opened_at=world.clock.now,
        message="the site asked for a login",
        remedy="Export new cookies.",
        run_name="test-1-1",
        probe_at=world.clock.now + timedelta(minutes=5),
        ends_at=world.clock.now + timedelta(days=7),
    )
    assert holds.insert_hold(world.database, hold, "test")
    return world.scalar("SELECT MAX(id) FROM enrollgate_holds")


def test_task_on_hold_says_why_and_until_when(world: World) -> None:
    hold = hold_account(world)
    held, other = world.add("enrolled"), world.add("enrolled", "bob@example.com")
    waiting = world.add("paid")
    for _ in range(2):
        world.operator.reconcile()
    columns = ("state", "since", "reason", "message", "remedy", "queue_position")
    assert seen(world, held, *columns) == (
        *("held", EPOCH, "CookiesExpired", "the site asked for a login"),
        "Export new cookies. A new cookies file closes the hold, if the operator can read it.",
        None,
    )
    numbers = ("hold_id", "hold_scope", "hold_probe_at", "hold_ends_at")
    probe, ends = EPOCH + timedelta(minutes=5), EPOCH + timedelta(days=7)
    assert seen(world, held, *numbers) == (hold, "account", probe, ends)
    assert seen(world, other, "state", *numbers) == ("running", *[None] * 4)
    assert seen(world, waiting, "state", *numbers) == ("waiting", *[None] * 4)
    world.sql("UPDATE enrollgate_holds SET closed_at = opened_at, closed_by = 'x'")
    assert seen(world, held, "state", "reason", "hold_id") == ("queued", None, None)
    world.operator.reconcile()
    assert seen(world, held, "state") == ("running",)


def test_task_that_is_paused_by_sql_says_what_to_do(world: World) -> None:
    world.sql(
        "INSERT INTO enrollgate_holds (installation, scope, opened_by, message) "
        "VALUES ('test', 'installation', 'admin page', 'a move')"
    )
    task = world.add("enrolled")
    for _ in range(2):
        world.operator.reconcile()
    found = seen(world, task, "state", "reason", "message", "remedy")
    remedy = "Nothing: it goes on when the pause ends, or when a person ends it."
    assert found == ("held", "Paused", "a move", remedy)


def test_task_behind_held_ones_is_first_in_the_queue(world: World) -> None:
    hold_account(world)
    for _ in range(3):
        world.add("enrolled")
    free = [world.add("enrolled", f"{number}@example.com") for number in range(11)]
    for _ in range(2):
        world.operator.reconcile()
    assert seen(world, free[-1], "state", "queue_position") == ("queued", 1)


def test_row_that_was_never_a_task_is_not_in_the_view(world: World) -> None:
    odd, null = world.add("archived"), world.add("x")
    world.set(null, None)
    world.operator.reconcile()
    assert read(world, odd) is read(world, null) is None


def test_archived_task_keeps_the_state_of_its_last_run(world: World) -> None:
    good, bad = world.add("enrolled"), world.add("enrolled")
    world.operator.reconcile()
    world.launcher.succeed(f"test-{good}-1")
    world.launcher.fail(f"test-{bad}-1")
    world.operator.reconcile()
    world.set(good, "archived")
    world.set(bad, None)
    world.operator.reconcile()
    assert seen(world, good, "state", "status") == ("completed", "archived")
    assert seen(world, bad, "state", "status", "reason") == ("failed", None, "AccessDenied")


def test_seconds_left_follow_the_timeout_of_the_operator(world: World) -> None:
    task = world.add("paid")
    world.operator.reconcile()
    since = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1000)
    world.sql("UPDATE enrollgate_tasks SET first_seen_at = :since", since=str(since))
    world.sql("UPDATE enrollgate_operators SET enrollment_timeout = 5000")
    (left,) = seen(world, task, "seconds_left")
    assert isinstance(left, int) and 3000 < left <= 4000
    world.sql("UPDATE enrollgate_operators SET enrollment_timeout = 900")
    assert seen(world, task, "seconds_left") == (0,)


def test_view_is_made_again_when_a_status_or_a_column_changes(world: World) -> None:
    task = world.add("bezahlt")
    statuses = Statuses(waiting=("bezahlt",), enrolled="it's \\ 100% ok")
    renamed = Tables.named(TaskColumns(), statuses)
    assert check_view(world.database, world.tables, "test").severity is Severity.OK
    check = check_view(world.database, renamed, "test")
    assert check.severity is Severity.WARNING and "other settings" in check.detail
    assert ensure_view(world.database, renamed, "test") is None
    assert find_view_problem(world.database, renamed, "test") is None
    assert seen(world, task, "state") == ("waiting",)
    world.set(task, statuses.enrolled)
    assert seen(world, task, "state") == ("queued",)
    world.sql("ALTER TABLE download_tasks RENAME COLUMN id TO number")
    columns = Tables.named(TaskColumns(id="number"), statuses)
    assert ensure_view(world.database, columns, "test") is None
    assert seen(world, task, "state") == ("queued",)


def test_dropped_view_is_made_again(world: World) -> None:
    world.sql(f"DROP VIEW {VIEW}")
    problem = find_view_problem(world.database, world.tables, "test")
    assert problem is not None and "cannot be read" in problem.problem
    assert ensure_view(world.database, world.tables, "test") is None
    assert find_view_problem(world.database, world.tables, "test") is None


def test_query_for_one_task_reads_rows_by_their_keys(world: World) -> None:
    """The servers merge the view, and no table is scanned."""
    tasks = [world.add("enrolled") for _ in range(3)]
    world.operator.reconcile()
    is_sqlite = world.database.is_sqlite
    explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN FORMAT=JSON"
    with world.database.read_transaction() as connection:
        found = connection.execute(
            text(f"{explain} SELECT * FROM {VIEW} WHERE task_id = {tasks[1]}")
        ).all()
    plan = "\n".join(str(row) for row in found)
    assert "enrollgate_runs" in plan or "run" in plan
    for scan in ("SCAN", '"access_type": "ALL"', "materialized", "Table scan"):
        assert scan not in plan, plan


def test_operator_without_create_view_works_and_doctor_names_the_grant(
    server_database_url: str,
) -> None:
    name = make_url(server_database_url).database
    granted = [
        f"{rights} ON {name}.{table}"
        for table, rights in (
            ("download_tasks", "SELECT, UPDATE (status)"),
            ("enrollgate_tasks", "SELECT, INSERT, UPDATE, DELETE"),
            ("enrollgate_runs", "SELECT, INSERT, UPDATE, DELETE"),
            ("enrollgate_holds", "SELECT, INSERT, UPDATE, DELETE"),
            ("enrollgate_operators", "SELECT, INSERT, UPDATE"),
            ("enrollgate_schema_version", "SELECT"),
        )
    ]
    with (
        closing(World(server_database_url)) as world,
        limited_user(server_database_url, *granted) as url,
        closing(open_database(url)) as limited,
    ):
        problem = ensure_view(limited, world.tables, "test")
        assert problem is not None and "denied" in problem.problem
        check = check_view(limited, world.tables, "test")
        assert check.severity is Severity.WARNING
        assert f"grant the user SELECT, CREATE, CREATE VIEW, DROP on {VIEW}" in check.remedy
        view = f"SELECT, CREATE, CREATE VIEW, DROP ON {name}.{VIEW}"
        execute(server_database_url, f"GRANT {view} TO {url.username}@'%'")
        limited.engine.dispose()
        assert ensure_view(limited, world.tables, "test") is None


def test_reader_of_the_view_needs_no_other_privilege(server_database_url: str) -> None:
    granted = f"SELECT ON {make_url(server_database_url).database}.{VIEW}"
    with closing(World(server_database_url)) as world:
        ensure_view(world.database, world.tables, "test")
        task = world.add("paid")
        with (
            limited_user(server_database_url, granted) as url,
            closing(open_database(url)) as reader,
            reader.read_transaction() as connection,
        ):
            assert connection.execute(task_status.select()).one().task_id == task


def test_run_of_a_lost_node_waits_and_shows_why_until_the_node_is_back(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    name = f"test-{task}-1"
    world.launcher.lose_node(name)
    for _ in range(3):
        world.clock.advance(3600)
        world.reconcile()
    shown = seen(world, task, "state", "run_number", "reason", "message", "remedy")
    assert shown == ("running", 1, "NodeLost", f"pod {name}-0 may still run", "bring node-1 back")
    kinds = [event.kind.value for _, event in world.launcher.events]
    assert kinds == ["Launched", "NodeLost"]
    world.launcher.runs[name] = replace(world.launcher.runs[name], report=None)
    world.reconcile()
    shown = seen(world, task, "state", "reason", "message", "remedy")
    assert shown == ("running", None, None, None)
    world.launcher.lose_node(name)
    world.reconcile()
    world.launcher.succeed(name)
    world.reconcile()
    assert seen(world, task, "state", "reason", "remedy") == ("completed", None, None)
    assert len(world.launcher.orders) == 1
