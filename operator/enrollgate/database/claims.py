"""Runs come into being: claimed for enrolled tasks, released, or recorded as never launched."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Insert,
    Integer,
    Join,
    Select,
    String,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    null,
    select,
    union_all,
    update,
)

from enrollgate.common.redaction import redact
from enrollgate.database.engine import Database
from enrollgate.database.errors import (
    DatabaseError,
    DatabaseMisconfigured,
    RowHeld,
    RowRefused,
)
from enrollgate.database.holds import HoldsVersion, is_open_hold, is_task_held
from enrollgate.database.runs import read_unfinished, select_unfinished, select_unfinished_count
from enrollgate.database.set_aside import SetAside, mark_enrolled_set_aside
from enrollgate.database.tables import (
    INSTANT,
    MESSAGE_LIMIT,
    Tables,
    is_not_set_aside,
    runs,
    tracked_tasks,
)
from enrollgate.domain.queue import Blocked, OpenTask
from enrollgate.domain.reasons import Reason, explain
from enrollgate.domain.run import Outcome, RunPlace, RunState, UnfinishedRun, run_name

NOTHING_BLOCKED = Blocked()
# Statements that are kept of each kind. Building one takes longer than the database needs for it.
_KEPT = 16
_last = runs.alias("last")
# Called with the id of a task that cannot be claimed, how often it was refused before, and the
# error. Returns whether to go on.
OnClaimRefused = Callable[[int, int, DatabaseError], bool]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the gate has found.

    `now` is the time by the database's clock, `cost` the seconds that the database took. `holds` is
    the version of the open holds.
    """

    now: datetime
    found: tuple[OpenTask, ...]
    cost: float
    holds: HoldsVersion


@dataclass(frozen=True, slots=True)
class Claim:
    """The runs of one claim: `count` of them, for some of these tasks."""

    claim_id: str
    task_ids: Collection[int] = ()
    count: int = 0


def is_any_free(database: Database, tables: Tables) -> tuple[bool, float]:
    """Return whether an enrolled task has no unfinished run, and the seconds that this took.

    That is a third of a look, and nearly always there is none. A task that is set aside or held
    counts, too. Raises as `look` does.
    """
    started = time.perf_counter()
    with database.autocommit() as connection:
        is_any, elapsed = connection.execute(_build_is_any_free(database, tables)).one()
    return bool(is_any), elapsed / 1e6 or time.perf_counter() - started


@lru_cache(maxsize=_KEPT)
def _build_is_any_free(database: Database, tables: Tables) -> Select[bool, int]:
    free = (
        select(literal(1))
        .select_from(_with_run(tables))
        .where(tables.is_enrolled(), runs.c.id.is_(None))
    )
    # Read from left to right: so the server's own time covers the search.
    return select(free.exists(), database.elapsed_expression())


def look(
    database: Database,
    tables: Tables,
    *,
    installation: str,
    limit: int,
    blocked: Blocked = NOTHING_BLOCKED,
) -> Look:
    """Find enrolled tasks without an unfinished run, lowest id first, `limit` of them at most.

    Those that are set aside or `blocked` are left out. With an index on the status, the statement
    reads no more rows than it finds, and those enrolled before them. Raises DatabaseUnavailable or
    DatabaseMisconfigured.
    """
    statement = _build_look(database, tables, installation, blocked)
    started = time.perf_counter()
    with database.autocommit() as connection:
        *rows, last = connection.execute(statement, {"most": limit}).all()
    seconds = time.perf_counter() - started
    return Look(
        now=last[3],
        # A view, or a table without a key, may have two rows with one id.
        found=tuple({row[1]: OpenTask(*row[1:]) for row in rows}.values()),
        cost=last[0] / 1e6 or seconds,
        holds=HoldsVersion(int(last[4]), int(last[6])),
    )


@lru_cache(maxsize=_KEPT)
def _build_look(
    database: Database, tables: Tables, installation: str, blocked: Blocked
) -> CompoundSelect[*tuple[Any, ...]]:
    """Build the statement of a look, for `most` tasks. It is kept: it is executed many times."""
    now = database.clock_expression()
    source, is_free = _free(tables, now, blocked, installation)
    found = (
        select(literal(0).label("elapsed"), *_open_task(tables))
        .select_from(source)
        .where(*is_free)
        .order_by(tables.id)
        .limit(bindparam("most", type_=Integer))
    )
    if database.is_sqlite:  # it knows no limit within a UNION
        found = select(found.subquery("found"))
    count, last_id = (
        select(each).where(*is_open_hold(installation)).scalar_subquery()
        for each in HoldsVersion.columns()
    )
    # Read last: so the server's own time covers the part before. No number stands below the ids:
    # MariaDB makes both a DECIMAL if the one is unsigned and the other is not.
    elapsed = database.elapsed_expression()
    end = select(elapsed, null(), null(), now, count, null(), cast(last_id, String(20)))
    return union_all(found, end)


