"""Runs in the database: claimed before they exist, recorded in the transaction that moves their task."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    ScalarSelect,
    Select,
    String,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from enrollgate.common.redaction import redact
from enrollgate.database.engine import LOCK_TIMEOUT, Database, NamedLock
from enrollgate.database.tables import INSTANT, Tables, runs, tracked_tasks
from enrollgate.domain.planner import Record
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.domain.run import Outcome, RunState, UnfinishedRun, run_name
from enrollgate.domain.task import TaskState

MESSAGE_LIMIT = 1000
"""Characters of a recorded message, at most."""


def ignoring_duplicates(database: Database) -> str:
    """The prefix that makes an INSERT skip the rows whose key is taken."""
    return "OR IGNORE" if database.is_sqlite else "IGNORE"


def claim(
    database: Database, tables: Tables, now: datetime, *, installation: str, limit: int
) -> list[str]:
    """Claims runs, in one statement, for enrolled tasks that have no unfinished one, lowest id first, as long as the
    installation has fewer than `limit` unfinished runs. Gives the names of those that were claimed.

    Two operators that claim at once claim one after the other, so that together they keep to the limit. No task is ever claimed
    twice whatever they do: the database's unique keys see to that, and the loser's row is skipped.
    """

    def change(connection: Connection) -> list[str]:
        slots = limit - connection.execute(_count_unfinished(installation)).scalar_one()
        if slots <= 0:
            return []
        last = connection.execute(select(func.coalesce(func.max(runs.c.id), 0))).scalar_one()
        if not connection.execute(_claim(database, tables, now, installation, slots)).rowcount:
            return []
        claimed = select(runs.c.name).where(
            runs.c.id > last,
            runs.c.installation == installation,
            runs.c.state == RunState.CLAIMED.value,
        )
        return list(connection.execute(claimed).scalars())

    return database.run_in_transaction(change, lock=_claiming(installation))


def _claiming(installation: str) -> NamedLock:
    name = f"enrollgate-claim-{installation}"
    return NamedLock(name, LOCK_TIMEOUT, f"another operator holds the lock {name!r}")


def _claim(
    database: Database, tables: Tables, now: datetime, installation: str, slots: int
) -> Insert:
    previous = (
        select(func.max(runs.c.run_number)).where(runs.c.task_id == tables.id).scalar_subquery()
    )
    unfinished = select(runs.c.id).where(runs.c.task_id == tables.id, runs.c.active == 1).exists()
    chosen = (
        select(tables.id.label("task_id"), (func.coalesce(previous, 0) + 1).label("run_number"))
        .where(tables.is_enrolled(), ~unfinished)
        .order_by(tables.id)
        .limit(slots)
        .subquery("chosen")
    )
    name = (
        literal(f"{installation}-")
        + cast(chosen.c.task_id, String(20))
        + literal("-")
        + cast(chosen.c.run_number, String(20))
    )
    source = select(
        chosen.c.task_id,
        chosen.c.run_number,
        name,
        literal(installation),
        literal(RunState.CLAIMED.value),
        literal(now, INSTANT),
    )
    columns = [
        runs.c.task_id,
        runs.c.run_number,
        runs.c.name,
        runs.c.installation,
        runs.c.state,
        runs.c.claimed_at,
    ]
    return insert(runs).from_select(columns, source).prefix_with(ignoring_duplicates(database))


def unfinished(
    database: Database,
    tables: Tables,
    *,
    installation: str,
    names: Collection[str] | None = None,
) -> list[UnfinishedRun]:
    """The unfinished runs of this installation with their tasks, by one statement; with `names`, those of these names."""
    where = (runs.c.active == 1) & (runs.c.installation == installation)
    if names is not None:
        where &= runs.c.name.in_(names)
    lost = _lost_in_a_row()
    statement = (
        select(
            runs.c.id,
            runs.c.task_id,
            runs.c.run_number,
            runs.c.name,
            runs.c.state,
            tables.id.is_(None).label("missing"),
            tables.configured_status(tables.status).label("word"),
            tables.status.label("status"),
            tables.email.label("email"),
            tables.course_url.label("course_url"),
            lost.label("lost"),
            runs.c.reason,
            runs.c.message,
            tracked_tasks.c.first_seen_at,
        )
        .select_from(
            runs.outerjoin(tables.tasks, tables.id == runs.c.task_id).outerjoin(
                tracked_tasks, tracked_tasks.c.task_id == runs.c.task_id
            )
        )
        .where(where)
        .order_by(runs.c.id)
    )
    with database.read_transaction() as connection:
        return [
            UnfinishedRun(
                run_id=row.id,
                task_id=row.task_id,
                run_number=row.run_number,
                name=row.name,
                state=RunState(row.state),
                task=TaskState.MISSING if row.missing else tables.statuses.state(row.word),
                task_status=row.status,
                email=_text(row.email),
                course_url=_text(row.course_url),
                lost_before=row.lost,
                stop_reason=_reason(row.reason),
                stop_message=row.message or "",
                since=row.first_seen_at,
            )
            for row in connection.execute(statement)
        ]


def _text(value: object) -> str | None:
    """Text, whatever the column holds it as: a VARBINARY in MySQL, a BLOB or a number in any column of SQLite."""
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _reason(word: str | None) -> Reason | None:
    """A word that only a newer version knows is as good as `Stopped` to this one."""
    try:
        return Reason(word) if word else None
    except ValueError:
        return Reason.STOPPED


def count_unfinished(database: Database, *, installation: str) -> int:
    """How many runs of this installation are unfinished."""
    with database.read_transaction() as connection:
        return connection.execute(_count_unfinished(installation)).scalar_one()


def _count_unfinished(installation: str) -> Select[int]:
    return select(func.count()).where(runs.c.active == 1, runs.c.installation == installation)


def _lost_in_a_row() -> ScalarSelect[int]:
    """How many runs of the task were lost since one of its runs ended otherwise."""
    lost, other = runs.alias("lost"), runs.alias("other")
    last_other = (
        select(func.coalesce(func.max(other.c.run_number), 0))
        .where(other.c.task_id == runs.c.task_id, other.c.outcome != Outcome.LOST.value)
        .correlate(runs)
        .scalar_subquery()
    )
    return (
        select(func.count())
        .where(
            lost.c.task_id == runs.c.task_id,
            lost.c.outcome == Outcome.LOST.value,
            lost.c.run_number > last_other,
        )
        .correlate(runs)
        .scalar_subquery()
    )


def still_wanted(database: Database, tables: Tables, names: Collection[str]) -> set[str]:
    """Of these claimed runs, those whose task is enrolled at this moment: the last look before they are created."""
    statement = (
        select(runs.c.name)
        .join_from(runs, tables.tasks, tables.id == runs.c.task_id)
        .where(
            runs.c.name.in_(names),
            runs.c.active == 1,
            runs.c.state == RunState.CLAIMED.value,
            tables.is_enrolled(),
        )
    )
    with database.read_transaction() as connection:
        return set(connection.execute(statement).scalars())


def unfinished_names(database: Database, names: Collection[str]) -> set[str]:
    """Of these names, those of unfinished runs: asked once more before a stray is stopped."""
    with database.read_transaction() as connection:
        return set(
            connection.execute(
                select(runs.c.name).where(runs.c.name.in_(names), runs.c.active == 1)
            ).scalars()
        )


def mark_launched(database: Database, names: Collection[str], now: datetime) -> list[str]:
    """Notes that claimed runs exist at their launcher. Gives the names of those of which nobody had noted it before."""
    claimed = (runs.c.name.in_(names), runs.c.active == 1, runs.c.state == RunState.CLAIMED.value)

    def change(connection: Connection) -> list[str]:
        found = list(
            connection.execute(select(runs.c.name).where(*claimed).with_for_update()).scalars()
        )
        connection.execute(
            update(runs).where(*claimed).values(state=RunState.LAUNCHED.value, launched_at=now)
        )
        return found

    return database.run_in_transaction(change)


class _NotOurs(Exception):
    """Another operator has taken the run further meanwhile: whatever we were about to say of it and its task is undone."""


class Recorded(StrEnum):
    """What came of recording a run."""

    MOVED = "moved"
    """The run is finished, and its task moved with it."""
    LEFT = "left"
    """The run is finished; its task has moved on since it was read, or was not to be moved."""
    OVERTAKEN = "overtaken"
    """Nothing was written: another operator has taken the run further since it was read."""


def mark_stopping(
    database: Database,
    tables: Tables,
    run: UnfinishedRun,
    reason: Reason,
    message: str,
    *,
    fail_task: bool,
) -> bool:
    """Notes why a run is being stopped, before it is; with `fail_task` the task fails in the same transaction. False, and
    nothing is written, if another operator has finished the run meanwhile.
    """

    def change(connection: Connection) -> None:
        if fail_task:
            _move_task(connection, tables, run, TaskState.FAILED)
        values = {
            "state": RunState.STOPPING.value,
            "reason": reason.value,
            "message": redact(message, MESSAGE_LIMIT),
        }
        _update_run(connection, run, values)

    try:
        database.run_in_transaction(change)
    except _NotOurs:
        return False
    return True


def record(database: Database, tables: Tables, verdict: Record, now: datetime) -> Recorded:
    """Finishes a run and moves its task, in one transaction, if the run is as it was read: what is only claimed and not there,
    say, may have been created by another operator since. A task that has moved on since it was read is left as it is.
    """

    def change(connection: Connection) -> Recorded:
        # The task first, then the sighting, then the run: every transaction takes its locks in this order.
        moved = verdict.task_to is not None and _move_task(
            connection, tables, verdict.run, verdict.task_to
        )
        values = {
            "state": RunState.FINISHED.value,
            "finished_at": now,
            "outcome": verdict.outcome.value,
            "reason": verdict.reason.value if verdict.reason else None,
            "message": redact(verdict.message, MESSAGE_LIMIT),
            "result": _result(verdict.report),
        }
        _update_run(connection, verdict.run, values, runs.c.state == verdict.run.state.value)
        return Recorded.MOVED if moved else Recorded.LEFT

    try:
        return database.run_in_transaction(change)
    except _NotOurs:
        return Recorded.OVERTAKEN


def _update_run(
    connection: Connection,
    run: UnfinishedRun,
    values: Mapping[str, object],
    *unchanged: ColumnElement[bool],
) -> None:
    statement = (
        update(runs).where(runs.c.id == run.run_id, runs.c.active == 1, *unchanged).values(**values)
    )
    if connection.execute(statement).rowcount != 1:
        raise _NotOurs


def _move_task(connection: Connection, tables: Tables, run: UnfinishedRun, to: TaskState) -> bool:
    """Moves the task from what the plan saw; a task that is over ends its sighting."""
    words = tables.statuses
    word = {TaskState.COMPLETED: words.completed, TaskState.FAILED: words.failed}[to]
    if not compare_and_set(connection, tables, run.task_id, run.task_status, word):
        return False
    connection.execute(delete(tracked_tasks).where(tracked_tasks.c.task_id == run.task_id))
    return True


def compare_and_set(
    connection: Connection, tables: Tables, task_id: int, status: str | None, to: str
) -> bool:
    """`UPDATE ... SET status = to WHERE id = ? AND status = ?`: the only statement that ever writes Node.js's table."""
    unchanged = tables.status.is_(None) if status is None else tables.status == status
    statement = (
        update(tables.tasks).where(tables.id == task_id, unchanged).values({tables.status: to})
    )
    return connection.execute(statement).rowcount == 1


def insert_refusal(
    connection: Connection,
    task_id: int,
    reason: Reason,
    message: str,
    *,
    now: datetime,
    installation: str,
) -> None:
    """Records why a task failed at the gate: a finished run that was never launched."""
    last: int | None = connection.execute(
        select(func.max(runs.c.run_number)).where(runs.c.task_id == task_id)
    ).scalar()
    run_number = (last or 0) + 1
    connection.execute(
        insert(runs).values(
            task_id=task_id,
            run_number=run_number,
            name=run_name(installation, task_id, run_number),
            installation=installation,
            state=RunState.FINISHED.value,
            claimed_at=now,
            finished_at=now,
            outcome=Outcome.FAILED.value,
            reason=reason.value,
            message=redact(message, MESSAGE_LIMIT),
        )
    )


def _result(report: Report | None) -> dict[str, object] | None:
    if report is None:
        return None
    encoded: dict[str, object] = json.loads(report.encode())
    return encoded
