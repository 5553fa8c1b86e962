"""The gate, set by set: which tasks are new, which changed, which ran out of time, which left.

These statements run only when the survey says that there is something to do. Everything that writes `status` is
a compare-and-set of one row in a short transaction of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, delete, insert, literal, select, update

from enrollgate.database.backlog import is_due
from enrollgate.database.engine import Database
from enrollgate.database.runs import compare_and_set, ignoring_duplicates, insert_refusal
from enrollgate.database.tables import INSTANT, Tables, runs, tracked_tasks
from enrollgate.domain.gate import unexpected_status_message
from enrollgate.domain.reasons import Reason
from enrollgate.domain.task import TaskState

BATCH = 500
"""Rows of ours that one statement names, at most."""
EXPIRY_LIMIT = 1000
"""Tasks that one pass fails for their timeout, at most: a flood of them must not hold up the runs."""


@dataclass(frozen=True, slots=True)
class TrackedTask:
    """A task at the gate."""

    task_id: int
    word: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """A task whose status moved between two open words."""

    task_id: int
    was: str
    word: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Departure:
    """A task that was at the gate and is not any more."""

    task_id: int
    status: str | None
    state: TaskState
    was: str
    since: datetime
    has_run: bool
    """An unfinished run exists: what becomes of the task is decided with that run."""


def track_new(database: Database, tables: Tables, now: datetime) -> Iterator[TrackedTask]:
    """Notes every open task that has no sighting yet, in one statement, then yields what was noted.

    Two operators that sight at once note each task once.
    """
    new = (
        select(tables.id, literal(now, INSTANT), tables.configured_status(tables.status))
        .select_from(tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id))
        .where(tables.is_open(), tracked_tasks.c.task_id.is_(None))
    )
    columns = [
        tracked_tasks.c.task_id,
        tracked_tasks.c.first_seen_at,
        tracked_tasks.c.last_seen_status,
    ]
    statement = (
        insert(tracked_tasks).from_select(columns, new).prefix_with(ignoring_duplicates(database))
    )
    database.run_in_transaction(lambda connection: connection.execute(statement))
    noted = select(*columns).where(
        tracked_tasks.c.last_seen_status.in_(tables.statuses.open),
        tracked_tasks.c.first_seen_at == now,
    )
    with database.read_transaction() as connection:
        for task_id, since, word in connection.execution_options(yield_per=1000).execute(noted):
            yield TrackedTask(task_id, word, since)


def record_changes(database: Database, tables: Tables, now: datetime) -> Iterator[Change]:
    """Brings the tracked_tasks of open tasks up to date. A task that went back from enrolled to waiting gets a fresh clock."""
    word = tables.configured_status(tables.status)
    after: int | None = None
    while True:
        statement = (
            select(tables.id, tracked_tasks.c.last_seen_status, word, tracked_tasks.c.first_seen_at)
            .select_from(tables.tasks.join(tracked_tasks, tracked_tasks.c.task_id == tables.id))
            .where(tables.is_open(), word != tracked_tasks.c.last_seen_status)
            .order_by(tables.id)
            .limit(BATCH)
        )
        with database.read_transaction() as connection:
            rows = connection.execute(
                statement if after is None else statement.where(tables.id > after)
            ).all()
        changes = [Change(*row) for row in rows]
        if not changes:
            return
        database.run_in_transaction(
            partial(_update_sightings, tables=tables, changes=changes, now=now)
        )
        yield from changes
        after = changes[-1].task_id


def _update_sightings(
    connection: Connection, *, tables: Tables, changes: Iterable[Change], now: datetime
) -> None:
    moves = dict[tuple[str, str], list[int]]()
    for change in changes:
        moves.setdefault((change.was, change.word), []).append(change.task_id)
    for (was, word), ids in moves.items():
        values: dict[str, object] = {"last_seen_status": word}
        if was not in tables.statuses.waiting:
            values["first_seen_at"] = now
        connection.execute(
            update(tracked_tasks)
            .where(tracked_tasks.c.task_id.in_(ids), tracked_tasks.c.last_seen_status == was)
            .values(values)
        )


def due(database: Database, tables: Tables, now: datetime, timeout: float) -> list[TrackedTask]:
    """The waiting tasks whose time (`timeout`, seconds) is over, the latest first seen last, at most EXPIRY_LIMIT of them."""
    statement = (
        select(
            tracked_tasks.c.task_id, tracked_tasks.c.last_seen_status, tracked_tasks.c.first_seen_at
        )
        .where(is_due(tables, now, timeout))
        .order_by(tracked_tasks.c.first_seen_at)
        .limit(EXPIRY_LIMIT)
    )
    with database.read_transaction() as connection:
        return [TrackedTask(*row) for row in connection.execute(statement)]


def expire(
    database: Database,
    tables: Tables,
    late: TrackedTask,
    now: datetime,
    *,
    installation: str,
    message: str,
) -> bool:
    """Fails a task whose time is over. True if it was failed. Raises RowHeld.

    A task that Node.js moves in that very moment is left alone: its status is not what it was.
    """
    refusal = _Refusal(
        late.task_id, late.word, Reason.ENROLLMENT_TIMEOUT, message, now, installation, late.since
    )
    return _refuse(database, tables, refusal)


def reject(
    database: Database, tables: Tables, departed: Departure, now: datetime, *, installation: str
) -> bool:
    """Fails a task whose status became a word without meaning, unless it has changed since. True if it was failed.

    Raises RowHeld.
    """
    message = unexpected_status_message(departed.status)
    since = departed.since
    reason = Reason.UNEXPECTED_STATUS
    refusal = _Refusal(departed.task_id, departed.status, reason, message, now, installation, since)
    return _refuse(database, tables, refusal)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A task to fail at the gate, provided that its status and its sighting are still as they were seen."""

    task_id: int
    status: str | None
    reason: Reason
    message: str
    now: datetime
    installation: str
    since: datetime


