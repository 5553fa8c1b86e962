"""What people do: pause, resume, release a hold, retry and cancel tasks.

Each change is written together with who did it and when (`enrollgate_actions`), in one transaction.
Nothing here starts or stops a run: the operator finds the rows as they are then, in its next look
or pass. docs/holds.md has the same as SQL, for other programs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from enrollgate.common.redaction import redact
from enrollgate.database.claims import insert_refusal
from enrollgate.database.engine import Database
from enrollgate.database.errors import RowHeld, RowRefused
from enrollgate.database.hold_views import HoldView, read_hold
from enrollgate.database.holds import is_in_scope
from enrollgate.database.queries import is_possible_id
from enrollgate.database.runs import (
    compare_and_set,
    read_unfinished,
    select_unfinished,
    stopping_values,
)
from enrollgate.database.tables import MESSAGE_LIMIT, Tables, actions, holds, runs, tracked_tasks
from enrollgate.domain.hold import HoldKind, Scope
from enrollgate.domain.reasons import Reason, explain
from enrollgate.domain.run import Outcome, RunState
from enrollgate.domain.task import TaskState

# Tasks of one transaction, at most: their rows stay locked until it commits.
RETRY_BATCH = 100
# Times that a task is read again, because it changed at the moment of its cancellation.
_MOST_READS = 5


class Action(StrEnum):
    """What a person did. The values are those of `enrollgate_actions.action`."""

    PAUSE = "pause"
    RESUME = "resume"
    RELEASE = "release"
    RETRY = "retry"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Steering:
    """Who steers which installation: `actor` is a name without an e-mail address."""

    database: Database
    tables: Tables
    installation: str
    actor: str

    def note(
        self,
        connection: Connection,
        action: Action,
        *,
        task_ids: Sequence[int | None] = (None,),
        hold_id: int | None = None,
        detail: str = "",
    ) -> None:
        """Write down who did what, in the transaction that does it: one row for each task."""
        statement = insert(actions).values(
            installation=self.installation,
            acted_at=self.database.clock_expression(),
            actor=self.actor,
            action=action.value,
            task_id=bindparam("of_task", type_=actions.c.task_id.type),
            hold_id=hold_id,
            detail=redact(detail, MESSAGE_LIMIT) or None,
        )
        if task_ids:
            connection.execute(statement, [{"of_task": each} for each in task_ids])


def pause(
    by: Steering, scope: Scope, subject: str, *, seconds: float, why: str
) -> tuple[HoldView, bool]:
    """Open a pause for `seconds`, or let the one that is open end by then.

    Return it, and whether it is new. `subject` is an account's digest, a host, or empty.
    """
    mine = _is_pause(by.installation, scope, subject)
    message = redact(why, MESSAGE_LIMIT) or None

    def change(connection: Connection) -> tuple[int, bool]:
        now: datetime = connection.execute(select(by.database.clock_expression())).scalar_one()
        ends_at = now + timedelta(seconds=seconds)
        hold_id = connection.execute(select(holds.c.id).where(*mine).with_for_update()).scalar()
        is_new = hold_id is None
        if hold_id is None:
            row = {
                "installation": by.installation,
                "scope": scope.value,
                "subject": subject,
                "message": message,
                "opened_at": now,
                "opened_by": by.actor,
                "ends_at": ends_at,
            }
            key = connection.execute(insert(holds).values(row)).inserted_primary_key
            hold_id = int(key[0]) if key else 0
        else:
            values = {"ends_at": ends_at} | ({"message": message} if message else {})
            connection.execute(update(holds).where(holds.c.id == hold_id).values(values))
        detail = f"{scope}, until {ends_at:%Y-%m-%d %H:%M:%S}{f': {why}' if why else ''}"
        by.note(connection, Action.PAUSE, hold_id=hold_id, detail=detail)
        return hold_id, is_new

    hold_id, is_new = by.database.run_in_transaction(change)
    found = read_hold(by.database, by.tables, hold_id, installation=by.installation)
    if found is None:
        raise RowHeld("the pause was deleted at this moment: try again")
    return found, is_new


def resume(by: Steering, scope: Scope, subject: str) -> HoldView | None:
    """Close the pause of this scope. Return it; None if there is none."""
    mine = _is_pause(by.installation, scope, subject)
    return _close(by, mine, Action.RESUME)


def release(by: Steering, hold_id: int) -> HoldView | None:
    """Close a hold or a pause at once. Return it; None if there is no open one of this number."""
    mine = (holds.c.id == hold_id, holds.c.installation == by.installation, holds.c.active == 1)
    return _close(by, mine, Action.RELEASE) if is_possible_id(by.database, hold_id) else None


def _close(by: Steering, mine: Sequence[ColumnElement[bool]], action: Action) -> HoldView | None:
    def change(connection: Connection) -> int | None:
        found = select(holds.c.id).where(*mine).with_for_update()
        hold_id: int | None = connection.execute(found).scalar()
        if hold_id is None:
            return None
        values = {"closed_at": by.database.clock_expression(), "closed_by": by.actor}
        connection.execute(update(holds).where(holds.c.id == hold_id).values(values))
        by.note(connection, action, hold_id=hold_id)
        return hold_id

    hold_id = by.database.run_in_transaction(change)
    if hold_id is None:
        return None
    return read_hold(by.database, by.tables, hold_id, installation=by.installation)


def _is_pause(installation: str, scope: Scope, subject: str) -> tuple[ColumnElement[bool], ...]:
    return (
        holds.c.installation == installation,
        holds.c.kind == HoldKind.PAUSE.value,
        holds.c.scope == scope.value,
        holds.c.subject == subject,
        holds.c.active == 1,
    )


def count_enrolled(database: Database, tables: Tables, scope: Scope, subject: str) -> int:
    """Return how many enrolled tasks are in this scope, with or without a run."""
    mine = is_in_scope(scope, subject, tables.account(), tables.course_host())
    statement = select(func.count()).select_from(tables.tasks).where(tables.is_enrolled(), mine)
    with database.read_transaction() as connection:
        return connection.execute(statement).scalar_one()


@dataclass(frozen=True, slots=True)
class FailedFor:
    """Which failed tasks to retry: those whose last run ended for this reason, since then (UTC).

    `account` is a digest; None: of every account.
    """

    reason: Reason
    since: timedelta
    account: str | None = None


def find_failed(database: Database, tables: Tables, wanted: FailedFor) -> list[int]:
    """Return the ids of the failed tasks to retry, lowest first."""
    later = runs.alias("later")
    is_newest = ~(
        select(later.c.id)
        .where(later.c.task_id == runs.c.task_id, later.c.run_number > runs.c.run_number)
        .exists()
    )
    statement = (
        select(runs.c.task_id)
        .join(tables.tasks, tables.id == runs.c.task_id)
        .where(
            # A run that was cancelled is `revoked`, and so is none that failed.
            runs.c.outcome.in_((Outcome.FAILED.value, Outcome.REVOKED.value)),
            runs.c.finished_at >= database.now() - wanted.since,
            runs.c.reason == wanted.reason.value,
            is_newest,
            tables.status == tables.statuses.failed,
        )
        .distinct()
        .order_by(runs.c.task_id)
    )
    if wanted.account is not None:
        statement = statement.where(tables.account() == wanted.account)
    with database.read_transaction() as connection:
        return list(connection.execute(statement).scalars())


def keep_failed(database: Database, tables: Tables, task_ids: Sequence[int]) -> list[int]:
    """Return those of these tasks that have failed, lowest id first."""
    possible, found = [each for each in task_ids if is_possible_id(database, each)], set[int]()
    with database.read_transaction() as connection:
        for start in range(0, len(possible), RETRY_BATCH):
            mine = tables.id.in_(possible[start : start + RETRY_BATCH])
            statement = select(tables.id).where(mine, tables.status == tables.statuses.failed)
            found.update(connection.execute(statement).scalars())
    return sorted(found)


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of tasks that were to be retried; `refused` has the errors of the database."""

    enrolled: list[int]
    not_failed: list[int]
    refused: dict[int, str]


