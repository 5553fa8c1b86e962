"""The gate, set by set: which tasks are new, which changed, which ran out of time, which left.

These statements run only when the survey says that there is something to do. Everything that writes `status` locks the rows, looks
again and writes in one short transaction: a compare-and-set.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, literal, select, true, update

from enrollgate.database.engine import Database
from enrollgate.database.runs import ignoring_duplicates, insert_refusals
from enrollgate.database.survey import is_due
from enrollgate.database.tables import INSTANT, Tables, runs, sightings
from enrollgate.domain.reasons import Reason
from enrollgate.domain.task import TaskState

BATCH = 500
"""Tasks that one writing transaction touches, at most."""


@dataclass(frozen=True, slots=True)
class Sighting:
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


def sight(database: Database, tables: Tables, now: datetime) -> Iterator[Sighting]:
    """Notes every open task that has no sighting yet, in one statement, then yields what was noted.

    Two operators that sight at once note each task once.
    """
    new = (
        select(tables.id, literal(now, INSTANT), tables.word(tables.status))
        .select_from(tables.tasks.outerjoin(sightings, sightings.c.task_id == tables.id))
        .where(tables.is_open(), sightings.c.task_id.is_(None))
    )
    columns = [sightings.c.task_id, sightings.c.first_seen_at, sightings.c.last_seen_status]
    statement = insert(sightings).from_select(columns, new).prefix_with(ignoring_duplicates(database))
    database.writing(lambda connection: connection.execute(statement))
    noted = select(*columns).where(
        sightings.c.last_seen_status.in_(tables.words.open), sightings.c.first_seen_at == now
    )
    with database.reading() as connection:
        for task_id, since, word in connection.execution_options(yield_per=1000).execute(noted):
            yield Sighting(task_id, word, since)


def note_changes(database: Database, tables: Tables, now: datetime) -> Iterator[Change]:
    """Brings the sightings of open tasks up to date. A task that went back from enrolled to waiting gets a fresh clock."""
    word = tables.word(tables.status)
    after: int | None = None
    while True:
        statement = (
            select(tables.id, sightings.c.last_seen_status, word, sightings.c.first_seen_at)
            .select_from(tables.tasks.join(sightings, sightings.c.task_id == tables.id))
            .where(tables.is_open(), word != sightings.c.last_seen_status)
            .order_by(tables.id)
            .limit(BATCH)
        )
        with database.reading() as connection:
            rows = connection.execute(statement if after is None else statement.where(tables.id > after)).all()
        changes = [Change(*row) for row in rows]
        if not changes:
            return
        database.writing(partial(_update_sightings, tables=tables, changes=changes, now=now))
        yield from changes
        after = changes[-1].task_id


def _update_sightings(connection: Connection, *, tables: Tables, changes: Iterable[Change], now: datetime) -> None:
    moves = dict[tuple[str, str], list[int]]()
    for change in changes:
        moves.setdefault((change.was, change.word), []).append(change.task_id)
    for (was, word), ids in moves.items():
        values: dict[str, object] = {"last_seen_status": word}
        if was not in tables.words.waiting:
            values["first_seen_at"] = now
        connection.execute(
            update(sightings).where(sightings.c.task_id.in_(ids), sightings.c.last_seen_status == was).values(values)
        )


def expire(
    database: Database, tables: Tables, now: datetime, timeout: float, *, installation: str, message: str
) -> Iterator[Sighting]:
    """Fails the waiting tasks whose time is over, batch by batch, and yields those that it did fail.

    A task that Node.js moves in that very moment is left alone: the row is locked and looked at again before it is written.
    """
    after: int | None = None
    while True:
        statement = select(sightings.c.task_id).where(is_due(tables, now, timeout)).order_by(sightings.c.task_id)
        statement = (
            statement.limit(BATCH) if after is None else statement.where(sightings.c.task_id > after).limit(BATCH)
        )
        with database.reading() as connection:
            due = list(connection.execute(statement).scalars())
        if not due:
            return
        reasons = dict.fromkeys(due, (Reason.ENROLLMENT_TIMEOUT, message))
        refusal = _Refusal(reasons, tables.is_waiting(), is_due(tables, now, timeout), now, installation)
        yield from database.writing(partial(_refuse, tables=tables, refusal=refusal))
        after = due[-1]


def reject(
    database: Database, tables: Tables, now: datetime, reasons: dict[int, str], *, installation: str
) -> list[Sighting]:
    """Fails tasks whose status became a word without meaning, unless it has one again. `reasons` maps task to message."""
    why = {task_id: (Reason.UNEXPECTED_STATUS, message) for task_id, message in reasons.items()}
    refusal = _Refusal(why, tables.is_unknown(), true(), now, installation)
    return database.writing(partial(_refuse, tables=tables, refusal=refusal))


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Tasks to fail at the gate, each with its reason and message, provided that they are still as they were seen."""

    reasons: dict[int, tuple[Reason, str]]
    still: ColumnElement[bool]
    """What the task's status must still be."""
    still_seen: ColumnElement[bool]
    """What must still hold of its sighting."""
    now: datetime
    installation: str


