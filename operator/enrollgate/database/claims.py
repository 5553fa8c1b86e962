"""Runs come into being: claimed for enrolled tasks, released, or recorded as never launched."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Select,
    String,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
)

from enrollgate.common.redaction import redact
from enrollgate.database.engine import Database
from enrollgate.database.errors import (
    DatabaseError,
    DatabaseMisconfigured,
    RowHeld,
    RowRefused,
)
from enrollgate.database.runs import read_unfinished, select_unfinished_count
from enrollgate.database.set_aside import SetAside, mark_enrolled_set_aside
from enrollgate.database.tables import (
    MESSAGE_LIMIT,
    Tables,
    is_not_set_aside,
    runs,
    tracked_tasks,
)
from enrollgate.domain.reasons import Reason, explain
from enrollgate.domain.run import Outcome, RunPlace, RunState, UnfinishedRun, run_name

_last = runs.alias("last")
# Called with the id of a task that cannot be claimed, how often it was refused before, and the
# error. Returns whether to go on.
OnClaimRefused = Callable[[int, int, DatabaseError], bool]


def claim(
    database: Database,
    tables: Tables,
    *,
    claim_id: str,
    installation: str,
    place: RunPlace,
    limit: int,
    unfinished: int,
    on_refusal: OnClaimRefused = lambda *_: True,
) -> list[UnfinishedRun]:
    """Claim runs for enrolled tasks that have no unfinished run, lowest id first, for this place.

    Those that are set aside are left out. Return exactly the runs that this call has claimed.

    The rows are claimed with their content, so that a later change is noticed. `claim_id` is unique
    to this call. `limit` is how many unfinished runs the installation may have, `unfinished` how
    many the caller has counted.

    Two operators that claim at the same time keep to the limit together: see `next_id`. Also,
    unique keys allow no task to be claimed twice.

    If the statement is refused, each task is claimed alone, and `on_refusal` is called for those
    that cannot be.
    """
    now = database.clock_expression()

    def change(
        connection: Connection, *, claimed: int = 0, only: int | None = None
    ) -> list[UnfinishedRun]:
        counted = unfinished + claimed
        for _ in range(2):
            inserted = connection.execute(
                _build_claim(
                    tables,
                    now,
                    claim_id=claim_id,
                    installation=installation,
                    place=place,
                    slots=limit - counted,
                    unfinished=counted,
                    only=only,
                )
            )
            if inserted.rowcount:
                # `_build_claim` inserts them in the order of their ids, and nobody else can insert
                # after them before this transaction ends: see `next_id`. The id that the server
                # reports is another one if the table has a trigger, for example of an audit.
                last = select(func.max(_last.c.id)).scalar_subquery()
                mine = (runs.c.id > last - inserted.rowcount) & (runs.c.claim_id == claim_id)
                return read_unfinished(connection, tables, mine)
            recounted = connection.execute(select_unfinished_count(installation, now)).scalar_one()
            if not counted < recounted < limit:
                break
            counted = recounted  # another operator has claimed meanwhile, and left slots free
        return []

    try:
        return database.run_in_transaction(change)
    except (RowHeld, RowRefused, DatabaseMisconfigured):
        with database.read_transaction() as connection:
            chosen = _select_claimable(tables, now).limit(limit - unfinished)
            candidates = connection.execute(chosen).all()
    claimed = list[UnfinishedRun]()
    for task_id, refusals in candidates:
        try:
            alone = partial(change, claimed=len(claimed), only=task_id)
            claimed += database.run_in_transaction(alone, of_one_row=True)
        except (RowHeld, RowRefused) as error:
            if not on_refusal(task_id, refusals, error):
                break
    return claimed


def _select_claimable(tables: Tables, now: ColumnElement[datetime]) -> Select[Any]:
    """Build the statement of the enrolled tasks without a run, with their refusals, lowest first.

    Those that are set aside are left out.
    """
    has_run = select(runs.c.id).where(runs.c.task_id == tables.id, runs.c.active == 1).exists()
    return (
        select(tables.id, func.coalesce(func.max(tracked_tasks.c.refusals), 0))
        .select_from(tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id))
        .where(tables.is_enrolled(), ~has_run, is_not_set_aside(now))
        .group_by(tables.id)  # where no key keeps ids unique, one row of several
        .order_by(tables.id)
    )


def next_id() -> ColumnElement[int]:
    """Build the expression of the id that follows the last run's. Every new run takes its id so.

    This is how inserting transactions run as if one after the other, without a lock of their own.
    Of two that do not see each other's runs, both begin with the same id. The second one waits for
    the first, is refused (a duplicate key), and `run_in_transaction` tries it again: then it counts
    the first one's runs. An id by AUTO_INCREMENT would let both commit, above the limit.
    """
    return select(func.coalesce(func.max(_last.c.id), 0) + 1).scalar_subquery()


def _build_claim(
    tables: Tables,
    now: ColumnElement[datetime],
    *,
    claim_id: str,
    installation: str,
    place: RunPlace,
    slots: int,
    unfinished: int,
    only: int | None,
) -> Insert:
    """Build the statement that claims up to `slots` runs; with `only`, of that task alone.

    It claims none if more than `unfinished` runs are unfinished.
    """
    previous = (
        select(func.max(runs.c.run_number)).where(runs.c.task_id == tables.id).scalar_subquery()
    )
    is_as_counted = select_unfinished_count(installation, now).scalar_subquery() <= unfinished
    chosen_tasks = _select_claimable(tables, now).where(is_as_counted)
    if only is not None:
        chosen_tasks = chosen_tasks.where(tables.id == only)
    chosen = (
        chosen_tasks.with_only_columns(
            tables.id.label("task_id"),
            (func.coalesce(previous, 0) + 1).label("run_number"),
            tables.content_sha256().label("content_sha256"),
            # A focused pass claims tasks that no full pass has seen yet.
            func.coalesce(tracked_tasks.c.first_seen_at, now).label("first_seen_at"),
            func.coalesce(tracked_tasks.c.enrolled_seen_at, now).label("enrolled_seen_at"),
        )
        .limit(slots)
        .subquery("chosen")
    )
    task_id, run_number = cast(chosen.c.task_id, String(20)), cast(chosen.c.run_number, String(20))
    position = func.row_number().over(order_by=chosen.c.task_id)
    values: dict[str, ColumnElement[Any]] = {
        "id": next_id() + position - 1,
        "task_id": chosen.c.task_id,
        "run_number": chosen.c.run_number,
        # As `run_name` builds it.
        "name": literal(f"{installation}-") + task_id + literal("-") + run_number,
        "installation": literal(installation),
        "claim_id": literal(claim_id),
        "content_sha256": chosen.c.content_sha256,
        **{name: literal(value) for name, value in asdict(place).items()},
        "state": literal(RunState.CLAIMED.value),
        "first_seen_at": chosen.c.first_seen_at,
        "enrolled_seen_at": chosen.c.enrolled_seen_at,
        "claimed_at": now,
    }
    rows = select(*values.values()).order_by(chosen.c.task_id)
    return insert(runs).from_select(list(values), rows)


def release(
    database: Database, tables: Tables, run: UnfinishedRun, now: datetime, until: SetAside
) -> bool:
    """Give up a claimed run that was not launched, and set its task aside.

    The run's row is deleted, so that the next claim gets the same name. If the launcher has created
    the run after all, or another operator does at this moment, that one adopts it.

    Return False, with nothing written, if another operator has changed the run meanwhile.
    """

    def change(connection: Connection) -> bool:
        claimed = (runs.c.id == run.run_id, runs.c.state == RunState.CLAIMED.value)
        if connection.execute(delete(runs).where(*claimed)).rowcount != 1:
            return False
        mark_enrolled_set_aside(connection, tables, run.task_id, now, until)
        return True

    return database.run_in_transaction(change, of_one_row=True)


def insert_refusal(
    connection: Connection,
    task_id: int,
    reason: Reason,
    message: str,
    *,
    since: datetime,
    now: datetime,
    installation: str,
) -> None:
    """Record why a task failed at the gate: a finished run that was never launched.

    `since` is when the task was first seen.
    """
    last: int | None = connection.execute(
        select(func.max(runs.c.run_number)).where(runs.c.task_id == task_id)
    ).scalar()
    run_number = (last or 0) + 1
    connection.execute(
        insert(runs).values(
            id=next_id(),
            task_id=task_id,
            run_number=run_number,
            name=run_name(installation, task_id, run_number),
            installation=installation,
            state=RunState.FINISHED.value,
            first_seen_at=since,
            claimed_at=now,
            finished_at=now,
            recorded_at=now,
            outcome=Outcome.FAILED.value,
            reason=reason.value,
            message=redact(message, MESSAGE_LIMIT),
            remedy=explain(reason).remedy,
        )
    )
