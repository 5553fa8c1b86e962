"""Claimed runs in the database: read, marked as launched or stopping, recorded.

If the database refuses to move the task, the run's outcome is recorded all the same: the run has
`ENDED`. It takes no slot any more, and it keeps its task from being claimed again, until its task
can be moved (`finish`).

`unfinished` returns the runs that the planner decides about, in the same form as `claims.claim`.
`mark_launched`, `mark_stopping` and `record` write what the reconciler did.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    Text,
    Update,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)

from enrollgate.common.redaction import redact
from enrollgate.database.engine import Database
from enrollgate.database.errors import DatabaseError, RowHeld, RowRefused
from enrollgate.database.progress import FINAL_COLUMNS, final_values
from enrollgate.database.set_aside import SetAside
from enrollgate.database.tables import (
    INSTANT,
    MESSAGE_LIMIT,
    Tables,
    is_not_set_aside,
    runs,
    tracked_tasks,
)
from enrollgate.domain.planner import Finish, Record, Stop
from enrollgate.domain.reasons import Reason, explain
from enrollgate.domain.report import Report
from enrollgate.domain.run import (
    Outcome,
    RunPlace,
    RunState,
    UnfinishedRun,
    parse_run_name,
)
from enrollgate.domain.task import TaskState

_STATES = [state.value for state in RunState]
# A stop reason that only a newer version knows is treated as `Stopped`.
_REASONS = {reason.value: reason for reason in Reason}
# Characters of a course URL that are read. A longer one is refused anyway.
_URL_LIMIT = 2**16
# Only then a run may be launched, and needs its account and course.
_IS_CLAIMED = runs.c.state == RunState.CLAIMED.value
# In the order of RunPlace's fields. One column, since thousands of runs share few places.
_PLACE = func.json_array(*(runs.c[each.name] for each in fields(RunPlace)), type_=String).label(
    "place"
)
_lost, _other = runs.alias("lost"), runs.alias("other")
_LAST_NOT_LOST = (
    select(func.coalesce(func.max(_other.c.run_number), 0))
    .where(_other.c.task_id == runs.c.task_id, _other.c.outcome != Outcome.LOST.value)
    .correlate(runs)
    .scalar_subquery()
)
# How many of the task's last runs were lost, one after the other.
_LOST_IN_A_ROW = (
    select(func.count())
    .where(
        _lost.c.task_id == runs.c.task_id,
        _lost.c.outcome == Outcome.LOST.value,
        _lost.c.run_number > _LAST_NOT_LOST,
    )
    .correlate(runs)
    .scalar_subquery()
)
# What decisions need to know of a run, and of its tracked task.
_READ = (
    runs.c.id,
    runs.c.task_id,
    runs.c.run_number,
    runs.c.name,
    runs.c.state,
    runs.c.task_left,
    runs.c.content_sha256,
    runs.c.claim_id,
    runs.c.outcome,
    runs.c.reason,
    runs.c.message,
    runs.c.refusals,
    tracked_tasks.c.first_seen_at,
    runs.c.enrolled_seen_at,
    runs.c.attempt,
    runs.c.account,
    runs.c.course_host,
    runs.c.claimed_at,
    func.coalesce(tracked_tasks.c.refusals, 0).label("launch_refusals"),
    _LOST_IN_A_ROW.label("lost_before"),
)


def unfinished(
    database: Database,
    tables: Tables,
    now: datetime,
    *,
    installation: str,
    names: Collection[str] | None = None,
) -> list[UnfinishedRun]:
    """Return the unfinished runs of this installation with their tasks.

    A run that has ended is left out before its `retry_at`, unless its task has another status now.
    So is one whose own row could not be written, while its task is set aside. A run whose state
    only a newer version knows is left out, too.

    With `names`, return only the runs that have these names. One statement reads them.
    """
    conditions = [
        runs.c.active == 1,
        runs.c.installation == installation,
        runs.c.state.in_(_STATES),
        is_not_set_aside(now),
        (runs.c.state != RunState.ENDED.value)
        | (runs.c.retry_at <= now)
        | tables.status.is_(None)
        | (tables.status != tables.statuses.enrolled),
    ]
    if names is not None:
        conditions += _named(database, installation, names)
    with database.autocommit() as connection:
        return read_unfinished(connection, tables, select_unfinished(tables, *conditions))


def select_unfinished(tables: Tables, *conditions: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Build the statement that `read_unfinished` executes."""
    with_task = runs.outerjoin(tables.tasks, tables.id == runs.c.task_id)
    url_type = tables.course_url.type
    course_url = func.substr(tables.course_url, 1, _URL_LIMIT, type_=url_type)
    return (
        select(
            *_READ,
            _PLACE,
            tables.id.is_(None).label("is_missing"),
            tables.configured_status(tables.status).label("configured_status"),
            tables.status.label("status"),
            case((_IS_CLAIMED, tables.email)).label("email"),
            case((_IS_CLAIMED, course_url)).label("course_url"),
            (runs.c.content_sha256 != tables.content_sha256()).label("is_changed"),
        )
        .select_from(with_task.outerjoin(tracked_tasks, tracked_tasks.c.task_id == runs.c.task_id))
        .where(*conditions)
        .order_by(runs.c.id)
    )


