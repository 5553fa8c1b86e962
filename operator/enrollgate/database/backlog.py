"""The backlog: what there is to do at the gate.

One exact statement over the open tasks and the tracked tasks answers. At 100,000 waiting tasks it
takes about 150 ms of the database's time. A cheaper comparison of checksums was tried and
removed: it was slower at 1,000 rows, and equal checksums could hide a change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import ColumnElement, Select, String, cast, func, literal, null, select, union_all

from enrollgate.database.engine import Database
from enrollgate.database.holds import HoldsVersion, is_open_hold
from enrollgate.database.tables import STATUS_LENGTH, Tables, runs, tracked_tasks

# How many unknown statuses one backlog names, at most: an application may write a new one for each
# row.
UNKNOWN_STATUS_LIMIT = 20
# What is set aside: tracked tasks, and the tasks of runs that have ended.
_SET_ASIDE = (
    tracked_tasks.c.retry_at.is_not(None),
    (runs.c.active == 1) & runs.c.retry_at.is_not(None),
)


@dataclass(frozen=True, slots=True)
class Group:
    """The number of tasks with one pair of current and last seen status.

    Both are configured statuses. `status` is None if the task's status is unknown, `last_seen` is
    None if the task is not tracked.
    """

    status: str | None
    last_seen: str | None
    tasks: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The whole backlog in a few numbers, all read at one moment by one statement.

    `now` is that moment by the database's clock. `tracked` is the number of tracked tasks,
    `waiting_since` since when the longest known waiting one is known, `latest_since` since when the
    latest. `clock_steps` is the highest of the tracked tasks. `set_aside` is the number of tasks
    that the database or the launcher refused, and that are tried again later. `unknown_statuses`
    maps unknown statuses of untracked tasks to their numbers, for UNKNOWN_STATUS_LIMIT of them.
    `without_key` is the number of open rows whose id our tables cannot hold: they are left alone.
    `held` is how many tasks wait for a hold, `holds` the version of the open ones.
    """

    now: datetime
    groups: tuple[Group, ...]
    tracked: int
    waiting_since: datetime | None
    latest_since: datetime | None = None
    clock_steps: int = 0
    set_aside: int = 0
    held: int = 0
    unknown_statuses: Mapping[str | None, int] = field(default_factory=dict)
    without_key: int = 0
    holds: HoldsVersion = field(default_factory=HoldsVersion)

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any]]) -> Self:
        """Read the rows of the statement: kind, status, last seen status, number, instant."""
        parts: dict[str, list[Sequence[Any]]] = {}
        for row in rows:
            parts.setdefault(row[0], []).append(row)
        return cls(
            now=parts["clock"][0][4],
            groups=tuple(
                Group(status, last_seen, int(tasks))
                for _, status, last_seen, tasks, _ in parts.get("tasks", ())
            ),
            tracked=int(parts["tracked"][0][3]),
            set_aside=sum(int(row[3]) for row in parts["set aside"]),
            held=int(parts["held"][0][3]),
            waiting_since=min(
                filter(None, (row[4] for row in parts.get("waiting", ()))), default=None
            ),
            latest_since=max(
                filter(None, (row[4] for row in parts.get("latest", ()))), default=None
            ),
            clock_steps=int(parts["clock_steps"][0][3] or 0),
            unknown_statuses={row[1]: int(row[3]) for row in parts.get("unknown", ())},
            without_key=int(parts["without key"][0][3]),
            holds=HoldsVersion(int(parts["holds"][0][3]), int(parts["last hold"][0][3])),
        )

    @property
    def new(self) -> Mapping[str, int]:
        """Return how many open tasks are not tracked yet, by status."""
        return {
            g.status: g.tasks for g in self.groups if g.status is not None and g.last_seen is None
        }

    @property
    def changed(self) -> int:
        """Return how many open tasks have another status than when last seen."""
        return sum(
            g.tasks for g in self.groups if g.status and g.last_seen and g.status != g.last_seen
        )

    @property
    def left(self) -> int:
        """Return how many tracked tasks are finished, unknown by now, or deleted."""
        return self.tracked - sum(
            g.tasks for g in self.groups if g.status is not None and g.last_seen is not None
        )

    @property
    def unknown(self) -> int:
        """Return how many untracked tasks have an unknown status."""
        return sum(g.tasks for g in self.groups if g.status is None and g.last_seen is None)

    def begins_in_future(self, tolerance: timedelta) -> bool:
        """Return whether a task has begun to wait later than now, by more than `tolerance`."""
        return self.latest_since is not None and self.latest_since > self.now + tolerance

    def is_timeout_over(self, timeout: float) -> bool:
        """Return whether a waiting task has been known for `timeout` seconds."""
        limit = self.now - timedelta(seconds=timeout)
        return self.waiting_since is not None and self.waiting_since <= limit

    def count(self, *statuses: str) -> int:
        """Return how many tasks have one of these configured statuses (waiting or enrolled)."""
        return sum(g.tasks for g in self.groups if g.status in statuses)