def rank(
    database: Database,
    tables: Tables,
    *,
    installation: str,
    limit: int,
    blocked: Blocked = NOTHING_BLOCKED,
) -> list[OpenTask]:
    """Find what `look` finds, in the order in which to launch it, `limit` tasks at most.

    By priority; then the accounts take turns, those with fewer unfinished runs first; within an
    account, lowest id first. The statement reads all enrolled tasks.
    """
    source, is_free = _free(tables, database.clock_expression(), blocked, installation)
    first = _select_places(tables, source, is_free, installation).limit(limit).subquery("first")
    # The rest is read for these alone.
    statement = (
        select(*_open_task(tables))
        .select_from(_gate(tables).join(first, first.c.id == tables.id))
        .order_by(first.c.place)
    )
    with database.autocommit() as connection:
        rows = connection.execute(statement).all()
    return list({row[0]: OpenTask(*row) for row in rows}.values())


def find_place(
    connection: Connection, tables: Tables, task_id: int, *, now: datetime, installation: str
) -> int | None:
    """Return the place of a task in the order of `rank`, from 1 on; None if it is not queued.

    The other tasks that wait for a hold are left out. The statement reads all enrolled tasks.
    """
    source, is_free = _free(tables, literal(now, INSTANT), NOTHING_BLOCKED, installation)
    is_free.append(tracked_tasks.c.hold_id.is_(None) | (tables.id == task_id))
    places = _select_places(tables, source, is_free, installation).subquery("places")
    return connection.execute(select(places.c.place).where(places.c.id == task_id)).scalar()


def _select_places(
    tables: Tables, source: Join, is_free: list[ColumnElement[bool]], installation: str
) -> Select[tuple[int, int]]:
    """Build the statement that gives each free task its place in the order of launches."""
    priority = tables.priority()
    # A NULL is the lowest value, so it comes last.
    by_priority = [] if priority is None else [priority.desc()]
    priorities = [] if priority is None else [priority.label("priority")]
    account = tables.account_name()
    turn = func.row_number().over(partition_by=account, order_by=[*by_priority, tables.id])
    queued = (
        select(tables.id.label("id"), account.label("account"), turn.label("turn"), *priorities)
        .select_from(source)
        .where(*is_free)
        .subquery("queued")
    )
    running = runs.alias("running")
    live = (
        select(account.label("account"), func.count().label("runs"))
        .join_from(running, tables.tasks, tables.id == running.c.task_id)
        .where(running.c.active == 1, running.c.installation == installation)
        .group_by(account)
        .subquery("live")
    )
    order = [queued.c.turn + func.coalesce(live.c.runs, 0), queued.c.id]
    if priority is not None:
        order.insert(0, queued.c.priority.desc())
    return (
        select(queued.c.id, func.row_number().over(order_by=order).label("place"))
        .select_from(queued.outerjoin(live, live.c.account == queued.c.account))
        .order_by(*order)
    )


_OPEN_TASK = ("id", "was", "since", "refusals", "account", "host")


def _open_task(tables: Tables) -> list[ColumnElement[Any]]:
    """Build the columns of an OpenTask."""
    values = (
        tables.id,
        tracked_tasks.c.last_seen_status,
        tracked_tasks.c.first_seen_at,
        func.coalesce(tracked_tasks.c.refusals, 0),
        tables.account(),
        tables.course_host(),
    )
    return [value.label(name) for name, value in zip(_OPEN_TASK, values, strict=True)]


def _with_run(tables: Tables) -> Join:
    """Join the task table with each task's unfinished run."""
    is_live = (runs.c.task_id == tables.id) & (runs.c.active == 1)
    return tables.tasks.outerjoin(runs, is_live)


def _gate(tables: Tables) -> Join:
    """Join the task table with each task's unfinished run, and with what is known of the task.

    In this order: what is known is read only of those without a run.
    """
    is_known = tracked_tasks.c.task_id == tables.id
    return _with_run(tables).outerjoin(tracked_tasks, is_known)