def read_unfinished(
    connection: Connection,
    tables: Tables,
    statement: Select[*tuple[Any, ...]],
    values: Mapping[str, object] | None = None,
) -> list[UnfinishedRun]:
    """Return runs with their tasks as the same statement sees them.

    `values` are those of the parameters of `statement`.
    """
    found = dict[int, UnfinishedRun]()
    for row in connection.execute(statement, values):
        task = tables.statuses.state(row.configured_status)
        if task is TaskState.ENROLLED and row.task_left:  # it was set back since: a fresh start
            task = TaskState(row.task_left)
        run = UnfinishedRun(
            run_id=row.id,
            task_id=row.task_id,
            run_number=row.run_number,
            name=row.name,
            state=RunState(row.state),
            task=TaskState.MISSING if row.is_missing else task,
            task_status=row.status,
            email=row.email,
            course_url=row.course_url,
            place=_parse_place(row.place),
            content_sha256=row.content_sha256,
            is_changed=bool(row.is_changed),
            claim_id=row.claim_id or "",
            lost_before=row.lost_before,
            stop_reason=_REASONS.get(row.reason, Reason.STOPPED) if row.reason else None,
            stop_message=row.message or "",
            since=row.first_seen_at,
            outcome=Outcome(row.outcome) if row.outcome else None,
            refusals=row.refusals,
            launch_refusals=row.launch_refusals,
            enrolled_since=row.enrolled_seen_at,
            attempt=row.attempt or 0,
            account=row.account,
            course_host=row.course_host,
            claimed_at=row.claimed_at,
        )
        # A view, or a table without a key, may have two rows with one id.
        if (twin := found.get(run.run_id)) is not None:
            is_own = run.task is TaskState.ENROLLED and not run.is_changed
            run = replace(run if is_own else twin, is_ambiguous=True)
        found[run.run_id] = run
    return list(found.values())


@lru_cache
def _parse_place(place: str) -> RunPlace:
    return RunPlace(*(each or "" for each in json.loads(place)))


def unfinished_elsewhere(
    database: Database, *, installation: str, here: RunPlace
) -> dict[RunPlace, list[str]]:
    """Return the names of the unfinished runs that an operator here cannot observe, by place."""
    statement = (
        select(runs.c.name, _PLACE)
        .where(runs.c.active == 1, runs.c.installation == installation)
        .order_by(runs.c.id)
    )
    found = dict[RunPlace, list[str]]()
    with database.autocommit() as connection:
        for row in connection.execute(statement):
            place = _parse_place(row.place)
            if not here.can_observe(place):
                found.setdefault(place, []).append(row.name)
    return found


def count_unfinished(database: Database, *, installation: str) -> int:
    """Return how many slots the runs of this installation take."""
    with database.autocommit() as connection:
        statement = select_unfinished_count(installation, database.clock_expression())
        return connection.execute(statement).scalar_one()


def select_unfinished_count(installation: str, now: ColumnElement[datetime]) -> Select[int]:
    """Build the statement that counts the slots which the runs of this installation take.

    A run that has ended takes none, also if that could not be written and its task is set aside.
    """
    return (
        select(func.count(runs.c.id))
        .select_from(runs.outerjoin(tracked_tasks, tracked_tasks.c.task_id == runs.c.task_id))
        .where(
            runs.c.active == 1,
            runs.c.installation == installation,
            runs.c.state != RunState.ENDED.value,
            is_not_set_aside(now),
        )
    )


