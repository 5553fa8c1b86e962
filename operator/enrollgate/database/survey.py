"""Is there anything to do at the gate? Two statements answer, a cheap one and an exact one.

`survey` joins the open tasks with their sightings: exact, and at 100,000 waiting tasks about 150 ms of the database's time.
`glance` compares both sides without a join, by count, sum and sum of squares of the ids for each status, from indexes alone: a
fifth of that. Different numbers mean that something changed; equal numbers could in theory hide a change (several tasks that
swap places with equal sums), which is why a pass takes an exact survey at least once a minute all the same.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, String, cast, func, literal, null, select, true, union_all

from enrollgate.database.engine import Database
from enrollgate.database.tables import Tables, sightings

_MODULUS = 1_000_003
"""Keeps the squares of large ids within 64 bits."""


@dataclass(frozen=True, slots=True)
class Group:
    """So many tasks have this status, and were last seen with that one."""

    status: str | None
    """As the table spells it."""
    word: str | None
    """The configured word it equals, None if none."""
    last_seen: str | None
    """The configured word it had when last seen; None if the task is new to us."""
    tasks: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole backlog in a few numbers, by one statement and so at one moment."""

    groups: tuple[Group, ...]
    seen: int
    """Tasks that have a sighting."""
    due: int
    """Sightings of waiting tasks whose time is over."""

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
        return self.seen - sum(g.tasks for g in self.groups if g.word is not None and g.last_seen is not None)

    @property
    def strange(self) -> dict[str | None, int]:
        """Statuses without a meaning on tasks never seen otherwise, and on how many."""
        counts = dict[str | None, int]()
        for group in self.groups:
            if group.word is None and group.last_seen is None:
                counts[group.status] = counts.get(group.status, 0) + group.tasks
        return counts

    def count(self, word: str) -> int:
        """Tasks whose status equals this configured word (waiting or enrolled)."""
        return sum(g.tasks for g in self.groups if g.word == word)


def survey(database: Database, tables: Tables, now: datetime, timeout: float) -> Survey:
    """One statement over the open tasks and the sightings. `timeout` in seconds."""
    totals = select(
        select(func.count()).select_from(sightings).scalar_subquery().label("seen"),
        select(func.count()).where(is_due(tables, now, timeout)).scalar_subquery().label("due"),
    ).subquery("totals")
    groups = (
        select(
            tables.status.label("status"), sightings.c.last_seen_status.label("last_seen"), func.count().label("tasks")
        )
        .select_from(tables.tasks.outerjoin(sightings, sightings.c.task_id == tables.id))
        .where(_is_not_over(tables))
        .group_by(tables.status, sightings.c.last_seen_status)
        .subquery("status_groups")
    )
    statement = select(
        totals.c.seen, totals.c.due, groups.c.status, tables.word(groups.c.status), groups.c.last_seen, groups.c.tasks
    ).select_from(totals.outerjoin(groups, true()))
    with database.reading() as connection:
        rows = connection.execute(statement).all()
    found = tuple(
        Group(status, word, last_seen, tasks) for _, _, status, word, last_seen, tasks in rows if tasks is not None
    )
    return Survey(found, seen=rows[0].seen, due=rows[0].due)


def glance(database: Database, tables: Tables, now: datetime, timeout: float) -> Survey | None:
    """The survey of a backlog in which nothing changed, or None if something did. `timeout` in seconds."""
    mine = select(
        literal("seen"),
        sightings.c.last_seen_status,
        sightings.c.last_seen_status,
        *_moments(sightings.c.task_id),
    ).group_by(sightings.c.last_seen_status)
    theirs = (
        select(tables.status.label("status"), *_moments(tables.id))
        .where(_is_not_over(tables))
        .group_by(tables.status)
        .subquery("status_groups")
    )
    due = select(func.count()).where(is_due(tables, now, timeout)).scalar_subquery()
    statement = union_all(
        select(literal("task"), cast(theirs.c.status, String(64)), tables.word(theirs.c.status), *theirs.c[1:]),
        mine,
        select(literal("due"), null(), null(), due, literal(0), literal(0)),
    )
    with database.reading() as connection:
        rows = connection.execute(statement).all()
    groups = tuple(Group(status, word, word, tasks) for kind, status, word, tasks, _, _ in rows if kind == "task")
    tasks = {(word, *map(int, moments)) for kind, _, word, *moments in rows if kind == "task" and word is not None}
    seen = {(word, *map(int, moments)) for kind, _, word, *moments in rows if kind == "seen"}
    if tasks != seen:
        return None
    total = sum(tasks for kind, _, _, tasks, _, _ in rows if kind == "seen")
    return Survey(groups, seen=total, due=next(int(row[3]) for row in rows if row[0] == "due"))


def _moments(key: ColumnElement[int]) -> tuple[ColumnElement[int], ...]:
    reduced = key % _MODULUS
    return (
        func.count().label("tasks"),
        func.coalesce(func.sum(key), 0).label("total"),
        func.coalesce(func.sum(reduced * reduced), 0).label("squares"),
    )


def _is_not_over(tables: Tables) -> ColumnElement[bool]:
    return tables.status.is_(None) | tables.status.not_in((tables.words.completed, tables.words.failed))


def is_due(tables: Tables, now: datetime, timeout: float) -> ColumnElement[bool]:
    """The sighting is of a waiting task whose time (`timeout`, seconds) is over."""
    return sightings.c.last_seen_status.in_(tables.words.waiting) & (
        sightings.c.first_seen_at <= now - timedelta(seconds=timeout)
    )
