"""Everything that the database knows of one task: its row, its wait, its runs, what is before it.

Reads only, for `enrollgate explain` and the page. Every statement reads a few rows by a key or an
index, so it costs little at a million rows.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from enrollgate.database.engine import Database
from enrollgate.database.holds import read_live_runs
from enrollgate.database.queries import (
    RUN_COLUMNS,
    OperatorView,
    RunView,
    find_operator,
    is_possible_id,
)
from enrollgate.database.steering import (
    ActionView,
    HoldView,
    actions_of_task,
    find_hold_of_task,
)
from enrollgate.database.tables import Tables, runs, tracked_tasks
from enrollgate.domain.queue import RunLimits

# Runs of a task that are shown, at most.
_MAX_RUNS = 20
# A queue is counted up to this length.
QUEUE_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class TaskRow:
    """Node.js's row as it is now. `configured_status` is the one that its status equals, if any.

    `rows` is how many rows have this id: more than one is an error in the table.
    """

    status: str | None
    configured_status: str | None
    email: str | None
    course_url: str | None
    rows: int


@dataclass(frozen=True, slots=True)
class TrackedTask:
    """What the operator knows of an open task. Instants are UTC.

    While the database or the launcher refuses it, `retry_at` is when it is tried again.
    """

    first_seen_at: datetime
    last_seen_status: str
    enrolled_seen_at: datetime | None
    refusals: int
    refusal: str | None
    retry_at: datetime | None


@dataclass(frozen=True, slots=True)
class TaskDetails:
    """A task at the moment `now` (UTC), by the database's clock.

    `runs` has its newest runs first, `total_runs` is how many there were. `result` is the report of
    the newest run, as its worker gave it. `unfinished` counts the runs of the installation that
    take a slot, `ahead` the enrolled tasks that are launched before this one, both up to
    QUEUE_LIMIT. `of_account` and `of_host` count those runs of the task's account, and of its
    course's host. `operator` is None if no operator has ever made a pass. `hold` is the open hold
    that the task waits for, `actions` are what people did about it, the newest first.
    """

    task_id: int
    now: datetime
    row: TaskRow | None
    tracked: TrackedTask | None
    runs: list[RunView]
    total_runs: int
    result: dict[str, Any] | None
    unfinished: int
    ahead: int
    operator: OperatorView | None
    of_account: int = 0
    of_host: int = 0
    hold: HoldView | None = None
    actions: tuple[ActionView, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether there is a row, or ever was one that the operator has seen."""
        return self.row is not None or self.tracked is not None or bool(self.runs)


def load_task_details(
    database: Database, tables: Tables, task_id: int, *, installation: str
) -> TaskDetails:
    """Load a task. Raises DatabaseUnavailable or DatabaseMisconfigured."""
    if not is_possible_id(database, task_id):
        return TaskDetails(task_id, database.now(), None, None, [], 0, None, 0, 0, None)
    now = database.now()
    status, is_mine = tables.status, runs.c.task_id == task_id
    select_row = (
        select(
            *(status, tables.configured_status(status), tables.email, tables.course_url),
            *(tables.account(), tables.course_host()),
        )
        .where(tables.id == task_id)
        .limit(2)
    )
    live = read_live_runs(database, RunLimits(per_account=1, per_host=1), installation)
    select_tracked = select(
        tracked_tasks.c.first_seen_at,
        tracked_tasks.c.last_seen_status,
        tracked_tasks.c.enrolled_seen_at,
        tracked_tasks.c.refusals,
        tracked_tasks.c.refusal,
        tracked_tasks.c.retry_at,
    ).where(tracked_tasks.c.task_id == task_id)
    newest = select(*RUN_COLUMNS).where(is_mine).order_by(runs.c.run_number.desc())
    with database.read_transaction() as connection:
        rows = connection.execute(select_row).all()
        tracked = connection.execute(select_tracked).first()
        found = [RunView(*row) for row in connection.execute(newest.limit(_MAX_RUNS))]
        total = connection.execute(select(func.count()).where(is_mine)).scalar_one()
        result = connection.execute(
            select(runs.c.result).where(is_mine).order_by(runs.c.run_number.desc()).limit(1)
        ).scalar()
        return TaskDetails(
            task_id=task_id,
            now=now,
            row=TaskRow(*rows[0][:4], rows=len(rows)) if rows else None,
            tracked=TrackedTask(*tracked) if tracked else None,
            runs=found,
            total_runs=total,
            result=result if isinstance(result, dict) else None,
            unfinished=_count_unfinished(connection, installation),
            ahead=_count_ahead(connection, tables, task_id),
            operator=find_operator(connection, installation),
            of_account=live.accounts[rows[0][4]] if rows else 0,
            of_host=live.hosts[rows[0][5]] if rows else 0,
            hold=find_hold_of_task(connection, tables, task_id),
            actions=tuple(actions_of_task(connection, task_id)),
        )


def _count_unfinished(connection: Connection, installation: str) -> int:
    """Count the runs that take one of the installation's slots."""
    takes_slot = (
        select(runs.c.id)
        .where(runs.c.active == 1, runs.c.installation == installation, runs.c.state != "ended")
        .limit(QUEUE_LIMIT)
    )
    return connection.execute(select(func.count()).select_from(takes_slot.subquery())).scalar_one()


def _count_ahead(connection: Connection, tables: Tables, task_id: int) -> int:
    """Count the tracked enrolled tasks with a lower id, which are launched before this one."""
    has_run = select(runs.c.id).where(runs.c.task_id == tracked_tasks.c.task_id, runs.c.active == 1)
    before = (
        select(tracked_tasks.c.task_id)
        .where(
            tracked_tasks.c.last_seen_status == tables.statuses.enrolled,
            tracked_tasks.c.task_id < task_id,
            tracked_tasks.c.retry_at.is_(None),
            tracked_tasks.c.hold_id.is_(None),
            ~has_run.exists(),
        )
        .limit(QUEUE_LIMIT)
    )
    return connection.execute(select(func.count()).select_from(before.subquery())).scalar_one()
