"""The gate, set by set: which tasks are new, which changed, which timed out, which left.

These statements run only when the backlog says that there is something to do, and each handles a
limited number of tasks: the next pass handles the rest. Everything that writes `status` is a
compare-and-set of one row in a short transaction of its own.

A task that the database refuses to write is set aside: nothing tries it again before `retry_at`, or
before Node.js changes its status.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    update,
)

from enrollgate.database.claims import insert_refusal
from enrollgate.database.engine import Database
from enrollgate.database.errors import RowRefused
from enrollgate.database.runs import compare_and_set
from enrollgate.database.tables import INSTANT, Tables, is_not_set_aside, runs, tracked_tasks
from enrollgate.domain.gate import unexpected_status_message
from enrollgate.domain.hold import Hold
from enrollgate.domain.reasons import Reason
from enrollgate.domain.task import TaskState

# Rows of ours that one statement names, at most.
BATCH = 500
# Tasks that one pass tracks, records as changed, or stops to track; of each, at most. A flood must
# not delay the runs.
GATE_LIMIT = 2000
# Tasks that one pass fails for their timeout, or for an unknown status; of each, at most. Each
# takes a transaction of its own.
EXPIRY_LIMIT = 100
# Seconds after its reading of the clock for which a pass may track tasks: see `_is_recent`.
_PASS_LIMIT = 30


@dataclass(frozen=True, slots=True)
class TrackedTask:
    """A task at the gate: its configured status when last seen, and since when it is known.

    `refusals` is how often in a row the database refused to fail it.
    """

    task_id: int
    status: str
    since: datetime
    refusals: int = 0


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

    If an unfinished run exists, `run_id` is its id: what happens to the task is decided together
    with that run.
    """

    task_id: int
    status: str | None
    state: TaskState
    was: str
    since: datetime
    refusals: int
    run_id: int | None


# Called with the id of a task for which one of our statements was refused, and the error.
OnRefusal = Callable[[int, RowRefused], None]


def _is_recent(database: Database, now: datetime) -> ColumnElement[bool]:
    """Build the condition that the pass read `now` lately, and was not frozen since.

    Else tasks that are new by now would begin to wait when it was frozen, and time out at once.
    """
    return database.clock_expression() <= literal(now + timedelta(seconds=_PASS_LIMIT), INSTANT)


def track_new(
    database: Database,
    tables: Tables,
    now: datetime,
    statuses: Collection[str],
    *,
    clock_steps: int,
    on_refusal: OnRefusal,
) -> list[TrackedTask]:
    """Track the tasks with these open statuses that are not tracked yet, and return them.

    `clock_steps` is how many steps of the database's clock `now` comes after: see `move_waits`.

    At most GATE_LIMIT tasks. Two operators that do this at the same time track each task once: the
    database refuses the second one, which reads again.
    """
    new = (
        select(tables.id, tables.configured_status(tables.status))
        .select_from(tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id))
        .where(tables.is_open(), tables.status.in_(statuses), tracked_tasks.c.task_id.is_(None))
        .limit(GATE_LIMIT)
    )

    def read(connection: Connection) -> list[TrackedTask]:
        recent = new.where(_is_recent(database, now))
        # In the order of the ids; where no key keeps them unique, one row of several.
        found = {
            row[0]: TrackedTask(row[0], str(row[1]), now) for row in connection.execute(recent)
        }
        return [found[task_id] for task_id in sorted(found)]

    def track(connection: Connection, found: Sequence[TrackedTask] = ()) -> list[TrackedTask]:
        chosen = list(found) or read(connection)
        rows = [
            {
                "task_id": task.task_id,
                "first_seen_at": now,
                "last_seen_status": task.status,
                "enrolled_seen_at": now if task.status == tables.statuses.enrolled else None,
                "clock_steps": clock_steps,
            }
            for task in chosen
        ]
        if rows:
            connection.execute(insert(tracked_tasks), rows)
        return chosen

    try:
        return database.run_in_transaction(track)
    except RowRefused:
        with database.autocommit() as connection:
            found = read(connection)
        return _one_by_one(database, found, lambda one: partial(track, found=[one]), on_refusal)


