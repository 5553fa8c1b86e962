"""What `status` and `plan` show: tasks by status or set aside, runs, failures, what comes next.

Reads only. Kept apart from `runs`: no decision depends on these statements.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from heapq import nlargest
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, null, select, union_all

from enrollgate.database.engine import Database
from enrollgate.database.migrate import current
from enrollgate.database.tables import (
    UNKNOWN_STATUS_LIMIT,
    Tables,
    operators,
    runs,
    tracked_tasks,
)
from enrollgate.domain.run import RunPlace

# Accounts that `doctor` compares with the cookies files.
_MAX_ACCOUNTS = 100_000
# Seconds without a pass after which an operator counts as down, at least.
LATE_AFTER = 60.0
# The ids that a BIGINT or a BIGINT UNSIGNED holds, and the largest one of an INTEGER in SQLite.
_LEAST_ID, _LARGEST_ID, _LARGEST_SQLITE_ID = -(2**63), 2**64 - 1, 2**63 - 1


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
    at `recorded_at`. The columns from `attempt` on are its progress, as of `progress_at`; each is
    None if it is not known. While the database refuses to write the task's status, `refusal` says
    why, and `retry_at` when it is tried again.
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
    attempt: int | None
    attempts: int | None
    percent: int | None
    items_done: int | None
    items_total: int | None
    bytes_done: int | None
    bytes_total: int | None
    bytes_per_second: int | None
    current_item: str | None
    progress_at: datetime | None
    destination_url: str | None
    refusal: str | None
    retry_at: datetime | None

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


# The columns of a RunView.
RUN_COLUMNS: tuple[ColumnElement[Any], ...] = tuple(runs.c[each.name] for each in fields(RunView))


@dataclass(frozen=True, slots=True)
class OperatorView:
    """An installation's operator: its limits, and when it made its last pass. Instants are UTC."""

    installation: str
    version: str | None
    launcher: str | None
    last_pass_at: datetime | None
    pass_seconds: float | None
    enrollment_timeout: float | None
    max_concurrent_runs: int | None
    check_interval: float | None
    started_at: datetime | None

    def is_late(self, now: datetime) -> bool:
        """Return whether it has made no pass for so long that it must be down."""
        longest = max(LATE_AFTER, 3 * (self.check_interval or 0) + (self.pass_seconds or 0))
        return self.last_pass_at is None or now - self.last_pass_at > timedelta(seconds=longest)


_OPERATOR_COLUMNS = tuple(operators.c[each.name] for each in fields(OperatorView))


def read_operators(database: Database) -> list[OperatorView]:
    """Return the operators of all installations, by name."""
    statement = select(*_OPERATOR_COLUMNS).order_by(operators.c.installation).limit(50)
    with database.read_transaction() as connection:
        return [OperatorView(*row) for row in connection.execute(statement)]


def find_operator(connection: Connection, installation: str) -> OperatorView | None:
    """Return the operator of an installation; None if none has made a pass yet."""
    statement = select(*_OPERATOR_COLUMNS).where(operators.c.installation == installation)
    found = connection.execute(statement).first()
    return OperatorView(*found) if found else None


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
    statement = select(*RUN_COLUMNS).where(runs.c.active == 1).order_by(runs.c.id).limit(limit)
    with database.read_transaction() as connection:
        return [RunView(*row) for row in connection.execute(statement)]


def count_unfinished(database: Database) -> int:
    """Count the unfinished runs of all installations."""
    statement = select(func.count()).where(runs.c.active == 1)
    with database.read_transaction() as connection:
        return connection.execute(statement).scalar_one()


def is_possible_id(database: Database, task_id: int) -> bool:
    """Return whether a task may have this id. SQLite refuses any other as a parameter."""
    largest = _LARGEST_SQLITE_ID if database.is_sqlite else _LARGEST_ID
    return _LEAST_ID <= task_id <= largest


def runs_of_task(database: Database, task_id: int, limit: int = 1000) -> list[RunView]:
    """Return the runs of a task, newest first."""
    if not is_possible_id(database, task_id):
        return []
    statement = select(*RUN_COLUMNS).where(runs.c.task_id == task_id)
    with database.read_transaction() as connection:
        newest = statement.order_by(runs.c.run_number.desc()).limit(limit)
        return [RunView(*row) for row in connection.execute(newest)]


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


def find_accounts(database: Database, tables: Tables, task_ids: Collection[int]) -> dict[int, str]:
    """Return the e-mail address of each of these tasks that has a row with one."""
    statement = select(tables.id, tables.email).where(tables.id.in_(task_ids))
    with database.read_transaction() as connection:
        return {task: email for task, email in connection.execute(statement) if email}


def latest_completed(database: Database, limit: int = 5) -> list[RunView]:
    """Return the runs that succeeded last, newest first."""
    statement = (
        select(*RUN_COLUMNS)
        .where(runs.c.outcome == "succeeded")
        .order_by(runs.c.finished_at.desc(), runs.c.id.desc())
        .limit(limit)
    )
    with database.read_transaction() as connection:
        return [RunView(*row) for row in connection.execute(statement)]


def latest_incomplete(database: Database, limit: int = 10) -> list[RunView]:
    """Return the runs that succeeded last with items left out, newest first.

    The worker's message says so.
    """
    statement = (
        select(*RUN_COLUMNS)
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
        select(*RUN_COLUMNS)
        .where(runs.c.outcome == "failed")
        .order_by(runs.c.finished_at.desc(), runs.c.id.desc())
        .limit(limit)
    )
    with database.read_transaction() as connection:
        return [RunView(*row) for row in connection.execute(statement)]
