"""Is there anything to do at the gate? Two statements answer, a cheap one and an exact one.

`survey` joins the open tasks with their tracked_tasks: exact, and at 100,000 waiting tasks about 150 ms of the database's time.
`glance` compares both sides without a join, by count, sum and sum of squares of the ids for each status, from indexes alone: a
fifth of that. Different numbers mean that something changed; equal numbers could in theory hide a change (several tasks that
swap places with equal sums), which is why a pass takes an exact survey at least once a minute all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, String, cast, func, literal, null, select, union_all

from enrollgate.database.engine import Database
from enrollgate.database.tables import STATUS_LENGTH, Tables, tracked_tasks

UNKNOWN_STATUS_LIMIT = 20
"""Statuses without a meaning that one survey names, at most: an application may write a new one for each row."""
_MODULUS = 1_000_003
"""Keeps the squares of large ids within 64 bits."""


@dataclass(frozen=True, slots=True)
class Group:
    """So many tasks have this status, and were last seen with that one."""

    word: str | None
    """The configured word that the status equals, None if none."""
    last_seen: str | None
    """The configured word it had when last seen; None if the task is new to us."""
    tasks: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The whole backlog in a few numbers, by one statement and so at one moment."""

    groups: tuple[Group, ...]
    seen: int
    """Tasks that have a sighting."""
    due: int
    """Sightings of waiting tasks whose time is over."""
    unknown_statuses: Mapping[str | None, int] = field(default_factory=dict)
    """Statuses without a meaning on tasks never seen otherwise, and on how many; at most UNKNOWN_STATUS_LIMIT of them."""

    @property
    def new(self) -> int:
        """Waiting or enrolled tasks without a sighting."""
        return sum(g.tasks for g in self.groups if g.word is not None and g.last_seen is None)

    @property
    def changed(self) -> int:
        """Waiting or enrolled tasks whose status is another than when last seen."""
        return sum(g.tasks for g in self.groups if g.word and g.last_seen and g.word != g.last_seen)

    @property
    def departed(self) -> int:
        """Sightings whose task is over, unknown by now, or deleted: exactly those that no open task matches."""
        return self.seen - sum(
            g.tasks for g in self.groups if g.word is not None and g.last_seen is not None
        )

    @property
    def unknown(self) -> int:
        """Tasks whose status has no meaning, and that were never seen otherwise."""
        return sum(g.tasks for g in self.groups if g.word is None and g.last_seen is None)

    def count(self, word: str) -> int:
        """Tasks whose status equals this configured word (waiting or enrolled)."""
        return sum(g.tasks for g in self.groups if g.word == word)


def load_backlog(database: Database, tables: Tables, now: datetime, timeout: float) -> Backlog:
    """One statement over the open tasks and the tracked_tasks. `timeout` in seconds."""
    known_or_not = tables.tasks.outerjoin(tracked_tasks, tracked_tasks.c.task_id == tables.id)
    by_status = (
        select(
            tables.status.label("status"),
            tracked_tasks.c.last_seen_status.label("last_seen"),
            func.count().label("tasks"),
        )
        .select_from(known_or_not)
        .where(_is_not_over(tables))
        .group_by(tables.status, tracked_tasks.c.last_seen_status)
        .subquery("by_status")
    )
    by_word = select(
        tables.configured_status(by_status.c.status).label("word"),
        by_status.c.last_seen,
        by_status.c.tasks,
    ).subquery("by_word")
    strange = (
        select(literal("strange"), cast(tables.status, String(STATUS_LENGTH)), null(), func.count())
        .select_from(known_or_not)
        .where(tables.is_unknown(), tracked_tasks.c.task_id.is_(None))
        .group_by(tables.status)
        .limit(UNKNOWN_STATUS_LIMIT)
        .subquery("strange")
    )
    statement = union_all(
        select(
            literal("tasks"), by_word.c.word, by_word.c.last_seen, func.sum(by_word.c.tasks)
        ).group_by(by_word.c.word, by_word.c.last_seen),
        select(*strange.c),
        select(literal("seen"), null(), null(), func.count()).select_from(tracked_tasks),
        select(literal("due"), null(), null(), func.count()).where(is_due(tables, now, timeout)),
    )
    with database.read_transaction() as connection:
        rows = [
            (kind, label, last_seen, int(tasks))
            for kind, label, last_seen, tasks in connection.execute(statement)
        ]
    totals = {kind: tasks for kind, _, _, tasks in rows}
    return Backlog(
        tuple(
            Group(word, last_seen, tasks)
            for kind, word, last_seen, tasks in rows
            if kind == "tasks"
        ),
        seen=totals["seen"],
        due=totals["due"],
        unknown_statuses={status: tasks for kind, status, _, tasks in rows if kind == "strange"},
    )


def backlog_if_unchanged(
    database: Database, tables: Tables, now: datetime, timeout: float
) -> Backlog | None:
    """The survey of a backlog in which nothing changed, or None if something did. `timeout` in seconds."""
    mine = select(
        literal("seen"),
        tracked_tasks.c.last_seen_status,
        *_fingerprint(tracked_tasks.c.task_id),
    ).group_by(tracked_tasks.c.last_seen_status)
    theirs = (
        select(tables.status.label("status"), *_fingerprint(tables.id))
        .where(tables.is_open())
        .group_by(tables.status)
        .subquery("by_status")
    )
    due = select(func.count()).where(is_due(tables, now, timeout)).scalar_subquery()
    statement = union_all(
        select(literal("tasks"), tables.configured_status(theirs.c.status), *theirs.c[1:]),
        mine,
        select(literal("due"), null(), due, literal(0), literal(0)),
    )
    with database.read_transaction() as connection:
        rows = [
            (kind, word, *map(int, moments))
            for kind, word, *moments in connection.execute(statement)
        ]
    tasks, seen = ({row[1:] for row in rows if row[0] == kind} for kind in ("tasks", "seen"))
    if tasks != seen:
        return None
    groups = tuple(Group(word, word, count) for word, count, *_ in tasks)
    return Backlog(
        groups,
        seen=sum(group.tasks for group in groups),
        due=next(row[2] for row in rows if row[0] == "due"),
    )


def _fingerprint(key: ColumnElement[int]) -> tuple[ColumnElement[int], ...]:
    reduced = key % _MODULUS
    return (
        func.count().label("tasks"),
        func.coalesce(func.sum(key), 0).label("total"),
        func.coalesce(func.sum(reduced * reduced), 0).label("squares"),
    )


def _is_not_over(tables: Tables) -> ColumnElement[bool]:
    return tables.status.is_(None) | tables.status.not_in(
        (tables.statuses.completed, tables.statuses.failed)
    )


def is_due(tables: Tables, now: datetime, timeout: float) -> ColumnElement[bool]:
    """The sighting is of a waiting task whose time (`timeout`, seconds) is over."""
    return tracked_tasks.c.last_seen_status.in_(tables.statuses.waiting) & (
        tracked_tasks.c.first_seen_at <= now - timedelta(seconds=timeout)
    )