def _refuse(connection: Connection, *, tables: Tables, refusal: _Refusal) -> list[Sighting]:
    """Locks the tasks, looks again, fails those that are still so, records why and ends their sightings: all or nothing.

    Node.js must never lose a deadlock to us. So this locks by key alone and never waits for a row that Node.js holds: a row
    that is being written just now (SKIP LOCKED) is left to the next pass.
    """
    locked = connection.execute(
        select(tables.id, func.coalesce(tables.status, "NULL"))
        .where(tables.id.in_(list(refusal.reasons)))
        .with_for_update(skip_locked=True)
    )
    statuses: dict[int, str] = {row[0]: row[1] for row in locked}
    seen = connection.execute(
        select(sightings.c.task_id, sightings.c.first_seen_at)
        .where(sightings.c.task_id.in_(list(statuses)), refusal.still_seen)
        .with_for_update()
    )
    since: dict[int, datetime] = {row[0]: row[1] for row in seen}
    compare_and_set = (
        update(tables.tasks)
        .where(tables.id == bindparam("task"), refusal.still)
        .values({tables.status: tables.words.failed})
    )
    refused = [task for task in since if connection.execute(compare_and_set, {"task": task}).rowcount == 1]
    if refused:
        why = {task: refusal.reasons[task] for task in refused}
        insert_refusals(connection, why, refusal.now, refusal.installation)
        connection.execute(delete(sightings).where(sightings.c.task_id.in_(refused)))
    return [Sighting(task, statuses[task], since[task]) for task in refused]


def departures(database: Database, tables: Tables) -> Iterator[list[Departure]]:
    """The sightings whose task is over, unknown by now or deleted, batch by batch."""
    after: int | None = None
    has_run = select(runs.c.id).where(runs.c.task_id == sightings.c.task_id, runs.c.active == 1).exists()
    while True:
        statement = (
            select(
                sightings.c.task_id,
                tables.status,
                tables.id.is_(None),
                tables.word(tables.status),
                sightings.c.last_seen_status,
                sightings.c.first_seen_at,
                has_run,
            )
            .select_from(sightings.outerjoin(tables.tasks, sightings.c.task_id == tables.id))
            .where(tables.id.is_(None) | tables.is_over() | tables.is_unknown())
            .order_by(sightings.c.task_id)
            .limit(BATCH)
        )
        with database.reading() as connection:
            rows = connection.execute(
                statement if after is None else statement.where(sightings.c.task_id > after)
            ).all()
        if not rows:
            return
        yield [
            Departure(
                task_id, status, TaskState.MISSING if missing else tables.words.state(word), was, since, bool(run)
            )
            for task_id, status, missing, word, was, since, run in rows
        ]
        after = rows[-1][0]


def forget(database: Database, task_ids: Iterable[int]) -> None:
    """Ends the sightings of tasks that are over: a task that comes back gets a fresh clock."""
    ids = list(task_ids)
    if ids:
        database.writing(lambda connection: connection.execute(delete(sightings).where(sightings.c.task_id.in_(ids))))
