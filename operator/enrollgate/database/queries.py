"""What `status` shows: tasks by status, unfinished runs, the latest failures. Reads only."""

from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest

from sqlalchemy import func, select

from enrollgate.database.backlog import UNKNOWN_STATUS_LIMIT
from enrollgate.database.engine import Database
from enrollgate.database.tables import Tables, runs


@dataclass(frozen=True, slots=True)
class StatusCount:
    """So many tasks have this status."""

    status: str | None
    word: str | None
    """The configured word it equals, None if it has no meaning here."""
    tasks: int


@dataclass(frozen=True, slots=True)
class StatusCounts:
    """All tasks, by status."""

    listed: list[StatusCount]
    """Every status with a meaning, and the most frequent of those without, UNKNOWN_STATUS_LIMIT of them at most."""
    others: int
    """Statuses that are not listed."""
    tasks_of_others: int


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as people read it. Instants are UTC."""

    name: str
    task_id: int
    run_number: int
    installation: str
    state: str
    claimed_at: datetime
    launched_at: datetime | None
    finished_at: datetime | None
    outcome: str | None
    reason: str | None
    message: str | None


def count_by_status(database: Database, tables: Tables) -> StatusCounts:
    """All tasks, by status."""
    statement = (
        select(tables.status, tables.configured_status(tables.status), func.count())
        .group_by(tables.status)
        .order_by(tables.status)
    )
    with database.read_transaction() as connection:
        found = [StatusCount(*row) for row in connection.execute(statement)]
    strange = [each for each in found if each.word is None]
    listed = nlargest(UNKNOWN_STATUS_LIMIT, strange, key=lambda each: each.tasks)
    return StatusCounts(
        [*(each for each in found if each.word is not None), *listed],
        others=len(strange) - len(listed),
        tasks_of_others=sum(each.tasks for each in strange) - sum(each.tasks for each in listed),
    )


_VIEW = (
    runs.c.name,
    runs.c.task_id,
    runs.c.run_number,
    runs.c.installation,
    runs.c.state,
    runs.c.claimed_at,
    runs.c.launched_at,
    runs.c.finished_at,
    runs.c.outcome,
    runs.c.reason,
    runs.c.message,
)


def unfinished_runs(database: Database, limit: int = 50) -> list[RunView]:
    """Unfinished runs of all installations, oldest first."""
    statement = select(*_VIEW).where(runs.c.active == 1).order_by(runs.c.id).limit(limit)
    with database.read_transaction() as connection:
        return [RunView(*row) for row in connection.execute(statement)]


def latest_failures(database: Database, limit: int = 10) -> list[RunView]:
    """The runs that failed last, newest first."""
    statement = (
        select(*_VIEW)
        .where(runs.c.outcome == "failed")
        .order_by(runs.c.finished_at.desc(), runs.c.id.desc())
        .limit(limit)
    )
    with database.read_transaction() as connection:
        return [RunView(*row) for row in connection.execute(statement)]