def _free(
    tables: Tables, now: ColumnElement[datetime], blocked: Blocked, installation: str
) -> tuple[Join, list[ColumnElement[bool]]]:
    """Build the join and the conditions of the rows that may be claimed now."""
    source = _gate(tables)
    conditions = [tables.is_enrolled(), runs.c.id.is_(None), is_not_set_aside(now)]
    conditions += [~is_task_held(tables, hold) for hold in blocked.holds]
    for expression, column, limit in (
        (tables.account(), runs.c.account, blocked.per_account),
        (tables.course_host(), runs.c.course_host, blocked.per_host),
    ):
        if not limit:
            continue
        live = runs.alias(f"live_{column.name}")
        subject = live.c[column.name]
        # Joined, since MariaDB would execute an `IN` with a HAVING once for each row.
        full = (
            select(subject.label("subject"))
            .where(live.c.active == 1, live.c.installation == installation)
            .where(live.c.state != RunState.ENDED.value, subject.is_not(None))
            .group_by(subject)
            .having(func.count() >= limit)
            .subquery(f"full_{column.name}")
        )
        source = source.outerjoin(full, full.c.subject == expression)
        conditions.append(full.c.subject.is_(None))
    return source, conditions


def claim(
    database: Database,
    tables: Tables,
    found: Sequence[OpenTask],
    *,
    claim_id: str,
    installation: str,
    place: RunPlace,
    limit: int,
    unfinished: int,
    last_run_id: int | None = None,
    clock_steps: int = 0,
    on_refusal: OnClaimRefused = lambda *_: True,
) -> Claim:
    """Claim runs for those of these tasks that are still enrolled, lowest id first, for this place.

    Those that are set aside or have an unfinished run are left out. The rows are claimed with their
    content, so that a later change is noticed. `claim_id` is unique to this call.
    `limit` is how many unfinished runs the installation may have, `unfinished` how many are
    counted. The tasks are tracked as enrolled, after `clock_steps` steps of the clock. With
    `last_run_id`, nothing is claimed if a newer run exists: it may have used up a limit.

    Two operators keep to the limit together: see `next_id`. If the statement is refused, each task
    is claimed alone; `on_refusal` hears of those that cannot be.
    """
    statement = _build_claim(database, tables, installation, last_run_id is not None)
    new = {f"new_{name}": value for name, value in asdict(place).items()}
    new["new_claim_id"] = claim_id

    def insert_runs(connection: Connection, chosen: Sequence[OpenTask], claimed: int) -> int:
        counted = unfinished + claimed
        for _ in range(2):
            counts = {"most": limit - counted, "unfinished": counted}
            if last_run_id is not None:
                counts["last_run_id"] = last_run_id + claimed
            ids = {"task_ids": [task.task_id for task in chosen]}
            if inserted := connection.execute(statement, new | counts | ids).rowcount:
                _track_claimed(connection, tables, chosen, claim_id, clock_steps)
                return inserted
            count = select_unfinished_count(installation, database.clock_expression())
            recounted = connection.execute(count).scalar_one()
            if last_run_id is not None or not counted < recounted < limit:
                break
            counted = recounted  # another operator has claimed meanwhile, and left slots free
        return 0

    task_ids = tuple(task.task_id for task in found)
    try:
        count = database.run_in_transaction(partial(insert_runs, chosen=found, claimed=0))
        return Claim(claim_id, task_ids, count)
    except (RowHeld, RowRefused, DatabaseMisconfigured):
        claimed = 0
    for task in found:
        try:
            alone = partial(insert_runs, chosen=[task], claimed=claimed)
            claimed += database.run_in_transaction(alone, of_one_row=True)
        except (RowHeld, RowRefused) as error:
            if not on_refusal(task.task_id, task.refusals, error):
                break
    return Claim(claim_id, task_ids, claimed)


def read_claim(database: Database, tables: Tables, claimed: Claim) -> list[UnfinishedRun]:
    """Return the runs of a claim with their tasks as they are now.

    Read just before they are launched: so this is the last check that their tasks are enrolled,
    with the same content. What another operator has launched meanwhile is left out.
    """
    if not claimed.count:
        return []
    values = {"task_ids": list(claimed.task_ids), "its_claim_id": claimed.claim_id}
    with database.autocommit() as connection:
        return read_unfinished(connection, tables, _select_claimed(tables), values)


@lru_cache(maxsize=_KEPT)
def _select_claimed(tables: Tables) -> Select[*tuple[Any, ...]]:
    """Build the query for the runs of one claim. It is kept."""
    return select_unfinished(
        tables,
        runs.c.task_id.in_(bindparam("task_ids", expanding=True)),
        runs.c.claim_id == bindparam("its_claim_id"),
        runs.c.state == RunState.CLAIMED.value,
        runs.c.active == 1,
    )


