"""What `status` and `plan` show: tasks by status or set aside, runs, failures, what comes next.

Reads only. Kept apart from `runs`: no decision depends on these statements.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import nlargest
from typing import Any

from sqlalchemy import ColumnElement, func, null, select, union_all

from enrollgate.database.backlog import UNKNOWN_STATUS_LIMIT
from enrollgate.database.engine import Database
from enrollgate.database.migrate import current
from enrollgate.database.tables import Tables, runs, tracked_tasks
from enrollgate.domain.run import RunPlace

# Accounts that `doctor` compares with the cookies files.
_MAX_ACCOUNTS = 100_000


@dataclass(frozen=True, slots=True)
class StatusCount:
    """The number of tasks with one status.

    `configured_status` is the one it equals, None if it is unknown.
    """

    status: str | None
    configured_status: str | None
    tasks: int


@dataclass(frozen=True, slots=True)
class StatusCounts:
    """All tasks, by status.

    `listed` has every configured status and the most frequent unknown ones, UNKNOWN_STATUS_LIMIT of
    them at most. `others` is how many statuses are not listed, `tasks_of_others` how many tasks
    have one of those.
    """

    listed: list[StatusCount]
    others: int
    tasks_of_others: int


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as people read it.

    Times are UTC. The task was first seen, and first seen as enrolled, at the first two. The run's
    worker began at `started_at`, the run ended at `finished_at`, and the operator wrote that down
    at `recorded_at`.
    """

    name: str
    task_id: int
    run_number: int
    installation: str
    launcher: str | None
    place_id: str | None
    host: str | None
    work_dir: str | None
    state: str
    first_seen_at: datetime | None
    enrolled_seen_at: datetime | None
    claimed_at: datetime
    launched_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    recorded_at: datetime | None
    outcome: str | None
    reason: str | None
    message: str | None
    remedy: str | None

    @property
    def where(self) -> str:
        """Describe the run's place; empty for a run that was never to be launched."""
        if self.launcher is None:
            return ""
        return str(
            RunPlace(
                self.launcher,
                self.place_id or "",
                host=self.host or "",
                work_dir=self.work_dir or "",
            )
        )


def count_by_status(database: Database, tables: Tables) -> StatusCounts:
    """Count all tasks by status."""
    statement = (
        select(tables.status, tables.configured_status(tables.status), func.count())
        .group_by(tables.status)
        .order_by(tables.status)
    )
    with database.read_transaction() as connection:
        found = [StatusCount(*row) for row in connection.execute(statement)]
    unknown = [each for each in found if each.configured_status is None]
    listed = nlargest(UNKNOWN_STATUS_LIMIT, unknown, key=lambda each: each.tasks)
    return StatusCounts(
        [*(each for each in found if each.configured_status is not None), *listed],
        others=len(unknown) - len(listed),
        tasks_of_others=sum(each.tasks for each in unknown) - sum(each.tasks for each in listed),
    )


_VIEW: tuple[ColumnElement[Any], ...] = (
    runs.c.name,
    runs.c.task_id,
    runs.c.run_number,
    runs.c.installation,
    runs.c.launcher,
    runs.c.place_id,
    runs.c.host,
    runs.c.work_dir,
    runs.c.state,
    runs.c.first_seen_at,
    runs.c.enrolled_seen_at,
    runs.c.claimed_at,
    runs.c.launched_at,
    runs.c.started_at,
    runs.c.finished_at,
    runs.c.recorded_at,
    runs.c.outcome,
    runs.c.reason,
    runs.c.message,
    runs.c.remedy,
)


@dataclass(frozen=True, slots=True)
class OpenRow:
    """A waiting or enrolled row as it is now. `since` is when it was first seen, None if never."""

    task_id: int
    status: str
    email: str | None
    course_url: str | None
    since: datetime | None