class _ClockMoved(Exception):
    """The task's sighting is not the one that was seen: another operator gave it a fresh clock. Undoes the refusal."""


def _refuse(database: Database, tables: Tables, refusal: _Refusal) -> bool:
    """Fails one task, records why and ends its sighting, in one transaction that begins with the compare-and-set.

    One task a transaction, and the compare-and-set first and in the shape that an application would write it, so that Node.js
    never loses a deadlock to us: the same shape takes its locks in the same order, and of two transactions that do collide
    InnoDB gives up the lighter one, which is ours, and which is then tried again.
    """

    def change(connection: Connection) -> bool:
        if not compare_and_set(
            connection, tables, refusal.task_id, refusal.status, tables.statuses.failed
        ):
            return False
        ended = connection.execute(
            delete(tracked_tasks).where(
                tracked_tasks.c.task_id == refusal.task_id,
                tracked_tasks.c.first_seen_at == refusal.since,
            )
        )
        if ended.rowcount != 1:
            raise _ClockMoved
        insert_refusal(
            connection,
            refusal.task_id,
            refusal.reason,
            refusal.message,
            now=refusal.now,
            installation=refusal.installation,
        )
        return True

    try:
        return database.run_in_transaction(change)
    except _ClockMoved:
        return False


def left_gate(database: Database, tables: Tables) -> Iterator[list[Departure]]:
    """The tracked_tasks whose task is over, unknown by now or deleted, batch by batch."""
    after: int | None = None
    has_run = (
        select(runs.c.id)
        .where(runs.c.task_id == tracked_tasks.c.task_id, runs.c.active == 1)
        .exists()
    )
    while True:
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
            .select_from(
                tracked_tasks.outerjoin(tables.tasks, tracked_tasks.c.task_id == tables.id)
            )
            .where(tables.id.is_(None) | tables.is_over() | tables.is_unknown())
            .order_by(tracked_tasks.c.task_id)
            .limit(BATCH)
        )
        with database.read_transaction() as connection:
            rows = connection.execute(
                statement if after is None else statement.where(tracked_tasks.c.task_id > after)
            ).all()
        if not rows:
            return
        yield [
            Departure(
                task_id,
                status,
                TaskState.MISSING if missing else tables.statuses.state(word),
                was,
                since,
                bool(run),
            )
            for task_id, status, missing, word, was, since, run in rows
        ]
        after = rows[-1][0]


def untrack(database: Database, task_ids: Iterable[int]) -> None:
    """Ends the tracked_tasks of tasks that are over: a task that comes back gets a fresh clock."""
    ids = list(task_ids)
    if ids:
        database.run_in_transaction(
            lambda connection: connection.execute(
                delete(tracked_tasks).where(tracked_tasks.c.task_id.in_(ids))
            )
        )