def _track_claimed(
    connection: Connection,
    tables: Tables,
    found: Sequence[OpenTask],
    claim_id: str,
    clock_steps: int,
) -> None:
    """Track the tasks of these new runs as enrolled, with the instants of their runs."""
    mine = runs.c.task_id.in_([task.task_id for task in found]) & (runs.c.claim_id == claim_id)
    if any(task.was is None for task in found):
        new = (
            select(
                runs.c.task_id,
                runs.c.first_seen_at,
                literal(tables.statuses.enrolled),
                runs.c.enrolled_seen_at,
                literal(clock_steps),
            )
            .select_from(runs.outerjoin(tracked_tasks, tracked_tasks.c.task_id == runs.c.task_id))
            .where(mine, tracked_tasks.c.task_id.is_(None))
        )
        columns = (
            "task_id",
            "first_seen_at",
            "last_seen_status",
            "enrolled_seen_at",
            "clock_steps",
        )
        connection.execute(insert(tracked_tasks).from_select(columns, new))
    enrolled = tables.statuses.enrolled
    if changed := [task.task_id for task in found if task.was not in (None, enrolled)]:
        since = select(runs.c.enrolled_seen_at).where(
            mine, runs.c.task_id == tracked_tasks.c.task_id
        )
        connection.execute(
            update(tracked_tasks)
            .where(
                tracked_tasks.c.task_id.in_(changed),
                tracked_tasks.c.last_seen_status != enrolled,
                since.exists(),
            )
            .values(
                last_seen_status=enrolled,
                enrolled_seen_at=since.scalar_subquery(),
                refusals=0,
                refusal=None,
                retry_at=None,
            )
        )


def next_id() -> ColumnElement[int]:
    """Build the expression of the id that follows the last run's. Every new run takes its id so.

    This is how inserting transactions run as if one after the other, without a lock of their own.
    Of two that do not see each other's runs, both begin with the same id. The second one waits for
    the first, is refused (a duplicate key), and `run_in_transaction` tries it again: then it counts
    the first one's runs. An id by AUTO_INCREMENT would let both commit, above the limit.
    """
    return select(func.coalesce(func.max(_last.c.id), 0) + 1).scalar_subquery()


def _select_claimable(tables: Tables, now: ColumnElement[datetime]) -> Select[*tuple[Any, ...]]:
    """Build the query for those of `task_ids` that can be claimed, lowest id first."""
    is_chosen = tables.id.in_(bindparam("task_ids", expanding=True))
    previous = (
        select(func.max(runs.c.run_number)).where(runs.c.task_id == tables.id).scalar_subquery()
    )
    has_run = select(runs.c.id).where(runs.c.task_id == tables.id, runs.c.active == 1).exists()
    return (
        select(
            tables.id.label("task_id"),
            (func.coalesce(previous, 0) + 1).label("run_number"),
            tables.content_sha256().label("content_sha256"),
            tables.account().label("account"),
            tables.course_host().label("course_host"),
            # A look claims tasks that no full pass has seen yet.
            func.coalesce(tracked_tasks.c.first_seen_at, now).label("first_seen_at"),
            func.coalesce(tracked_tasks.c.enrolled_seen_at, now).label("enrolled_seen_at"),
        )
        .select_from(tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id))
        .where(is_chosen, tables.is_enrolled(), ~has_run, is_not_set_aside(now))
        .group_by(tables.id)  # where no key keeps ids unique, one row of several
        .order_by(tables.id)
    )


@lru_cache(maxsize=_KEPT)
def _build_claim(database: Database, tables: Tables, installation: str, is_limited: bool) -> Insert:
    """Build the statement that claims up to `most` runs of the tasks `task_ids`. It is kept.

    It claims none if more than `unfinished` runs are unfinished, or, with `is_limited`, if one is
    newer than `last_run_id`. The claim's id and the fields of the place are parameters, too: their
    names begin with `new_`.
    """
    now = database.clock_expression()
    unfinished = select_unfinished_count(installation, now).scalar_subquery()
    is_as_counted = unfinished <= bindparam("unfinished", type_=Integer)
    if is_limited:
        newest = select(func.coalesce(func.max(_last.c.id), 0)).scalar_subquery()
        is_as_counted &= newest <= bindparam("last_run_id", type_=BigInteger)
    claimable = _select_claimable(tables, now).where(is_as_counted)
    chosen = claimable.limit(bindparam("most", type_=Integer)).subquery("chosen")
    task_id, run_number = cast(chosen.c.task_id, String(20)), cast(chosen.c.run_number, String(20))
    values: dict[str, ColumnElement[Any]] = {
        "id": next_id() + func.row_number().over(order_by=chosen.c.task_id) - 1,
        "task_id": chosen.c.task_id,
        "run_number": chosen.c.run_number,
        # As `run_name` builds it.
        "name": literal(f"{installation}-") + task_id + literal("-") + run_number,
        "installation": literal(installation),
        "claim_id": bindparam("new_claim_id", type_=String),
        "content_sha256": chosen.c.content_sha256,
        "account": chosen.c.account,
        "course_host": chosen.c.course_host,
        **{each.name: bindparam(f"new_{each.name}", type_=String) for each in fields(RunPlace)},
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