def _part(
    kind: str,
    status: ColumnElement[Any] | None = None,
    last_seen: ColumnElement[Any] | None = None,
    *,
    number: ColumnElement[Any] | None = None,
    instant: ColumnElement[Any] | None = None,
) -> Select[Any]:
    """Build one part of the statement; `Backlog.from_rows` reads its rows."""
    absent: ColumnElement[Any] = null()
    return select(
        literal(kind),
        absent if status is None else status,
        absent if last_seen is None else last_seen,
        literal(0) if number is None else number,
        absent if instant is None else instant,
    )


def load_backlog(database: Database, tables: Tables, *, installation: str) -> Backlog:
    """Read the backlog, and the clock, by one statement over the open and the tracked tasks.

    Raises DatabaseUnavailable, also if the server is read-only.
    """
    with_tracking = tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id)
    by_status = (
        select(
            tables.status.label("status"),
            tracked_tasks.c.last_seen_status.label("last_seen"),
            func.count().label("tasks"),
        )
        .select_from(with_tracking)
        .where(tables.status.is_(None) | ~tables.is_finished(), tables.has_key())
        .group_by(tables.status, tracked_tasks.c.last_seen_status)
        .subquery("by_status")
    )
    configured = select(
        tables.configured_status(by_status.c.status).label("status"),
        by_status.c.last_seen,
        by_status.c.tasks,
    ).subquery("configured")
    unknown = (
        _part("unknown", cast(tables.status, String(STATUS_LENGTH)), number=func.count())
        .select_from(with_tracking)
        .where(tables.is_unknown(), tracked_tasks.c.task_id.is_(None))
        .group_by(tables.status)
        .limit(UNKNOWN_STATUS_LIMIT)
        .subquery("unknown")
    )
    statuses = configured.c.status, configured.c.last_seen
    first_seen = tracked_tasks.c.first_seen_at
    instants = {"waiting": func.min(first_seen), "latest": func.max(first_seen)}
    versions = zip(("holds", "last hold"), HoldsVersion.columns(), strict=True)
    is_read_only, now = database.read_only_expression(), database.clock_expression()
    statement = union_all(
        # The first part gives the columns their types.
        _part("clock", number=is_read_only, instant=now),
        _part("tasks", *statuses, number=func.sum(configured.c.tasks)).group_by(*statuses),
        select(*unknown.c),
        _part("without key", number=func.count())
        .select_from(tables.tasks)
        .where(tables.status.in_(tables.statuses.open), tables.lacks_key()),
        _part("tracked", number=func.count()).select_from(tracked_tasks),
        *(_part("set aside", number=func.count()).where(each) for each in _SET_ASIDE),
        _part("held", number=func.count()).where(tracked_tasks.c.hold_id.is_not(None)),
        _part("clock_steps", number=func.max(tracked_tasks.c.clock_steps)),
        *(_part(kind, number=n).where(*is_open_hold(installation)) for kind, n in versions),
        # One part for each status: so each is a single look into the index.
        *(
            _part(part, instant=instant).where(tracked_tasks.c.last_seen_status == status)
            for part, instant in instants.items()
            for status in tables.statuses.waiting
        ),
    )
    with database.autocommit() as connection:
        rows = connection.execute(statement).all()
        database.require_primary(is_read_only=any(r[0] == "clock" and r[3] for r in rows))
        return Backlog.from_rows(rows)


def queued_since(database: Database, tables: Tables) -> datetime | None:
    """Return since when the oldest tracked task is enrolled that has no run, and is not held."""
    has_run = select(runs.c.id).where(runs.c.task_id == tracked_tasks.c.task_id, runs.c.active == 1)
    statement = (
        select(tracked_tasks.c.enrolled_seen_at)
        .where(
            tracked_tasks.c.last_seen_status == tables.statuses.enrolled,
            tracked_tasks.c.hold_id.is_(None),
            ~has_run.exists(),
        )
        # The order of the index: few rows are read, however many tasks are queued.
        .order_by(tracked_tasks.c.first_seen_at)
        .limit(1)
    )
    with database.read_transaction() as connection:
        found: datetime | None = connection.execute(statement).scalar()
    return found
