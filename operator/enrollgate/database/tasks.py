"""The gate, set by set: which tasks are new, which changed, which timed out, which left.

These statements run only when the backlog says that there is something to do. Everything that
writes `status` is a compare-and-set of one row in a short transaction of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    update,
)

from enrollgate.database.engine import Database
from enrollgate.database.runs import compare_and_set, insert_refusal
from enrollgate.database.tables import INSTANT, Tables, runs, tracked_tasks
from enrollgate.domain.gate import unexpected_status_message
from enrollgate.domain.reasons import Reason
from enrollgate.domain.task import TaskState

# Rows of ours that one statement names, at most.
BATCH = 500
# Tasks that one pass fails for their timeout, at most: a flood of them must not delay the runs.
EXPIRY_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class TrackedTask:
    """A task at the gate: its configured status when last seen, and since when it is known."""

    task_id: int
    status: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """A task whose status changed from one waiting or enrolled status to another."""

    task_id: int
    was: str
    status: str
    since: datetime


@dataclass(frozen=True, slots=True)
class LeftTask:
    """A task that was at the gate and is not any more.

    With `has_run`, an unfinished run exists: what happens to the task is decided together with that
    run.
    """

    task_id: int
    status: str | None
    state: TaskState
    was: str
    since: datetime
    has_run: bool


def track_new(
    database: Database, tables: Tables, now: datetime, *, clock_steps: int
) -> Iterator[TrackedTask]:
    """Track every open task that is not tracked yet, by one statement, then yield those.

    `clock_steps` is how many steps of the database's clock `now` comes after: see `move_waits`.

    Two operators that do this at the same time track each task once.
    """
    new = (
        select(
            tables.id,
            literal(now, INSTANT),
            tables.configured_status(tables.status),
            case((tables.is_enrolled(), literal(now, INSTANT))),
            literal(clock_steps),
        )
        .select_from(tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id))
        .where(tables.is_open(), tracked_tasks.c.task_id.is_(None))
    )
    columns = (
        tracked_tasks.c.task_id,
        tracked_tasks.c.first_seen_at,
        tracked_tasks.c.last_seen_status,
    )
    written = (*columns, tracked_tasks.c.enrolled_seen_at, tracked_tasks.c.clock_steps)
    statement = insert(tracked_tasks).from_select(written, new)
    # Skip the rows whose key is taken.
    statement = statement.prefix_with("OR IGNORE" if database.is_sqlite else "IGNORE")
    database.run_in_transaction(lambda connection: connection.execute(statement))
    added = select(*columns).where(
        tracked_tasks.c.last_seen_status.in_(tables.statuses.open),
        tracked_tasks.c.first_seen_at == now,
    )
    with database.read_transaction() as connection:
        rows = connection.execution_options(yield_per=1000).execute(added)
        for task_id, since, status in rows:
            yield TrackedTask(task_id, status, since)


def record_changes(
    database: Database, tables: Tables, now: datetime, *, clock_steps: int
) -> Iterator[Change]:
    """Record the status changes of tracked tasks and yield them, batch by batch.

    A task that went back from enrolled to waiting gets a fresh enrollment timeout.
    """

    def execute_all(connection: Connection, *, statements: Iterable[Update]) -> None:
        for statement in statements:
            connection.execute(statement)

    status = tables.configured_status(tables.status)
    statement = (
        select(tables.id, tracked_tasks.c.last_seen_status, status, tracked_tasks.c.first_seen_at)
        .select_from(tables.tasks.join(tracked_tasks, tracked_tasks.c.task_id == tables.id))
        .where(tables.is_open(), status != tracked_tasks.c.last_seen_status)
        .order_by(tables.id)
        .limit(BATCH)
    )
    batch = statement
    while True:
        with database.read_transaction() as connection:
            changes = [Change(*row) for row in connection.execute(batch)]
        if not changes:
            return
        moves = dict[tuple[str, str], list[int]]()
        for change in changes:
            moves.setdefault((change.was, change.status), []).append(change.task_id)
        updates = [
            update(tracked_tasks)
            .where(tracked_tasks.c.task_id.in_(ids), tracked_tasks.c.last_seen_status == was)
            .values(
                {
                    "last_seen_status": status,
                    "enrolled_seen_at": now if status == tables.statuses.enrolled else None,
                }
                | (
                    {}
                    if was in tables.statuses.waiting
                    else {"first_seen_at": now, "clock_steps": clock_steps}
                )
            )
            for (was, status), ids in moves.items()
        ]
        database.run_in_transaction(partial(execute_all, statements=updates))
        yield from changes
        batch = statement.where(tables.id > changes[-1].task_id)


def move_waits(database: Database, step: timedelta, *, clock_steps: int) -> int:
    """Move the instants of the tracked tasks with the database's clock, which was set by `step`.

    Return how many tasks were moved. Of several operators that notice one step, one moves each
    task: those that were corrected for more than `clock_steps` steps are left.
    """

    def moved(instant: ColumnElement[datetime]) -> ColumnElement[Any]:
        if database.is_sqlite:
            # To the millisecond, in the form in which SQLAlchemy writes instants.
            seconds = f"{step.total_seconds():+.3f} seconds"
            return func.strftime("%Y-%m-%d %H:%M:%f", instant, seconds).concat("000")
        return func.timestampadd(text("MICROSECOND"), step // timedelta(microseconds=1), instant)

    instants = (tracked_tasks.c.first_seen_at, tracked_tasks.c.enrolled_seen_at)
    statement = (
        update(tracked_tasks)
        .where(tracked_tasks.c.clock_steps <= clock_steps)
        .values({each: moved(each) for each in instants} | {"clock_steps": clock_steps + 1})
    )
    return database.run_in_transaction(lambda connection: connection.execute(statement).rowcount)


def restart_future_waits(database: Database, now: datetime) -> int:
    """Let waits that begin in the future begin now. Return how many.

    They were written before the clock was set back, while no operator worked.
    """
    since = tracked_tasks.c.first_seen_at
    statement = update(tracked_tasks).where(since > now).values(first_seen_at=now)
    return database.run_in_transaction(lambda connection: connection.execute(statement).rowcount)


def due(database: Database, tables: Tables, now: datetime, timeout: float) -> list[TrackedTask]:
    """Return the waiting tasks whose `timeout` (seconds) is over, longest known first.

    At most EXPIRY_LIMIT tasks are returned.
    """
    statement = (
        select(
            tracked_tasks.c.task_id, tracked_tasks.c.last_seen_status, tracked_tasks.c.first_seen_at
        )
        .where(
            tracked_tasks.c.last_seen_status.in_(tables.statuses.waiting),
            tracked_tasks.c.first_seen_at <= now - timedelta(seconds=timeout),
        )
        .order_by(tracked_tasks.c.first_seen_at)
        .limit(EXPIRY_LIMIT)
    )
    with database.read_transaction() as connection:
        return [TrackedTask(*row) for row in connection.execute(statement)]


class _ClockMoved(Exception):
    """Another operator restarted the task's enrollment timeout: roll back."""