def record_changes(
    database: Database, tables: Tables, now: datetime, *, clock_steps: int, on_refusal: OnRefusal
) -> Iterator[Change]:
    """Record the status changes of tracked tasks and yield them, batch by batch.

    A task that went back from enrolled to waiting gets a fresh enrollment timeout. A task that was
    set aside is tried again. At most GATE_LIMIT tasks.
    """

    def record(connection: Connection, *, changes: Iterable[Change]) -> None:
        moves = dict[tuple[str, str], list[int]]()
        for change in changes:
            moves.setdefault((change.was, change.status), []).append(change.task_id)
        for (was, status), ids in moves.items():
            is_waiting = was in tables.statuses.waiting
            statement = update(tracked_tasks).where(
                tracked_tasks.c.task_id.in_(ids), tracked_tasks.c.last_seen_status == was
            )
            connection.execute(
                statement.values(
                    last_seen_status=status,
                    first_seen_at=tracked_tasks.c.first_seen_at if is_waiting else now,
                    clock_steps=tracked_tasks.c.clock_steps if is_waiting else clock_steps,
                    enrolled_seen_at=now if status == tables.statuses.enrolled else None,
                    refusals=0,
                    refusal=None,
                    retry_at=None,
                )
            )

    status = tables.configured_status(tables.status)
    statement = (
        select(tables.id, tracked_tasks.c.last_seen_status, status, tracked_tasks.c.first_seen_at)
        .select_from(tables.tasks.join(tracked_tasks, tracked_tasks.c.task_id == tables.id))
        .where(tables.is_open(), status != tracked_tasks.c.last_seen_status)
        .order_by(tables.id)
        .limit(BATCH)
    )
    batch = statement
    for _ in range(GATE_LIMIT // BATCH):
        with database.autocommit() as connection:
            recent = batch.where(_is_recent(database, now))
            changes = [Change(*row) for row in connection.execute(recent)]
        if not changes:
            return
        try:
            database.run_in_transaction(partial(record, changes=changes))
            yield from changes
        except RowRefused:
            yield from _one_by_one(
                database, changes, lambda one: partial(record, changes=[one]), on_refusal
            )
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

    tracked = tracked_tasks.c
    instants = (tracked.first_seen_at, tracked.enrolled_seen_at, tracked.retry_at)
    statement = (
        update(tracked_tasks)
        .where(tracked_tasks.c.clock_steps <= clock_steps)
        .values({each: moved(each) for each in instants} | {"clock_steps": clock_steps + 1})
    )
    return database.run_in_transaction(lambda connection: connection.execute(statement).rowcount)


def restart_future_waits(database: Database, now: datetime, *, longest_pause: float) -> int:
    """Let waits that begin in the future begin now, and pauses that end too late end now.

    They were written before the clock was set back. No pause takes more than `longest_pause`
    seconds. Return how many waits were restarted.
    """
    since, latest = tracked_tasks.c.first_seen_at, now + timedelta(seconds=longest_pause)

    def change(connection: Connection) -> int:
        for table in (tracked_tasks, runs):
            connection.execute(update(table).where(table.c.retry_at > latest).values(retry_at=now))
        waits = update(tracked_tasks).where(since > now).values(first_seen_at=now)
        return connection.execute(waits).rowcount

    return database.run_in_transaction(change)


_Task = TypeVar("_Task", TrackedTask, Change, LeftTask)


def _one_by_one(
    database: Database,
    tasks: Iterable[_Task],
    change: Callable[[_Task], Callable[[Connection], object]],
    on_refusal: OnRefusal,
) -> list[_Task]:
    """Change each task in a transaction of its own, so that one does not keep the others back.

    Return those that were not refused.
    """
    done = []
    for task in tasks:
        try:
            database.run_in_transaction(change(task), of_one_row=True)
            done.append(task)
        except RowRefused as error:
            on_refusal(task.task_id, error)
    return done


def due(database: Database, tables: Tables, now: datetime, timeout: float) -> list[TrackedTask]:
    """Return the waiting tasks whose `timeout` (seconds) is over, longest known first.

    At most EXPIRY_LIMIT tasks are returned, and none that is set aside.
    """
    statement = (
        select(
            tracked_tasks.c.task_id,
            tracked_tasks.c.last_seen_status,
            tracked_tasks.c.first_seen_at,
            tracked_tasks.c.refusals,
        )
        .where(
            is_not_set_aside(now),
            tracked_tasks.c.last_seen_status.in_(tables.statuses.waiting),
            tracked_tasks.c.first_seen_at <= now - timedelta(seconds=timeout),
        )
        .order_by(tracked_tasks.c.first_seen_at)
        .limit(EXPIRY_LIMIT)
    )
    with database.autocommit() as connection:
        return [TrackedTask(*row) for row in connection.execute(statement)]


def find_held(
    database: Database, tables: Tables, hold: Hold, now: datetime, *, limit: int
) -> list[TrackedTask]:
    """Return tasks that wait for this hold, as they are marked, those that wait longest first.

    Those that are set aside are left out.
    """
    statement = (
        select(
            tracked_tasks.c.task_id,
            tracked_tasks.c.last_seen_status,
            tracked_tasks.c.first_seen_at,
            tracked_tasks.c.refusals,
        )
        .where(
            tracked_tasks.c.hold_id == hold.hold_id,
            tracked_tasks.c.last_seen_status == tables.statuses.enrolled,
            is_not_set_aside(now),
        )
        .order_by(tracked_tasks.c.first_seen_at)
        .limit(limit)
    )
    with database.autocommit() as connection:
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
    """Fail a task whose enrollment timeout is over. Return whether it was failed.

    Raises RowHeld or RowRefused.

    A task whose status Node.js changes at the same moment is left alone.
    """
    reason = Reason.ENROLLMENT_TIMEOUT
    return _refuse(database, tables, task, reason, message, now=now, installation=installation)


def reject(
    database: Database, tables: Tables, task: LeftTask, now: datetime, *, installation: str
) -> bool:
    """Fail a task whose status became an unknown one, unless it has changed since.

    Return whether it was failed.

    Raises RowHeld or RowRefused.
    """
    reason, message = Reason.UNEXPECTED_STATUS, unexpected_status_message(task.status)
    return _refuse(database, tables, task, reason, message, now=now, installation=installation)


def fail_held(
    database: Database,
    tables: Tables,
    task: TrackedTask,
    hold: Hold,
    now: datetime,
    *,
    installation: str,
) -> bool:
    """Fail a task that has waited for this hold until its end. Return whether it was failed.

    Raises RowHeld or RowRefused.
    """
    message = f"the {hold.scope} was on hold until the end of ENROLLGATE_HOLD_LIMIT: {hold.message}"
    reason = Reason(hold.reason)
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
        return database.run_in_transaction(change, of_one_row=True)
    except _ClockMoved:
        return False


def left_gate(database: Database, tables: Tables, now: datetime) -> Iterator[list[LeftTask]]:
    """Yield the tracked tasks that are finished, unknown by now or deleted, batch by batch.

    Those that are set aside are left out.
    """
    run_id = (
        select(runs.c.id)
        .where(runs.c.task_id == tracked_tasks.c.task_id, runs.c.active == 1)
        .scalar_subquery()
    )
    statement = (
        select(
            tracked_tasks.c.task_id,
            tables.status,
            tables.id.is_(None),
            tables.configured_status(tables.status),
            tracked_tasks.c.last_seen_status,
            tracked_tasks.c.first_seen_at,
            tracked_tasks.c.refusals,
            run_id,
        )
        .select_from(tracked_tasks.outerjoin(tables.tasks, tracked_tasks.c.task_id == tables.id))
        .where(
            tables.id.is_(None)
            | tables.is_finished()
            | (tables.is_unknown() & is_not_set_aside(now))
        )
        .order_by(tracked_tasks.c.task_id)
        .limit(BATCH)
    )
    batch = statement
    while True:
        with database.autocommit() as connection:
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
                refusals,
                run_id,
            )
            for task_id, status, is_missing, configured, was, since, refusals, run_id in rows
        ]
        batch = statement.where(tracked_tasks.c.task_id > rows[-1][0])


def untrack(database: Database, left: Sequence[LeftTask], on_refusal: OnRefusal) -> list[LeftTask]:
    """Stop tracking these tasks, and return them; one that comes back gets a fresh timeout.

    The same transaction writes into their unfinished runs that they left. So a task that comes back
    at once gets a new run, also if the operator ends now.
    """

    def remove(connection: Connection, *, tasks: Sequence[LeftTask]) -> None:
        ids = [task.task_id for task in tasks]
        connection.execute(delete(tracked_tasks).where(tracked_tasks.c.task_id.in_(ids)))
        states = dict[TaskState, list[int]]()
        for task in tasks:
            if task.run_id is not None:
                states.setdefault(task.state, []).append(task.run_id)
        for state, run_ids in states.items():
            unfinished = update(runs).where(runs.c.id.in_(run_ids), runs.c.active == 1)
            connection.execute(unfinished.values(task_left=state.value))

    if not left:
        return []
    try:
        database.run_in_transaction(partial(remove, tasks=left))
        return list(left)
    except RowRefused:
        return _one_by_one(database, left, lambda one: partial(remove, tasks=[one]), on_refusal)
