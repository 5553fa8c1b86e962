"""The view `enrollgate_task_status`: one row for each known task, for Node.js and for people.

It is created under the names of this deployment, so it is not part of the migration. Its
definition is a plain join, which MySQL and MariaDB merge into the query that reads it. So a query
for one id reads a few rows by their keys, however many tasks there are. docs/node.md describes the
columns.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    case,
    cast,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    text,
    update,
)

from enrollgate.database.engine import Database
from enrollgate.database.errors import DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.database.tables import (
    INSTANT,
    KEY,
    PROGRESS,
    STATUS_LENGTH,
    TASK_ID,
    Tables,
    holds,
    operators,
    runs,
    tracked_tasks,
)
from enrollgate.domain.hold import HoldKind
from enrollgate.domain.reasons import ABOUT_COOKIES
from enrollgate.domain.run import Outcome, RunState

VIEW = "enrollgate_task_status"
# While this many tasks are enrolled, or more, none has a position: to count them would be slow.
POSITION_LIMIT = 10_000
# What to do about a pause.
_PAUSE_REMEDY = "Nothing: it goes on when the pause ends, or when a person ends it."
# What is added to the remedy of a hold about cookies.
_NEW_COOKIES = " A new cookies file closes the hold, if the operator can read it."

# The view as the queries for people read it.
task_status = Table(
    VIEW,
    MetaData(),
    Column("task_id", TASK_ID, primary_key=True),
    Column("state", String(16)),
    Column("status", String(STATUS_LENGTH)),
    Column("since", INSTANT),
    Column("seconds_left", Integer),
    Column("queue_position", Integer),
    Column("run_number", Integer),
    Column("run_name", String(63)),
    *(Column(name, kind) for name, kind in PROGRESS.items()),
    Column("reason", String(64)),
    Column("message", Text),
    Column("remedy", Text),
    Column("first_seen_at", INSTANT),
    Column("enrolled_seen_at", INSTANT),
    Column("claimed_at", INSTANT),
    Column("launched_at", INSTANT),
    Column("started_at", INSTANT),
    Column("finished_at", INSTANT),
    Column("recorded_at", INSTANT),
    Column("progress_at", INSTANT),
    Column("hold_id", KEY),
    Column("hold_scope", String(16)),
    Column("hold_probe_at", INSTANT),
    Column("hold_ends_at", INSTANT),
)


@dataclass(frozen=True, slots=True)
class ViewProblem:
    """Why the view is not there, or not up to date, and what to do about it."""

    problem: str
    remedy: str


def ensure_view(database: Database, tables: Tables, installation: str) -> ViewProblem | None:
    """Create the view, or replace one of another definition. Return why that is impossible.

    The operator works without the view, so a missing privilege is no error.
    """
    problem = find_view_problem(database, tables, installation)
    if problem is None:
        return None
    definition = build_definition(database, tables, installation)
    mine = operators.c.installation == installation
    row = {"installation": installation, "task_view": _digest(definition)}

    def replace(connection: Connection) -> None:
        # A server commits each DDL statement. To repeat this after a crash does no harm.
        if database.is_sqlite:
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS {VIEW}")
        connection.exec_driver_sql(definition)
        if connection.execute(select(operators.c.installation).where(mine)).first() is None:
            connection.execute(insert(operators).values(row))
        else:
            connection.execute(update(operators).where(mine).values(row))

    try:
        database.run_in_transaction(replace)
    # Whatever the server has against this statement: the tables were usable a moment ago.
    except (DatabaseMisconfigured, DatabaseUnavailable) as error:
        return ViewProblem(f"{problem.problem}, and to create it: {error.problem}", problem.remedy)
    return None


def find_view_problem(database: Database, tables: Tables, installation: str) -> ViewProblem | None:
    """Return why the view cannot be read, or does not fit the settings; None if all is well.

    Raises DatabaseUnavailable.
    """
    names = tables.columns
    columns = f"{names.id}, {names.status}, {names.email}"
    remedy = (
        f"grant the user SELECT, CREATE, CREATE VIEW, DROP on {VIEW} and SELECT ({columns}) on "
        f"{names.table} (docs/operations.md has all GRANTs), then run `enrollgate migrate`"
    )
    if database.is_sqlite:
        remedy = "run `enrollgate migrate`"
    wanted = _digest(build_definition(database, tables, installation))
    recorded = select(operators.c.task_view).where(operators.c.installation == installation)
    try:
        with database.read_transaction() as connection:
            connection.execute(select(task_status).where(task_status.c.task_id == 0))
            if connection.scalar(recorded) != wanted:
                return ViewProblem(f"{VIEW} was made for other settings or another version", remedy)
    except DatabaseMisconfigured as error:
        return ViewProblem(f"{VIEW} cannot be read: {error.problem}", remedy)
    return None


def build_definition(database: Database, tables: Tables, installation: str) -> str:
    """Build the statement that creates the view. Its reader needs no right on our tables."""
    compiled = _build_view(tables, installation, is_sqlite=database.is_sqlite).compile(
        dialect=database.engine.dialect, compile_kwargs={"literal_binds": True}
    )
    create = "CREATE VIEW" if database.is_sqlite else "CREATE OR REPLACE ALGORITHM=MERGE VIEW"
    return f"{create} {VIEW} AS {compiled}"


def _digest(definition: str) -> str:
    return hashlib.sha256(definition.encode()).hexdigest()


def _build_view(tables: Tables, installation: str, *, is_sqlite: bool) -> Select[Any]:
    """Build the query behind the view.

    A run of an earlier round is not shown once its task is open again. `state` follows from the run
    while there is one, then from the status; that of a finished task may have got another meaning
    for Node.js, so the last run's outcome counts then.
    """
    run, later, tracked = runs.alias("run"), runs.alias("later"), tracked_tasks
    hold = holds.alias("hold")
    status, statuses = tables.status, tables.statuses
    is_of_this_round = or_(run.c.active == 1, status.not_in(statuses.open), status.is_(None))
    source = (
        tables.tasks.outerjoin(tracked, tracked.c.task_id == tables.id)
        .outerjoin(run, (run.c.task_id == tables.id) & is_of_this_round)
        .outerjoin(
            later, (later.c.task_id == run.c.task_id) & (later.c.run_number > run.c.run_number)
        )
        .outerjoin(operators, operators.c.installation == installation)
        .outerjoin(hold, (hold.c.id == tracked.c.hold_id) & (hold.c.active == 1))
    )
    is_known = or_(
        status.in_(statuses.known), tracked.c.task_id.is_not(None), run.c.id.is_not(None)
    )
    computed: dict[str, ColumnElement[Any]] = {
        "task_id": tables.id,
        "status": status,
        **_waits(tables, run, hold, is_sqlite=is_sqlite),
        **_states(tables, run, hold),
    }
    names = [column.name for column in task_status.c]
    columns = (computed[name] if name in computed else run.c[name] for name in names)
    return (
        select(*(column.label(name) for column, name in zip(columns, names, strict=True)))
        .select_from(source)
        .where(tables.has_key(), later.c.id.is_(None), is_known)
    )


def _states(tables: Tables, run: FromClause, hold: FromClause) -> dict[str, ColumnElement[Any]]:
    """Build the columns that follow from the run, the status, the tracked task and its hold."""
    tracked, status, statuses = tracked_tasks, tables.status, tables.statuses
    is_active, is_set_aside = run.c.active == 1, tracked.c.retry_at.is_not(None)
    is_waiting = status.in_(statuses.waiting) | tracked.c.task_id.is_not(None)
    is_on_hold = _is_on_hold(tables, run, hold)
    launched = func.coalesce(run.c.launched_at, run.c.claimed_at)
    # The first one that applies.
    states: list[tuple[ColumnElement[bool], str, ColumnElement[Any]]] = [
        (is_active & (run.c.state == RunState.ENDED.value), "held", run.c.recorded_at),
        (is_active & (run.c.state == RunState.CLAIMED.value), "queued", run.c.enrolled_seen_at),
        (is_active, "running", launched),
        (status == statuses.completed, "completed", run.c.recorded_at),
        (status == statuses.failed, "failed", run.c.recorded_at),
        (is_set_aside, "held", tracked.c.first_seen_at),
        (is_on_hold, "held", hold.c.opened_at),
        (status == statuses.enrolled, "queued", tracked.c.enrolled_seen_at),
        (is_waiting, "waiting", tracked.c.first_seen_at),
        (run.c.outcome == Outcome.SUCCEEDED.value, "completed", run.c.recorded_at),
    ]
    refusal = func.coalesce(run.c.refusal, tracked.c.refusal)
    is_held = is_set_aside | run.c.retry_at.is_not(None)
    return {
        "state": case(*((when, literal(name)) for when, name, _ in states), else_="failed"),
        "since": case(*((when, since) for when, _, since in states), else_=run.c.recorded_at),
        "run_name": run.c.name,
        "percent": case((status == statuses.completed, 100), else_=run.c.percent),
        "bytes_per_second": case((is_active, run.c.bytes_per_second)),
        "current_item": case((is_active, run.c.current_item)),
        "reason": case((is_on_hold, hold.c.reason), else_=run.c.reason),
        "message": case((is_held, refusal), (is_on_hold, hold.c.message), else_=run.c.message),
        "remedy": case(
            (is_on_hold & (hold.c.kind == HoldKind.PAUSE.value), literal(_PAUSE_REMEDY)),
            (is_on_hold & hold.c.reason.in_(sorted(ABOUT_COOKIES)), hold.c.remedy + _NEW_COOKIES),
            (is_on_hold, hold.c.remedy),
            else_=run.c.remedy,
        ),
        "hold_id": case((is_on_hold, hold.c.id)),
        "hold_scope": case((is_on_hold, hold.c.scope)),
        "hold_probe_at": case((is_on_hold, hold.c.probe_at)),
        "hold_ends_at": case((is_on_hold, hold.c.ends_at)),
    }


def _is_on_hold(tables: Tables, run: FromClause, hold: FromClause) -> ColumnElement[bool]:
    """Build the condition: the task waits for a slot, and an open hold keeps it from one."""
    tracked, is_enrolled = tracked_tasks, tables.status == tables.statuses.enrolled
    return hold.c.id.is_not(None) & is_enrolled & run.c.id.is_(None) & tracked.c.retry_at.is_(None)


def _waits(
    tables: Tables, run: FromClause, hold: FromClause, *, is_sqlite: bool
) -> dict[str, ColumnElement[Any]]:
    """Build the columns about the gate: how long a task may wait, and its place in the queue."""
    tracked, status, statuses = tracked_tasks, tables.status, tables.statuses
    is_at_gate = run.c.id.is_(None) & tracked.c.retry_at.is_(None)
    left = operators.c.enrollment_timeout - _seconds_since(tracked.c.first_seen_at, is_sqlite)
    seconds_left = case((left > 0, cast(left, Integer)), (left <= 0, 0))
    is_queued = is_at_gate & hold.c.id.is_(None) & (status == statuses.enrolled)
    return {
        "seconds_left": case((is_at_gate & status.in_(statuses.waiting), seconds_left)),
        "queue_position": case((is_queued, _queue_position(tables))),
        "first_seen_at": func.coalesce(run.c.first_seen_at, tracked.c.first_seen_at),
        "enrolled_seen_at": func.coalesce(run.c.enrolled_seen_at, tracked.c.enrolled_seen_at),
    }


def _seconds_since(instant: ColumnElement[Any], is_sqlite: bool) -> ColumnElement[Any]:
    """Build the seconds from an instant to now, by the server's clock."""
    if is_sqlite:
        return (func.julianday("now") - func.julianday(instant)) * 86_400
    now = func.utc_timestamp(text("6"))
    return func.timestampdiff(text("MICROSECOND"), instant, now) / 1_000_000