def still_enrolled(database: Database, tables: Tables, run_ids: Collection[int]) -> set[int]:
    """Return the ids of the claimed runs whose tasks are enrolled now, with the same content.

    This is the last check before they are launched.
    """
    statement = (
        select(runs.c.id)
        .join_from(runs, tables.tasks, tables.id == runs.c.task_id)
        .where(
            *_claimed(run_ids),
            runs.c.task_left.is_(None),
            tables.is_enrolled(),
            runs.c.content_sha256 == tables.content_sha256(),
        )
    )
    with database.autocommit() as connection:
        return set(connection.execute(statement).scalars())


def _named(
    database: Database, installation: str, names: Collection[str]
) -> tuple[ColumnElement[bool], ...]:
    parsed = (parse_run_name(installation, name) for name in names)
    largest = (1 << (63 if database.is_sqlite else 64)) - 1  # of what `task_id` holds
    # An index finds the runs by it. There is none on their names.
    task_ids = [each[0] for each in parsed if each is not None and abs(each[0]) <= largest]
    return runs.c.task_id.in_(task_ids), runs.c.name.in_(names)


def claims(
    database: Database, names: Collection[str], *, installation: str
) -> dict[str, tuple[str, bool]]:
    """Return the claim id of each run with one of these names, and whether it has ended.

    This is the last check before an orphan is stopped.
    """
    has_ended = or_(runs.c.active.is_(None), runs.c.state == RunState.ENDED.value)
    statement = select(runs.c.name, runs.c.claim_id, has_ended).where(
        *_named(database, installation, names)
    )
    with database.autocommit() as connection:
        return {
            name: (claim_id or "", bool(ended))
            for name, claim_id, ended in connection.execute(statement)
        }


def mark_launched(database: Database, launched: Mapping[int, datetime | None]) -> set[int]:
    """Record that claimed runs exist at their launcher, and since when (None: since now).

    They are named by their ids. Return those that no operator had recorded before. Raises RowHeld
    or RowRefused; then repeat it for each alone.
    """
    of_one_row = len(launched) == 1
    claimed = _claimed(launched.keys())
    known = {
        run_id: literal(_utc(instant), INSTANT)
        for run_id, instant in launched.items()
        if instant is not None
    }
    instants = case(known, value=runs.c.id) if known else None
    mark = update(runs).where(*claimed)
    mark = mark.values(
        state=RunState.LAUNCHED.value,
        message=None,  # why it waited
        launched_at=func.coalesce(_bounded(database, instants), database.clock_expression()),
    )

    def mark_all(connection: Connection) -> None:
        if connection.execute(mark).rowcount != len(launched):
            raise _Overtaken

    def mark_some(connection: Connection) -> set[int]:
        found = select(runs.c.id).where(*claimed).with_for_update()
        new = set(connection.execute(found).scalars())
        connection.execute(mark)
        return new

    if of_one_row:
        with suppress(DatabaseError):  # else the transaction says what is wrong
            # The usual case: one statement, which is a transaction of its own.
            return set(launched) if database.execute(mark) else set()
    try:
        # Nearly always all of them are new, and one statement is enough.
        database.run_in_transaction(mark_all, of_one_row=of_one_row)
    except _Overtaken:
        return database.run_in_transaction(mark_some, of_one_row=of_one_row)
    return set(launched)


def note_waits(database: Database, waits: Mapping[int, str]) -> None:
    """Write down why claimed runs, named by their ids, are not launched yet: for people to read.

    `mark_launched` removes it. Raises DatabaseUnavailable or DatabaseMisconfigured.
    """
    texts = {run_id: redact(why, MESSAGE_LIMIT) for run_id, why in waits.items()}
    statement = (
        update(runs).where(*_claimed(texts.keys())).values(message=case(texts, value=runs.c.id))
    )
    database.run_in_transaction(lambda connection: connection.execute(statement))


def explain_live(database: Database, run_id: int, report: Report | None) -> None:
    """Write down why a launched run cannot go on now; None: it goes on again.

    `record` and `mark_stopping` replace it. Raises DatabaseUnavailable or DatabaseMisconfigured.
    """
    values: dict[str, object] = dict.fromkeys(("reason", "message", "remedy"))
    if report is not None and report.reason is not None:
        values = _cause_values(report.reason, report.message, report.remedy)
    is_launched = (runs.c.active == 1, runs.c.state == RunState.LAUNCHED.value)
    statement = update(runs).where(runs.c.id == run_id, *is_launched).values(values)
    database.run_in_transaction(lambda connection: connection.execute(statement))