def retry(by: Steering, task_ids: Sequence[int], detail: str = "") -> Retried:
    """Set failed tasks back to `enrolled`; each other one is left as it is.

    RETRY_BATCH tasks are one transaction. If that is refused, each is written alone.
    """
    statuses = by.tables.statuses

    def change(connection: Connection, ids: Sequence[int]) -> list[int]:
        moved = [
            task_id
            for task_id in ids
            if compare_and_set(connection, by.tables, task_id, statuses.failed, statuses.enrolled)
        ]
        by.note(connection, Action.RETRY, task_ids=moved, detail=detail)
        return moved

    enrolled, refused = list[int](), dict[int, str]()
    possible = sorted({each for each in task_ids if is_possible_id(by.database, each)})
    for start in range(0, len(possible), RETRY_BATCH):
        batch = possible[start : start + RETRY_BATCH]
        try:
            every = partial(change, ids=batch)
            enrolled += by.database.run_in_transaction(every, of_one_row=True)
        except (RowHeld, RowRefused):
            for task_id in batch:
                try:
                    alone = partial(change, ids=[task_id])
                    enrolled += by.database.run_in_transaction(alone, of_one_row=True)
                except (RowHeld, RowRefused) as error:
                    refused[task_id] = str(error)
    moved = {*enrolled, *refused}
    return Retried(enrolled, sorted({*task_ids} - moved), refused)


