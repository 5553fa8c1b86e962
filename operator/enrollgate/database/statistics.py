"""What the page shows of all tasks together: counts, throughput, waits, and failures by reason.

Reads only. Each statement reads a bounded number of rows by an index, so that the page is quick,
and cheap for the database, at any number of tasks. Where a bound is reached, the result says so.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Row,
    Select,
    Text,
    cast,
    func,
    inspect,
    literal,
    select,
    text,
)

from enrollgate.database.engine import Database
from enrollgate.database.queries import RUN_COLUMNS, RunView
from enrollgate.database.tables import Tables, runs, tracked_tasks
from enrollgate.database.task_status import task_status
from enrollgate.domain.run import Outcome

# Rows that a count looks at, at most.
COUNT_LIMIT = 100_000
# Finished runs of each outcome that throughput looks at, at most; the newest ones.
THROUGHPUT_LIMIT = 50_000
# Failed runs that are grouped by reason, at most; the newest ones.
FAILURE_LIMIT = 5_000
# Completed runs that the waits are measured on, at most; the newest ones.
SAMPLE_LIMIT = 1_000
# Rows that a search without an index looks at; the newest ones.
SEARCH_LIMIT = 10_000
# Tasks that a search returns, at most.
_MOST_FOUND = 50
# The time that throughput and counts of finished runs are about, in hours.
HOURS = 24
# The time that failures are about, in days.
FAILURE_DAYS = 7


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows. With `is_more`, it is a lower bound: the count stopped there."""

    number: int
    is_more: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """Tasks by state. Completed and failed are those of the last HOURS."""

    waiting: Count
    queued: Count
    held: Count
    running: Count
    completed: Count
    failed: Count


@dataclass(frozen=True, slots=True)
class Hour:
    """Runs that ended within one hour from `begin` on, UTC."""

    begin: datetime
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """The last HOURS, oldest first. If not `is_complete`, the first hours lack runs."""

    hours: list[Hour]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """The instants of one completed run that its waits follow from. UTC."""

    first_seen_at: datetime | None
    enrolled_seen_at: datetime | None
    launched_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """The failed runs of one reason within the last FAILURE_DAYS, with the newest one of them."""

    reason: str | None
    runs: int
    first_at: datetime
    last_at: datetime
    last_task_id: int
    last_message: str | None
    last_remedy: str | None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The tasks that were found, newest first. `searched` is how many of the newest rows were
    looked at; None: all of them.
    """

    task_ids: list[int]
    searched: int | None


def _count(connection: Connection, table: FromClause, *where: ColumnElement[bool]) -> Count:
    found = select(literal(1)).select_from(table).where(*where).limit(COUNT_LIMIT).subquery()
    number = connection.execute(select(func.count()).select_from(found)).scalar_one()
    return Count(number, number == COUNT_LIMIT)


def count_by_state(database: Database, tables: Tables, now: datetime) -> Counts:
    """Count the tasks in each state. A running task is not queued, but may be held.

    Held are those that were refused, and those that wait for a hold.
    """
    status, since = tracked_tasks.c.last_seen_status, now - timedelta(hours=HOURS)
    ended = runs.c.finished_at >= since
    with database.read_transaction() as connection:
        enrolled = _count(connection, tracked_tasks, status == tables.statuses.enrolled)
        running = _count(connection, runs, runs.c.active == 1)
        refused = _count(connection, tracked_tasks, tracked_tasks.c.retry_at.is_not(None))
        on_hold = _count(connection, tracked_tasks, tracked_tasks.c.hold_id.is_not(None))
        return Counts(
            waiting=_count(connection, tracked_tasks, status.in_(tables.statuses.waiting)),
            queued=Count(
                max(0, enrolled.number - running.number - on_hold.number), enrolled.is_more
            ),
            held=Count(refused.number + on_hold.number, refused.is_more or on_hold.is_more),
            running=running,
            completed=_count(connection, runs, runs.c.outcome == Outcome.SUCCEEDED, ended),
            failed=_count(connection, runs, runs.c.outcome == Outcome.FAILED, ended),
        )


def _newest(
    outcome: Outcome, since: datetime, limit: int, *columns: ColumnElement[Any]
) -> Select[Any]:
    """Build the newest runs with this outcome that ended since then, newest first."""
    return (
        select(*columns)
        .where(runs.c.outcome == outcome, runs.c.finished_at >= since)
        .order_by(runs.c.finished_at.desc())
        .limit(limit)
    )


def read_throughput(database: Database, now: datetime) -> Throughput:
    """Count the completed and failed runs of each of the last HOURS; the last hour is not over."""
    begin = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
    found: dict[Outcome, dict[int, int]] = {}
    with database.read_transaction() as connection:
        for outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
            newest = _newest(outcome, begin, THROUGHPUT_LIMIT, runs.c.finished_at).subquery()
            # To the second, so that a rounded fraction of a day does not move a run by an hour.
            hour: ColumnElement[int] = func.timestampdiff(
                text("HOUR"), literal(begin), newest.c.finished_at
            )
            if database.is_sqlite:
                seconds = func.strftime("%s", newest.c.finished_at) - func.strftime("%s", begin)
                hour = cast(seconds / 3600, Integer)
            counted = select(hour.label("hour"), func.count()).select_from(newest)
            rows = connection.execute(counted.group_by(text("hour")))
            found[outcome] = {int(number): count for number, count in rows}
    completed, failed = found[Outcome.SUCCEEDED], found[Outcome.FAILED]
    hours = [
        Hour(begin + timedelta(hours=each), completed.get(each, 0), failed.get(each, 0))
        for each in range(HOURS)
    ]
    most = max(sum(counts.values()) for counts in found.values())
    return Throughput(hours, most < THROUGHPUT_LIMIT)


def read_waits(database: Database, now: datetime) -> list[Wait]:
    """Return the instants of the newest completed runs of the last FAILURE_DAYS."""
    columns = runs.c.first_seen_at, runs.c.enrolled_seen_at, runs.c.launched_at, runs.c.finished_at
    since = now - timedelta(days=FAILURE_DAYS)
    statement = _newest(Outcome.SUCCEEDED, since, SAMPLE_LIMIT, *columns)
    with database.read_transaction() as connection:
        return [Wait(*row) for row in connection.execute(statement)]


def group_failures(database: Database, now: datetime) -> list[FailureGroup]:
    """Return the failures of the last FAILURE_DAYS by reason, the most frequent first.

    Only the newest FAILURE_LIMIT failed runs are looked at.
    """
    columns = runs.c.id, runs.c.reason, runs.c.finished_at
    since = now - timedelta(days=FAILURE_DAYS)
    newest = _newest(Outcome.FAILED, since, FAILURE_LIMIT, *columns).subquery()
    grouped = (
        select(
            func.count().label("runs"),
            func.min(newest.c.finished_at).label("first_at"),
            func.max(newest.c.finished_at).label("last_at"),
            func.max(newest.c.id).label("id"),
        )
        .group_by(newest.c.reason)
        .subquery()
    )
    statement = select(
        runs.c.reason,
        grouped.c.runs,
        grouped.c.first_at,
        grouped.c.last_at,
        runs.c.task_id,
        runs.c.message,
        runs.c.remedy,
    ).select_from(grouped.join(runs, runs.c.id == grouped.c.id))
    with database.read_transaction() as connection:
        groups = [FailureGroup(*row) for row in connection.execute(statement)]
    return sorted(groups, key=lambda group: (-group.runs, group.reason or ""))


def failed_runs(database: Database, now: datetime, reason: str, limit: int = 50) -> list[RunView]:
    """Return the newest failed runs with this reason, newest first.

    They are among those that `group_failures` counts.
    """
    columns = runs.c.id, runs.c.reason, runs.c.finished_at
    since = now - timedelta(days=FAILURE_DAYS)
    newest = _newest(Outcome.FAILED, since, FAILURE_LIMIT, *columns).subquery()
    chosen = (
        select(newest.c.id)
        .where(newest.c.reason == reason)
        .order_by(newest.c.finished_at.desc())
        .limit(limit)
        .subquery()
    )
    statement = (
        select(*RUN_COLUMNS)
        .select_from(chosen.join(runs, runs.c.id == chosen.c.id))
        .order_by(runs.c.finished_at.desc())
    )
    with database.read_transaction() as connection:
        return [RunView(*row) for row in connection.execute(statement)]


def read_task_status(database: Database, task_id: int) -> Row[Any] | None:
    """Return a task's row of the view `enrollgate_task_status`, None if the task is unknown."""
    statement = select(task_status).where(task_status.c.task_id == task_id)
    with database.read_transaction() as connection:
        return connection.execute(statement).first()