def _utc(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)


def _bounded(
    database: Database, instant: datetime | ColumnElement[datetime] | None
) -> ColumnElement[datetime]:
    """Build the instant of a run, but not before its launch or claim, and not after now.

    The clocks of nodes and of this machine differ from the database's. `instant` is UTC without a
    time zone. None means now; an expression that is NULL stays NULL.
    """
    now = database.clock_expression()
    if instant is None:
        return now
    value = literal(instant, INSTANT) if isinstance(instant, datetime) else instant
    since = func.coalesce(runs.c.launched_at, runs.c.claimed_at)
    if database.is_sqlite:
        return func.max(since, func.min(value, now), type_=INSTANT)
    # A server would compare texts.
    return func.greatest(since, func.least(cast(value, INSTANT), now), type_=INSTANT)


def _claimed(run_ids: Collection[int]) -> tuple[ColumnElement[bool], ...]:
    return (runs.c.id.in_(run_ids), runs.c.active == 1, runs.c.state == RunState.CLAIMED.value)


class _Overtaken(Exception):
    """Another operator has changed the run: the transaction is rolled back."""


class Recorded(StrEnum):
    """The result of recording a run."""

    # The run is finished, and its task moved with it.
    MOVED = "moved"
    # The run is finished. Its task had changed since it was read, or was not to be moved.
    LEFT = "left"
    # The run has ended. Its task is set aside, because its status cannot be written now.
    SET_ASIDE = "set aside"
    # Nothing was written: another operator has changed the run since it was read.
    OVERTAKEN = "overtaken"


def stopping_values(reason: Reason, message: str, remedy: str) -> dict[str, object]:
    """Return the values of a run that is to be stopped; the next pass stops it."""
    return {"state": RunState.STOPPING.value, **_cause_values(reason, message, remedy)}


def _cause_values(reason: Reason, message: str, remedy: str) -> dict[str, object]:
    """Return the values that say why a run is stopped, or why it waits."""
    return {
        "reason": reason.value,
        "message": redact(message, MESSAGE_LIMIT),
        "remedy": redact(remedy, MESSAGE_LIMIT) or None,
    }


def mark_stopping(
    database: Database, tables: Tables, stop: Stop, *, until: SetAside | None = None
) -> bool:
    """Record why a run is stopped, before it is stopped.

    If the action says so, the same transaction fails the task. Raises RowRefused if the database
    refuses that. Then repeat it with `until`: the task fails when the run has ended.

    Return False, with nothing written, if another operator has finished the run meanwhile.
    """

    def change(connection: Connection) -> None:
        if stop.fail_task and until is None:
            _move_task(connection, tables, stop.run, TaskState.FAILED)
        values = stopping_values(stop.reason, stop.message, stop.remedy)
        if until is not None:
            values |= {**until.columns, "refusals": runs.c.refusals + 1}
        _update_run(connection, stop.run, values)

    try:
        database.run_in_transaction(change, of_one_row=True)
    except _Overtaken:
        return False
    return True


def record(
    database: Database, tables: Tables, action: Record, *, until: SetAside | None = None
) -> Recorded:
    """Finish a run and move its task in one transaction.

    Raises RowRefused if the database refuses to move the task. Then repeat it with `until`: the
    outcome is recorded, and `finish` moves the task later.

    Nothing is written if the run's state is not the one that was read any more.

    For example, another operator may have launched a run that was claimed and absent when we
    looked. A task is left as it is if its status has changed since it was read, or its content
    since it was claimed.
    """
    seen = action.observation

    def change(connection: Connection) -> Recorded:
        # The task first, then its tracking, then the run: every transaction takes its locks in this
        # order.
        moved = (
            until is None
            and action.task_to is not None
            and _move_task(connection, tables, action.run, action.task_to)
        )
        ends: dict[str, object] = {}
        if until is not None:
            ends = {"state": RunState.ENDED.value, "refusals": runs.c.refusals + 1}
            ends |= until.columns
        if seen is not None and action.run.state is RunState.CLAIMED:  # it was never recorded
            launched_at = None if seen.launched_at is None else _utc(seen.launched_at)
            ends["launched_at"] = _bounded(database, launched_at)
        statement = _build_record(database, ends)
        if connection.execute(statement, _record_values(action)).rowcount != 1:
            raise _Overtaken
        if until is not None:
            return Recorded.SET_ASIDE
        return Recorded.MOVED if moved else Recorded.LEFT

    try:
        return database.run_in_transaction(change, of_one_row=True)
    except _Overtaken:
        return Recorded.OVERTAKEN


