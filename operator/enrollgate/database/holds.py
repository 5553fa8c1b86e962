"""Open holds: read, opened, changed and closed; and which tasks they hold.

Everything about a hold is in its row: so two operators decide the same, and so does one after a
restart. Every change is a compare-and-set.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    String,
    and_,
    case,
    cast,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)

from enrollgate.common.redaction import redact
from enrollgate.database.engine import Database
from enrollgate.database.tables import (
    MESSAGE_LIMIT,
    Tables,
    holds,
    runs,
    tracked_tasks,
)
from enrollgate.domain.hold import Ended, Hold, HoldKind, Scope
from enrollgate.domain.hosts import host_spellings
from enrollgate.domain.queue import LiveRuns, RunLimits
from enrollgate.domain.run import Outcome, RunState

# Tasks whose `hold_id` one pass changes, and runs that one look back reads.
MARK_LIMIT = 1000
LOOK_BACK = 100
# Who closes a hold that is over.
OPERATOR = "enrollgate"


@dataclass(frozen=True, slots=True)
class HoldsVersion:
    """Tells whether holds were opened or closed since it was read last."""

    count: int = 0
    last_id: int = 0

    @classmethod
    def columns(cls) -> tuple[ColumnElement[int], ColumnElement[int]]:
        """Build the expressions of both numbers, over the open holds."""
        return func.count(holds.c.id), func.coalesce(func.max(holds.c.id), 0)


def is_open_hold(installation: str) -> tuple[ColumnElement[bool], ...]:
    """Build the condition that a hold of this installation is open."""
    return (holds.c.active == 1, holds.c.installation == installation)


def load_holds(database: Database, installation: str) -> tuple[Hold, ...]:
    """Return the open holds and pauses, oldest first.

    Rows whose kind or scope only a newer version knows, or that a person has mistyped, are left
    out.
    """
    statement = (
        select(holds)
        .where(*is_open_hold(installation))
        .where(holds.c.kind.in_(list(HoldKind)), holds.c.scope.in_(list(Scope)))
        .order_by(holds.c.id)
    )
    with database.autocommit() as connection:
        return tuple(
            Hold(
                kind=HoldKind(row.kind),
                scope=Scope(row.scope),
                subject=row.subject,
                reason=row.reason,
                opened_at=row.opened_at,
                message=row.message or "",
                remedy=row.remedy or "",
                run_name=row.run_name,
                cookies_sha256=row.cookies_sha256,
                allowed=row.allowed,
                probes=row.probes,
                probe_at=row.probe_at,
                ends_at=row.ends_at,
                hold_id=row.id,
            )
            for row in connection.execute(statement)
        )


def insert_hold(database: Database, hold: Hold, installation: str) -> bool:
    """Open a hold. Return False if one of its scope is open already."""
    values = {
        "installation": installation,
        "kind": hold.kind.value,
        "scope": hold.scope.value,
        "subject": hold.subject,
        "reason": hold.reason,
        "message": redact(hold.message, MESSAGE_LIMIT),
        "remedy": redact(hold.remedy, MESSAGE_LIMIT),
        "opened_at": hold.opened_at,
        "opened_by": OPERATOR,
        "run_name": hold.run_name,
        "cookies_sha256": hold.cookies_sha256,
        "probe_at": hold.probe_at,
        "ends_at": hold.ends_at,
    }
    is_open = select(holds.c.id).where(
        holds.c.installation == installation,
        holds.c.kind == hold.kind.value,
        holds.c.scope == hold.scope.value,
        holds.c.subject == hold.subject,
        holds.c.active == 1,
    )
    columns = select(*(literal(value, holds.c[name].type) for name, value in values.items()))
    statement = insert(holds).from_select(list(values), columns.where(~exists(is_open)))
    return database.execute(statement) == 1


def update_hold(database: Database, before: Hold, after: Hold) -> bool:
    """Change what an open hold allows. Return False if somebody has changed it meanwhile."""
    statement = (
        update(holds)
        .where(*_unchanged(before))
        .values(allowed=after.allowed, probes=after.probes, probe_at=after.probe_at)
    )
    return database.execute(statement) == 1


def close_hold(database: Database, hold: Hold, now: datetime) -> bool:
    """Close a hold. Return False if somebody has changed it meanwhile."""
    values = {"closed_at": now, "closed_by": OPERATOR}
    return database.execute(update(holds).where(*_unchanged(hold)).values(values)) == 1


def _unchanged(hold: Hold) -> tuple[ColumnElement[bool], ...]:
    return (
        holds.c.id == hold.hold_id,
        holds.c.active == 1,
        holds.c.allowed == hold.allowed,
        holds.c.probes == hold.probes,
    )


def last_ended(database: Database, scope: Scope, subject: str, installation: str) -> list[Ended]:
    """Return how the last runs of a scope ended, the last one first."""
    # By the instant that an index serves.
    has_subject = scope in (Scope.ACCOUNT, Scope.HOST)
    ended_at = runs.c.recorded_at if has_subject else runs.c.finished_at
    statement = (
        select(runs.c.task_id, runs.c.outcome, runs.c.reason)
        .where(
            is_in_scope(scope, subject, runs.c.account, runs.c.course_host),
            runs.c.installation == installation,
            runs.c.state == RunState.FINISHED.value,
        )
        .order_by(ended_at.desc(), runs.c.id.desc())
        .limit(LOOK_BACK)
    )
    with database.autocommit() as connection:
        return [
            Ended(row.task_id, Outcome(row.outcome) if row.outcome else None, row.reason)
            for row in connection.execute(statement)
        ]


def read_live_runs(database: Database, limits: RunLimits, installation: str) -> LiveRuns:
    """Count the unfinished runs that these limits are about, by one statement."""
    live = (
        runs.c.active == 1,
        runs.c.installation == installation,
        runs.c.state != RunState.ENDED.value,
    )
    count = func.count().label("number")
    no_instant = null()
    last = select(func.coalesce(func.max(runs.c.id), 0)).scalar_subquery()
    parts: list[Select[*tuple[Any, ...]]] = [
        select(literal("now"), literal(""), last, database.clock_expression())
    ]
    for kind, column, limit in (
        ("account", runs.c.account, limits.per_account),
        ("host", runs.c.course_host, limits.per_host),
    ):
        if limit:
            by = func.coalesce(column, "")
            part: Select[*tuple[Any, ...]] = select(literal(kind), by, count, no_instant)
            parts.append(part.where(*live).group_by(by))
    for hold in limits.holds:
        since = runs.c.claimed_at > hold.opened_at
        hold_id = cast(literal(hold.hold_id), String(20))
        part = select(literal("hold"), hold_id, count, no_instant).select_from(runs)
        is_held = is_in_scope(hold.scope, hold.subject, runs.c.account, runs.c.course_host)
        parts.append(part.where(*live, since, is_held))
    accounts, hosts, of_holds = Counter[str](), Counter[str](), Counter[int]()
    with database.autocommit() as connection:
        (_, _, last_run_id, now), *rows = connection.execute(union_all(*parts)).all()
    for kind, subject, number, _ in rows:
        if kind == "hold":
            of_holds[int(subject)] = number
        else:
            {"account": accounts, "host": hosts}[kind][subject] = number
    return LiveRuns(now, int(last_run_id), accounts, hosts, of_holds)


def is_in_scope(
    scope: Scope, subject: str, account: ColumnElement[str], host: ColumnElement[str]
) -> ColumnElement[bool]:
    """Build the condition that a row or a run is in a scope, by its account and its course's host.

    As `Hold.covers`.
    """
    if scope is Scope.ACCOUNT:
        return account == subject
    return host.in_(host_spellings(subject)) if scope is Scope.HOST else true()


def is_task_held(tables: Tables, hold: Hold) -> ColumnElement[bool]:
    """Build the condition that a row is in the scope of a hold."""
    return is_in_scope(hold.scope, hold.subject, tables.account(), tables.course_host())


def mark_held(database: Database, tables: Tables, held: Collection[Hold]) -> int:
    """Write into the tracked tasks which hold each of them waits for. Return how many changed.

    At most MARK_LIMIT change. Tasks that are set aside, or have an unfinished run, wait for none.
    """
    has_run = exists().where(runs.c.task_id == tracked_tasks.c.task_id, runs.c.active == 1)
    cases = [
        (is_task_held(tables, hold), literal(hold.hold_id))
        for hold in sorted(held, key=lambda hold: list(Scope).index(hold.scope), reverse=True)
    ]
    is_queued = and_(tables.is_enrolled(), ~has_run, tracked_tasks.c.retry_at.is_(None))
    wanted = case((is_queued, case(*cases, else_=null())), else_=null()) if cases else null()
    differs = func.coalesce(tracked_tasks.c.hold_id, 0) != func.coalesce(wanted, 0)
    is_concerned: ColumnElement[bool] = tracked_tasks.c.hold_id.is_not(None)
    if held:
        is_concerned = or_(
            is_concerned, tracked_tasks.c.last_seen_status == tables.statuses.enrolled
        )
    statement = (
        select(tracked_tasks.c.task_id, wanted.label("wanted"))
        .select_from(tracked_tasks.outerjoin(tables.tasks, tables.id == tracked_tasks.c.task_id))
        .where(is_concerned, differs)
        .limit(MARK_LIMIT)
    )
    with database.autocommit() as connection:
        found = connection.execute(statement).all()
    by_hold = dict[int | None, list[int]]()
    for task_id, hold_id in found:
        by_hold.setdefault(hold_id, []).append(task_id)
    for hold_id, task_ids in by_hold.items():
        these = tracked_tasks.c.task_id.in_(task_ids)
        database.execute(update(tracked_tasks).where(these).values(hold_id=hold_id))
    return len(found)