def find_by_link(database: Database, tables: Tables, link: str) -> SearchResult:
    """Return the tasks whose course URL or destination URL contains this text.

    All tasks are searched for the whole course URL, in ASCII, if that column has an index.
    Otherwise, and for a part of a URL, only the newest tasks and runs are, SEARCH_LIMIT of each.
    """
    recent = (
        select(tables.id.label("id"), tables.course_url.label("url"))
        .order_by(tables.id.desc())
        .limit(SEARCH_LIMIT)
        .subquery()
    )
    delivered = (
        select(runs.c.task_id.label("id"), runs.c.destination_url.label("url"))
        .order_by(runs.c.id.desc())
        .limit(SEARCH_LIMIT)
        .subquery()
    )
    # The cast lets any text be compared with a column of any character set.
    statements = [
        select(each.c.id)
        .where(cast(each.c.url, Text).contains(link, autoescape=True))
        .limit(_MOST_FOUND)
        for each in (recent, delivered)
    ]
    with database.read_transaction() as connection:
        schema, name = tables.tasks.schema, tables.tasks.name
        indexes = inspect(connection).get_indexes(name, schema=schema)
        # An index serves no cast, and what is not ASCII may not be comparable without one.
        is_indexed = link.isascii() and any(
            each["column_names"][:1] == [tables.columns.course_url] for each in indexes
        )
        if is_indexed:
            exact = select(tables.id).where(tables.course_url == link)
            statements.append(exact.limit(_MOST_FOUND))
        found = {int(each) for statement in statements for each in connection.scalars(statement)}
    return SearchResult(
        sorted(found, reverse=True)[:_MOST_FOUND], None if is_indexed else SEARCH_LIMIT
    )