def record_all(
    database: Database, tables: Tables, actions: Sequence[Record]
) -> list[Recorded] | None:
    """Finish many runs and move their tasks in one transaction, each as `record` does.

    The runs were launched or stopped before, so none of them is only claimed. Return None, with
    nothing written, if anything about one of them is not as it was read, or is held or refused:
    then record them one by one.

    A batch writes its tasks in one statement for each pair of statuses, and its runs in one that
    is sent for each run: it has long texts.
    """
    moves = dict[tuple[str | None, TaskState], list[UnfinishedRun]]()
    for action in actions:
        if action.task_to is not None:
            moves.setdefault((action.run.task_status, action.task_to), []).append(action.run)

    def change(connection: Connection) -> None:
        for (status, to), group in moves.items():
            ids = [run.task_id for run in group]
            is_claimed = tables.content_sha256() == case(
                {run.task_id: run.content_sha256 for run in group}, value=tables.id
            )
            final = _final_status(tables, to)
            _move_all(connection, tables, ids, is_claimed, status=status, to=final)
        if ids := [run.task_id for group in moves.values() for run in group]:
            connection.execute(delete(tracked_tasks).where(tracked_tasks.c.task_id.in_(ids)))
        values = [_record_values(action) for action in actions]
        if connection.execute(_build_record(database, {}), values).rowcount != len(actions):
            raise _Overtaken

    try:
        database.run_in_transaction(change, of_one_row=True)
    except (_Overtaken, RowHeld, RowRefused):
        return None
    return [Recorded.MOVED if action.task_to else Recorded.LEFT for action in actions]


def _build_record(database: Database, ends: Mapping[str, object]) -> Update:
    """Build the statement that finishes a run; `_record_values` gives its parameters.

    `ends` are values for columns that end otherwise.
    """
    started, finished = bindparam("started", type_=INSTANT), bindparam("finished", type_=INSTANT)
    # That of the reason for which it was stopped; else it was about a wait that is over.
    old_remedy = case((bindparam("old_state") != RunState.LAUNCHED.value, runs.c.remedy))
    remedy = func.coalesce(bindparam("own_remedy", type_=Text), old_remedy)
    values: dict[str, object] = {
        "state": RunState.FINISHED.value,
        "finished_at": func.coalesce(_bounded(database, finished), database.clock_expression()),
        "started_at": _bounded(database, started),
        "recorded_at": database.clock_expression(),
        "outcome": bindparam("new_outcome"),
        "reason": bindparam("new_reason"),
        "message": bindparam("new_message"),
        "result": bindparam("new_result", type_=runs.c.result.type),
        "remedy": func.coalesce(remedy, bindparam("usual_remedy", type_=Text)),
        **FINAL_COLUMNS,
        **ends,
    }
    is_as_read = runs.c.state == bindparam("old_state")
    where = (runs.c.id == bindparam("run_id"), runs.c.active == 1, is_as_read)
    return update(runs).where(*where).values(values)


def _record_values(action: Record) -> dict[str, object]:
    """Return the parameters of `_build_record`. None as an instant: not known."""
    seen, reason = action.observation, action.reason
    is_explained = action.outcome is Outcome.FAILED and reason is not None
    return {
        "run_id": action.run.run_id,
        "old_state": action.run.state.value,
        "started": _utc(seen.started_at) if seen and seen.started_at else None,
        "finished": _utc(seen.finished_at) if seen and seen.finished_at else None,
        "new_outcome": action.outcome.value,
        "new_reason": reason.value if reason else None,
        "new_message": redact(action.message, MESSAGE_LIMIT),
        "new_result": action.report.bounded().to_dict() if action.report else None,
        # A remedy that was recorded when the run was stopped is more specific than the reason's
        # own.
        "own_remedy": (redact(action.remedy, MESSAGE_LIMIT) or None) if is_explained else None,
        "usual_remedy": explain(reason).remedy if is_explained and reason else None,
        **final_values(action.report),
    }