class Cancelled(StrEnum):
    """What became of a task that was to be cancelled."""

    # Its run is marked as stopping, and the task has failed.
    STOPPING = "stopping"
    # It had no live run, and has failed.
    FAILED = "failed"
    # Nothing was written:
    # there is no row of this id,
    MISSING = "missing"
    # it is completed or failed already,
    FINISHED = "finished"
    # its status is none of the configured ones, and it was never known otherwise,
    UNKNOWN = "unknown"
    # or its run has ended, and the database refuses the task's status.
    ENDED = "ended"


class _Changed(Exception):
    """The task changed between two statements: roll back, and read it again."""


def cancel(by: Steering, task_id: int) -> Cancelled:
    """Fail a task that waits, is enrolled or runs, and mark its live run as stopping.

    The operator stops the run in its next pass. Raises RowHeld or RowRefused.
    """
    if not is_possible_id(by.database, task_id):
        return Cancelled.MISSING
    for _ in range(_MOST_READS):
        try:
            change = partial(_cancel, by=by, task_id=task_id)
            return by.database.run_in_transaction(change, of_one_row=True)
        except _Changed:
            continue
    raise RowHeld(f"task {task_id} changes all the time: try again")


def _cancel(connection: Connection, by: Steering, task_id: int) -> Cancelled:
    tables, message = by.tables, f"cancelled by {by.actor}"
    select_row = (
        select(
            tables.status, tables.configured_status(tables.status), tracked_tasks.c.first_seen_at
        )
        .select_from(tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id))
        .where(tables.id == task_id)
    )
    row = connection.execute(select_row).first()
    if row is None:
        return Cancelled.MISSING
    status, configured, first_seen_at = row
    is_mine = and_(runs.c.task_id == task_id, runs.c.active == 1)
    run = next(iter(read_unfinished(connection, tables, select_unfinished(tables, is_mine))), None)
    state = tables.statuses.state(configured)
    if state in (TaskState.COMPLETED, TaskState.FAILED):
        return Cancelled.FINISHED
    if state is TaskState.UNKNOWN and run is None and first_seen_at is None:
        return Cancelled.UNKNOWN
    if run is not None and run.state is RunState.ENDED:
        return Cancelled.ENDED
    # The task first, then its tracking, then the run: every transaction takes its locks in this
    # order.
    if not compare_and_set(connection, tables, task_id, status, tables.statuses.failed):
        raise _Changed
    connection.execute(delete(tracked_tasks).where(tracked_tasks.c.task_id == task_id))
    now: datetime = connection.execute(select(by.database.clock_expression())).scalar_one()
    if run is None or run.state is RunState.STOPPING:
        insert_refusal(
            connection,
            task_id,
            Reason.CANCELLED,
            message,
            since=first_seen_at or now,
            now=now,
            installation=by.installation,
        )
    else:
        remedy = explain(Reason.CANCELLED).remedy
        is_as_read = (runs.c.id == run.run_id, runs.c.active == 1, runs.c.state == run.state.value)
        stop = update(runs).where(*is_as_read)
        values = stopping_values(Reason.CANCELLED, message, remedy)
        if connection.execute(stop.values(values)).rowcount != 1:
            raise _Changed
    by.note(connection, Action.CANCEL, task_ids=[task_id])
    is_live = run is not None and run.state is not RunState.STOPPING
    return Cancelled.STOPPING if is_live else Cancelled.FAILED
