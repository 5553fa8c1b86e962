"""Tasks that are set aside: the database or the launcher refuses them, and a pause is made."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, insert, update

from enrollgate.common.redaction import redact
from enrollgate.database.engine import Database
from enrollgate.database.tables import MESSAGE_LIMIT, Tables, tracked_tasks


@dataclass(frozen=True, slots=True)
class SetAside:
    """Until when a task is set aside, and why. `message` says what to do."""

    message: str
    retry_at: datetime

    @property
    def columns(self) -> dict[str, object]:
        """Return the values of the columns that say so."""
        return {"refusal": redact(self.message, MESSAGE_LIMIT), "retry_at": self.retry_at}


def mark_set_aside(connection: Connection, task_id: int, until: SetAside) -> bool:
    """Set a tracked task aside. Return whether it is tracked."""
    statement = (
        update(tracked_tasks)
        .where(tracked_tasks.c.task_id == task_id)
        .values({**until.columns, "refusals": tracked_tasks.c.refusals + 1})
    )
    return connection.execute(statement).rowcount == 1


def mark_enrolled_set_aside(
    connection: Connection, tables: Tables, task_id: int, now: datetime, until: SetAside
) -> None:
    """Set an enrolled task aside, and track it if no full pass has seen it yet."""
    if not mark_set_aside(connection, task_id, until):
        first = {"task_id": task_id, "first_seen_at": now, "enrolled_seen_at": now, "refusals": 1}
        first |= {"last_seen_status": tables.statuses.enrolled, **until.columns}
        connection.execute(insert(tracked_tasks).values(first))


def set_aside(database: Database, task_id: int, until: SetAside) -> None:
    """Record that a tracked task is set aside."""
    database.run_in_transaction(partial(mark_set_aside, task_id=task_id, until=until))


def set_enrolled_aside(
    database: Database, tables: Tables, task_id: int, now: datetime, until: SetAside
) -> None:
    """Record that an enrolled task is set aside."""
    mark = partial(mark_enrolled_set_aside, tables=tables, task_id=task_id, now=now, until=until)
    database.run_in_transaction(mark)


def end_set_aside(database: Database, task_ids: Collection[int]) -> None:
    """Record that these tasks are not set aside any more."""
    statement = (
        update(tracked_tasks)
        .where(tracked_tasks.c.task_id.in_(task_ids))
        .values(refusals=0, refusal=None, retry_at=None)
    )
    database.run_in_transaction(lambda connection: connection.execute(statement))