def expire(
    database: Database,
    tables: Tables,
    task: TrackedTask,
    now: datetime,
    *,
    installation: str,
    message: str,
) -> bool:
    """Fail a task whose enrollment timeout is over. Return whether it was failed. Raises RowHeld.

    A task whose status Node.js changes at the same moment is left alone.
    """
    reason = Reason.ENROLLMENT_TIMEOUT
    return _refuse(database, tables, task, reason, message, now=now, installation=installation)


def reject(
    database: Database, tables: Tables, task: LeftTask, now: datetime, *, installation: str
) -> bool:
    """Fail a task whose status became an unknown one, unless it has changed since.

    Return whether it was failed.

    Raises RowHeld.
    """
    reason, message = Reason.UNEXPECTED_STATUS, unexpected_status_message(task.status)
    return _refuse(database, tables, task, reason, message, now=now, installation=installation)


def _refuse(
    database: Database,
    tables: Tables,
    task: TrackedTask | LeftTask,
    reason: Reason,
    message: str,
    *,
    now: datetime,
    installation: str,
) -> bool:
    """Fail one task, record why and stop tracking it, in one transaction.

    It begins with the compare-and-set.

    Why one task per transaction, and the compare-and-set first and in the shape that an application
    would use: so Node.js never loses a deadlock to us. The same shape takes its locks in the same
    order. Of two transactions that do collide, InnoDB rolls back the one with fewer changes, which
    is ours, and ours is then tried again.
    """

    def change(connection: Connection) -> bool:
        if not compare_and_set(
            connection, tables, task.task_id, task.status, tables.statuses.failed
        ):
            return False
        untracked = connection.execute(
            delete(tracked_tasks).where(
                tracked_tasks.c.task_id == task.task_id,
                tracked_tasks.c.first_seen_at == task.since,
            )
        )
        if untracked.rowcount != 1:
            raise _ClockMoved
        insert_refusal(
            connection,
            task.task_id,
            reason,
            message,
            since=task.since,
            now=now,
            installation=installation,
        )
        return True

    try:
        return database.run_in_transaction(change)
    except _ClockMoved:
        return False


def left_gate(database: Database, tables: Tables) -> Iterator[list[LeftTask]]:
    """Yield the tracked tasks that are finished, unknown by now or deleted, batch by batch."""
    has_run = (
        select(runs.c.id)
        .where(runs.c.task_id == tracked_tasks.c.task_id, runs.c.active == 1)
        .exists()
    )
    statement = (
        select(
            tracked_tasks.c.task_id,
            tables.status,
            tables.id.is_(None),
            tables.configured_status(tables.status),
            tracked_tasks.c.last_seen_status,
            tracked_tasks.c.first_seen_at,
            has_run,
        )
        .select_from(tracked_tasks.outerjoin(tables.tasks, tracked_tasks.c.task_id == tables.id))
        .where(tables.id.is_(None) | tables.is_finished() | tables.is_unknown())
        .order_by(tracked_tasks.c.task_id)
        .limit(BATCH)
    )
    batch = statement
    while True:
        with database.read_transaction() as connection:
            rows = connection.execute(batch).all()
        if not rows:
            return
        yield [
            LeftTask(
                task_id,
                status,
                TaskState.MISSING if is_missing else tables.statuses.state(configured),
                was,
                since,
                bool(run),
            )
            for task_id, status, is_missing, configured, was, since, run in rows
        ]
        batch = statement.where(tracked_tasks.c.task_id > rows[-1][0])


def untrack(database: Database, task_ids: Iterable[int]) -> None:
    """Stop tracking these tasks; one that comes back gets a fresh enrollment timeout."""
    ids = list(task_ids)
    if ids:
        statement = delete(tracked_tasks).where(tracked_tasks.c.task_id.in_(ids))
        database.run_in_transaction(lambda connection: connection.execute(statement))
