"""Everything that the database knows of one task: its row, its wait, its runs, what is before it.

Reads only, for `enrollgate explain` and the page. Every statement reads a few rows by a key or an
index, so it costs little at a million rows. Only the place in the queue takes all enrolled rows.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from enrollgate.database.engine import Database
from enrollgate.database.hold_views import ActionView, HoldView, actions_of_task, find_hold_of_task
from enrollgate.database.holds import read_live_runs
from enrollgate.database.queries import (
    RUN_COLUMNS,
    OperatorView,
    RunView,
    find_operator,
    is_possible_id,
)
from enrollgate.database.tables import Tables, runs, tracked_tasks
from enrollgate.domain.queue import RunLimits
from enrollgate.domain.run import RunState

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
    take a slot, up to QUEUE_LIMIT. `ahead` counts the tasks that are launched before this one: None
    if it is not queued, or if more than QUEUE_LIMIT are enrolled. `of_account` and `of_host` count
    those runs of the task's account, and of its course's host. `operator` is None if no operator
    has ever made a pass. `hold` is the open hold that the task waits for, `actions` are what people
    did about it, the newest first.
    """

    task_id: int
    now: datetime
    row: TaskRow | None
    tracked: TrackedTask | None
    runs: list[RunView]
    total_runs: int
    result: dict[str, Any] | None
    unfinished: int
    ahead: int | None
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
        return TaskDetails(task_id, database.now(), None, None, [], 0, None, 0, None, None)
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
        is_enrolled = bool(rows) and rows[0][1] == tables.statuses.enrolled
        is_queued = is_enrolled and not (found and found[0].state != RunState.FINISHED)
        return TaskDetails(
            task_id=task_id,
            now=now,
            row=TaskRow(*rows[0][:4], rows=len(rows)) if rows else None,
            tracked=TrackedTask(*tracked) if tracked else None,
            runs=found,
            total_runs=total,
            result=result if isinstance(result, dict) else None,
            unfinished=_count_unfinished(connection, installation),
            ahead=_count_ahead(connection, tables, task_id, now, installation)
            if is_queued
            else None,
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


def _count_ahead(
    connection: Connection, tables: Tables, task_id: int, now: datetime, installation: str
) -> int | None:
    """Count the tasks that are launched before this one; None if too many are enrolled."""
    enrolled = tables.statuses.enrolled
    queued = select(tracked_tasks.c.task_id).where(tracked_tasks.c.last_seen_status == enrolled)
    if connection.execute(queued.limit(1).offset(QUEUE_LIMIT)).first():
        return None
    # Most tasks are not in the queue, and this module knows all that the operator does at the gate.
    from enrollgate.database.claims import find_place

    place = find_place(connection, tables, task_id, now=now, installation=installation)
    return None if place is None else place - 1