def _queue_position(tables: Tables) -> ColumnElement[Any]:
    """Build the place in the queue, from 1 on, while it follows from the ids; else NULL.

    It does as long as all queued tasks are of one account, and no column gives priorities: accounts
    take turns. The order of several takes a sort of the whole queue, for each row of the view
    (`claims.find_place`). NULL also while POSITION_LIMIT tasks are enrolled.
    """
    if tables.priority() is not None:
        return null()
    other, row, live = (
        tracked_tasks.alias("other"),
        tables.tasks.alias("other_row"),
        runs.alias("live"),
    )
    is_queued = (
        other.c.last_seen_status == tables.statuses.enrolled,
        other.c.retry_at.is_(None),
        other.c.hold_id.is_(None),
        ~exists().where(live.c.task_id == other.c.task_id, live.c.active == 1).correlate(other),
    )
    too_many = select(other.c.task_id).where(is_queued[0]).limit(1).offset(POSITION_LIMIT - 1)
    theirs, mine = (
        func.coalesce(func.lower(func.trim(each.c[tables.columns.email])), "")
        for each in (row, tables.tasks)
    )
    of_others = (
        select(other.c.task_id)
        .select_from(other.join(row, row.c[tables.columns.id] == other.c.task_id))
        .where(*is_queued, theirs != mine)
        .correlate(tables.tasks)
        .limit(1)
    )
    count = select(func.count() + 1).where(*is_queued, other.c.task_id < tables.id)
    by_id = case(
        (of_others.scalar_subquery().is_(None), count.correlate(tables.tasks).scalar_subquery())
    )
    return case((too_many.scalar_subquery().is_(None), by_id))