def _move_all(
    connection: Connection,
    tables: Tables,
    ids: list[int],
    is_claimed: ColumnElement[bool],
    *,
    status: str | None,
    to: str,
) -> None:
    """Move these tasks as `compare_and_set` moves one. Raises _Overtaken if one is not as read."""
    unchanged = tables.status.is_(None) if status is None else tables.status == status
    these = tables.id.in_(ids)
    statement = update(tables.tasks).where(these, unchanged, is_claimed).values({tables.status: to})
    if connection.execute(statement).rowcount != len(ids):
        raise _Overtaken
    is_as_written = and_(tables.status == to, is_claimed)
    found = connection.execute(select(tables.id, is_as_written).where(these)).all()
    if len(found) != len(ids) or not all(is_right for _, is_right in found):
        raise _Overtaken


def finish(
    database: Database,
    tables: Tables,
    action: Finish,
    *,
    until: SetAside | None = None,
) -> Recorded:
    """Finish a run that has ended, and move its task in the same transaction.

    Raises RowRefused if the database refuses that again. Then repeat it with `until`.
    """

    def change(connection: Connection) -> Recorded:
        if until is not None:
            values = {**until.columns, "refusals": runs.c.refusals + 1}
            _update_run(connection, action.run, values)
            return Recorded.SET_ASIDE
        moved = action.task_to is not None and _move_task(
            connection, tables, action.run, action.task_to
        )
        values = {"state": RunState.FINISHED.value, "retry_at": None}
        _update_run(connection, action.run, values, runs.c.state == RunState.ENDED.value)
        return Recorded.MOVED if moved else Recorded.LEFT

    try:
        return database.run_in_transaction(change, of_one_row=True)
    except _Overtaken:
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
        raise _Overtaken


def _move_task(connection: Connection, tables: Tables, run: UnfinishedRun, to: TaskState) -> bool:
    """Move the task on from the status that the plan saw, and stop tracking it.

    Its content must be what was claimed.
    """
    is_claimed = tables.content_sha256() == run.content_sha256
    status = _final_status(tables, to)
    if not compare_and_set(connection, tables, run.task_id, run.task_status, status, is_claimed):
        return False
    connection.execute(delete(tracked_tasks).where(tracked_tasks.c.task_id == run.task_id))
    return True


def _final_status(tables: Tables, state: TaskState) -> str:
    statuses = tables.statuses
    return {TaskState.COMPLETED: statuses.completed, TaskState.FAILED: statuses.failed}[state]


def compare_and_set(
    connection: Connection,
    tables: Tables,
    task_id: int,
    status: str | None,
    to: str,
    *conditions: ColumnElement[bool],
) -> bool:
    """Write the task's status if it is still `status`, under these conditions. Return whether it
    was.

    This is the only statement that writes Node.js's table:
    `UPDATE ... SET status = to WHERE id = ? AND status = ?`. The row is read back, since a
    trigger may have replaced the status, or changed what the conditions are about, without an
    error. Raises RowRefused then.
    """
    unchanged = tables.status.is_(None) if status is None else tables.status == status
    statement = (
        update(tables.tasks)
        .where(tables.id == task_id, unchanged, *conditions)
        .values({tables.status: to})
    )
    if connection.dialect.name == "sqlite":
        # RAISE(IGNORE) skips the row, and an INSTEAD OF trigger of a view writes it uncounted.
        as_read = select(tables.id).where(tables.id == task_id, unchanged, *conditions)
        if connection.execute(as_read).first() is None:
            return False
        connection.execute(statement)
    elif connection.execute(statement).rowcount == 0:
        return False
    as_written = and_(tables.status == to, *conditions)
    has_other_status = tables.status.is_(None) | (tables.status != to)
    # None, if the row has left a view. Several, if no key keeps ids unique.
    found = connection.execute(
        select(tables.status, has_other_status, as_written).where(tables.id == task_id)
    ).all()
    if not found or any(is_as_written for *_, is_as_written in found):
        return True
    instead, is_other, _ = found[0]
    kept = "NULL" if instead is None else repr(redact(str(instead), 64))
    did = f"wrote {kept} in place of {to!r}" if is_other else f"changed more than {to!r}"
    what = "status" if is_other else "e-mail or the course URL"
    raise RowRefused(
        f"the database {did}: a trigger of the task table sets the {what}; let it accept what "
        "Enrollgate writes, or drop it"
    )
