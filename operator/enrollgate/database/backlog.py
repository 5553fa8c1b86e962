"""The backlog: what there is to do at the gate.

One exact statement over the open tasks and the tracked tasks answers. Most of its time goes to
finding the tracked task of each open one. So the tasks of one status are counted, by what is known
of them, in the order of the index: no temporary table, and no function for each row. A comparison
of checksums was tried and removed: equal checksums could hide a change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Self

from sqlalchemy import (
    ColumnElement,
    Select,
    String,
    case,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
)

from enrollgate.database.engine import Database
from enrollgate.database.holds import HoldsVersion, is_open_hold
from enrollgate.database.tables import (
    STATUS_LENGTH,
    UNKNOWN_STATUS_LIMIT,
    Tables,
    runs,
    tracked_tasks,
)
from enrollgate.domain.task import Statuses

# What is set aside: tracked tasks, and the tasks of runs that have ended.
_SET_ASIDE = (
    tracked_tasks.c.retry_at.is_not(None),
    (runs.c.active == 1) & runs.c.retry_at.is_not(None),
)


@dataclass(frozen=True, slots=True)
class Group:
    """The open tasks with one configured status.

    `tracked` is how many of them are tracked, and `unchanged` how many were last seen with this
    very status.
    """

    status: str
    tasks: int
    tracked: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The whole backlog in a few numbers, all read at one moment by one statement.

    `now` is that moment by the database's clock. `tracked` is the number of tracked tasks,
    `waiting_since` since when the longest known waiting one is known, `latest_since` since when the
    latest. `clock_steps` is the highest of the tracked tasks. `set_aside` is the number of tasks
    that the database or the launcher refused, and that are tried again later. `unknown_statuses`
    maps unknown statuses of untracked tasks to their numbers, for UNKNOWN_STATUS_LIMIT of them, and
    `unknown` is the number of all such tasks. `without_key` is the number of open rows whose id our
    tables cannot hold: they are left alone. `held` is how many tasks wait for a hold, `holds` the
    version of the open ones.
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
    unknown: int = 0
    without_key: int = 0
    holds: HoldsVersion = field(default_factory=HoldsVersion)

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any]], statuses: Statuses) -> Self:
        """Read the rows of the statement, whose columns `_part` names."""
        parts: dict[str, list[Sequence[Any]]] = {}
        for row in rows:
            parts.setdefault(row[0], []).append(row)
        without_key = {row[1]: int(row[2]) for row in parts.get("without key", ())}
        tracked, unknown = parts["tracked"][0], parts.get("unknown", ())
        return cls(
            now=parts["clock"][0][3],
            groups=tuple(
                Group(
                    status,
                    int(tasks) - without_key.get(status, 0),
                    int(also_tracked),
                    int(last_seen[statuses.open.index(status)]),
                )
                for _, status, tasks, _, also_tracked, *last_seen in parts.get("tasks", ())
            ),
            tracked=int(tracked[2]),
            set_aside=sum(int(row[2]) for row in parts["set aside"]),
            held=int(parts["held"][0][2]),
            waiting_since=min(
                filter(None, (row[3] for row in parts.get("waiting", ()))), default=None
            ),
            latest_since=max(
                filter(None, (row[3] for row in parts.get("latest", ()))), default=None
            ),
            clock_steps=int(tracked[4] or 0),
            unknown_statuses={row[1]: int(row[2]) for row in unknown},
            unknown=max((int(row[4]) for row in unknown), default=0),
            without_key=sum(without_key.values()),
            holds=HoldsVersion(int(parts["holds"][0][2]), int(parts["last hold"][0][2])),
        )

    @property
    def new(self) -> Mapping[str, int]:
        """Return how many open tasks are not tracked yet, by status."""
        return {g.status: g.tasks - g.tracked for g in self.groups if g.tasks > g.tracked}

    @property
    def changed(self) -> int:
        """Return how many open tasks have another status than when last seen."""
        return sum(g.tracked - g.unchanged for g in self.groups)

    @property
    def left(self) -> int:
        """Return how many tracked tasks are finished, unknown by now, or deleted."""
        return self.tracked - sum(g.tracked for g in self.groups)

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
    number: ColumnElement[Any] | int = 0,
    *,
    status: ColumnElement[Any] | None = None,
    instant: ColumnElement[Any] | None = None,
    also: Sequence[ColumnElement[Any]] = (),
    width: int,
) -> Select[Any]:
    """Build one part of the statement; `Backlog.from_rows` reads its rows.

    `also` are further numbers, `width` of them: zeros where a part has none.
    """
    return select(
        literal(kind),
        null() if status is None else status,
        literal(number) if isinstance(number, int) else number,
        null() if instant is None else instant,
        *also,
        *[literal(0)] * (width - len(also)),
    )


def load_backlog(database: Database, tables: Tables, *, installation: str) -> Backlog:
    """Read the backlog, and the clock, by one statement over the open and the tracked tasks.

    Raises DatabaseUnavailable, also if the server is read-only.
    """
    statuses = tables.statuses
    part = partial(_part, width=1 + len(statuses.open))
    with_tracking = tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id)
    configured, is_open = tables.configured_status(tables.status), tables.status.in_(statuses.open)
    last_seen = tracked_tasks.c.last_seen_status
    unchanged = [func.count(case((last_seen == status, 1))) for status in statuses.open]
    unknown = (
        part(
            "unknown",
            func.count(),
            status=cast(tables.status, String(STATUS_LENGTH)),
            also=[func.sum(func.count()).over()],  # of all of them, before the limit
        )
        .select_from(with_tracking)
        .where(tables.is_unknown(), tracked_tasks.c.task_id.is_(None))
        .group_by(tables.status)
        .limit(UNKNOWN_STATUS_LIMIT)
        .subquery("unknown")
    )
    first_seen = tracked_tasks.c.first_seen_at
    instants = {"waiting": func.min(first_seen), "latest": func.max(first_seen)}
    versions = zip(("holds", "last hold"), HoldsVersion.columns(), strict=True)
    is_read_only, now = database.read_only_expression(), database.clock_expression()
    statement = union_all(
        # The first part gives the columns their types.
        part("clock", is_read_only, instant=now),
        part(
            "tasks",
            func.count(),
            status=configured,
            also=[func.count(tracked_tasks.c.task_id), *unchanged],
        )
        .select_from(with_tracking)
        .where(is_open)
        .group_by(tables.status),
        part("without key", func.count(), status=configured)
        .select_from(tables.tasks)
        .where(is_open, tables.lacks_key())
        .group_by(tables.status),
        select(*unknown.c),
        part("tracked", func.count(), also=[func.max(tracked_tasks.c.clock_steps)]),
        *(part("set aside", func.count()).where(each) for each in _SET_ASIDE),
        part("held", func.count()).where(tracked_tasks.c.hold_id.is_not(None)),
        *(part(kind, number).where(*is_open_hold(installation)) for kind, number in versions),
        # One part for each status: so each is a single look into the index.
        *(
            part(kind, instant=instant).where(last_seen == status)
            for kind, instant in instants.items()
            for status in statuses.waiting
        ),
    )
    with database.autocommit() as connection:
        rows = connection.execute(statement).all()
        database.require_primary(is_read_only=any(r[0] == "clock" and r[2] for r in rows))
        return Backlog.from_rows(rows, statuses)


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