def first_open_rows(
    database: Database, tables: Tables, *statuses: str, limit: int
) -> list[OpenRow]:
    """Return the rows with these statuses that have no unfinished run, lowest id first.

    Our tables need not exist yet.
    """
    columns = tables.id, tables.status, tables.email, tables.course_url
    where = tables.status.in_(statuses), tables.has_key()
    if current(database) is None:
        statement = select(*columns, null()).where(*where)
    else:
        has_run = select(runs.c.id).where(runs.c.task_id == tables.id, runs.c.active == 1).exists()
        statement = (
            select(*columns, tracked_tasks.c.first_seen_at)
            .select_from(
                tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id)
            )
            .where(*where, ~has_run)
        )
    with database.read_transaction() as connection:
        found = connection.execute(statement.order_by(tables.id).limit(limit))
        return [OpenRow(*row) for row in found]


def count_overdue(database: Database, tables: Tables, timeout: float) -> int:
    """Return how many waiting tasks were first seen `timeout` seconds ago, or earlier."""
    if current(database) is None:
        return 0
    statement = (
        select(func.count())
        .select_from(tables.tasks.join(tracked_tasks, tracked_tasks.c.task_id == tables.id))
        .where(
            tables.status.in_(tables.statuses.waiting),
            tracked_tasks.c.first_seen_at <= database.now() - timedelta(seconds=timeout),
        )
    )
    with database.read_transaction() as connection:
        return connection.execute(statement).scalar_one()


def unfinished_runs(database: Database, limit: int = 50) -> list[RunView]:
    """Return the unfinished runs of all installations, oldest first."""
    statement = select(*_VIEW).where(runs.c.active == 1).order_by(runs.c.id).limit(limit)
    with database.read_transaction() as connection:
        return [RunView(*row) for row in connection.execute(statement)]


def account_emails(
    database: Database, tables: Tables, *, of_open_tasks: bool = False
) -> frozenset[str] | None:
    """Return the e-mail addresses of all tasks; None if there are very many accounts.

    With `of_open_tasks`, only those of waiting and enrolled tasks.
    """
    statement = select(tables.email).distinct().limit(_MAX_ACCOUNTS + 1)
    if of_open_tasks:
        statement = statement.where(tables.is_open())
    with database.read_transaction() as connection:
        found = frozenset(email for email in connection.scalars(statement) if email)
    return found if len(found) <= _MAX_ACCOUNTS else None


def latest_incomplete(database: Database, limit: int = 10) -> list[RunView]:
    """Return the runs that succeeded last with items left out, newest first.

    The worker's message says so.
    """
    statement = (
        select(*_VIEW)
        .where(runs.c.outcome == "succeeded", runs.c.message.like("%items left out%"))
        .order_by(runs.c.finished_at.desc(), runs.c.id.desc())
        .limit(limit)
    )
    with database.read_transaction() as connection:
        return [RunView(*row) for row in connection.execute(statement)]


@dataclass(frozen=True, slots=True)
class SetAsideTask:
    """A task that the database or the launcher refused, and that is tried again at `retry_at`.

    `refusals` counts the tries in a row, `message` says why. `run_name` is the run that has ended
    and whose task cannot be moved, if there is one.
    """

    task_id: int
    run_name: str | None
    refusals: int
    message: str | None
    retry_at: datetime


def tasks_set_aside(database: Database, limit: int = 50) -> list[SetAsideTask]:
    """Return the tasks that are set aside, those first that are tried next."""
    at_gate = select(
        tracked_tasks.c.task_id,
        null().label("name"),
        tracked_tasks.c.refusals,
        tracked_tasks.c.refusal,
        tracked_tasks.c.retry_at.label("retry_at"),
    ).where(tracked_tasks.c.retry_at.is_not(None))
    ended = select(
        runs.c.task_id, runs.c.name, runs.c.refusals, runs.c.refusal, runs.c.retry_at
    ).where(runs.c.active == 1, runs.c.retry_at.is_not(None))
    both = union_all(ended, at_gate).subquery("set_aside")
    statement = select(both).order_by(both.c.retry_at, both.c.task_id).limit(limit)
    with database.read_transaction() as connection:
        return [SetAsideTask(*row) for row in connection.execute(statement)]


def latest_failures(database: Database, limit: int = 10) -> list[RunView]:
    """Return the runs that failed last, newest first."""
    statement = (
        select(*_VIEW)
        .where(runs.c.outcome == "failed")
        .order_by(runs.c.finished_at.desc(), runs.c.id.desc())
        .limit(limit)
    )
    with database.read_transaction() as connection:
        return [RunView(*row) for row in connection.execute(statement)]
