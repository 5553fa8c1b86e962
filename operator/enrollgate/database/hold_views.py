"""What people see of holds and pauses, and of what was done about a task. Reads only.

Kept apart from `steering`: a command that shows a hold must start quickly.
"""

from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, select

from enrollgate.common.redaction import printable
from enrollgate.database.engine import Database
from enrollgate.database.queries import is_possible_id
from enrollgate.database.tables import Tables, actions, holds, runs, tracked_tasks
from enrollgate.domain.account import account_sha256, mask_account
from enrollgate.domain.hold import HoldKind, Scope

# Holds that are shown, at most.
_MOST_HOLDS = 200


@dataclass(frozen=True, slots=True)
class HoldView:
    """A hold or pause as people read it. Instants are UTC.

    `account` is the masked e-mail address, if a task of the account is known. `tasks` is how many
    tasks wait for it, as the last full pass saw them.
    """

    hold_id: int
    kind: str
    scope: str
    subject: str
    reason: str
    message: str | None
    remedy: str | None
    opened_at: datetime
    opened_by: str
    run_name: str | None
    allowed: int
    probes: int
    probe_at: datetime | None
    ends_at: datetime | None
    closed_at: datetime | None
    closed_by: str | None
    tasks: int = 0
    account: str | None = None

    @property
    def is_pause(self) -> bool:
        """Return whether a person has opened it."""
        return self.kind == HoldKind.PAUSE.value


_HOLD_COLUMNS = tuple(
    holds.c["id" if each.name == "hold_id" else each.name]
    for each in fields(HoldView)
    if each.name not in ("tasks", "account")
)


@dataclass(frozen=True, slots=True)
class ActionView:
    """What a person did about one task, and when (UTC)."""

    acted_at: datetime
    actor: str
    action: str
    detail: str | None


def read_holds(
    database: Database, tables: Tables, *, installation: str, closed: bool = False
) -> list[HoldView]:
    """Return the open holds and pauses, newest first; with `closed`, those that ended as well."""
    statement = _select_holds().where(holds.c.installation == installation)
    if not closed:
        statement = statement.where(holds.c.active == 1)
    with database.read_transaction() as connection:
        ordered = statement.order_by(holds.c.id.desc()).limit(_MOST_HOLDS)
        return _views(connection, tables, ordered)


def read_hold(
    database: Database, tables: Tables, hold_id: int, *, installation: str
) -> HoldView | None:
    """Return a hold or pause, open or closed, by its number."""
    if not is_possible_id(database, hold_id):
        return None
    mine = holds.c.id == hold_id, holds.c.installation == installation
    with database.read_transaction() as connection:
        return next(iter(_views(connection, tables, _select_holds().where(*mine))), None)


def find_hold_of_task(connection: Connection, tables: Tables, task_id: int) -> HoldView | None:
    """Return the open hold that the last full pass saw the task wait for."""
    mine = select(tracked_tasks.c.hold_id).where(tracked_tasks.c.task_id == task_id)
    statement = _select_holds().where(holds.c.id == mine.scalar_subquery(), holds.c.active == 1)
    return next(iter(_views(connection, tables, statement)), None)


def actions_of_task(connection: Connection, task_id: int, limit: int = 50) -> list[ActionView]:
    """Return what people did about a task, newest first."""
    columns = tuple(actions.c[each.name] for each in fields(ActionView))
    statement = select(*columns).where(actions.c.task_id == task_id)
    found = connection.execute(statement.order_by(actions.c.id.desc()).limit(limit))
    return [ActionView(*row) for row in found]


def _select_holds() -> Select[Any]:
    """Build the query behind a HoldView: its columns, its tasks, and the first of these."""
    waits = tracked_tasks.c.hold_id == holds.c.id
    count = select(func.count()).select_from(tracked_tasks).where(waits).scalar_subquery()
    first = select(func.min(tracked_tasks.c.task_id)).where(waits).scalar_subquery()
    return select(*_HOLD_COLUMNS, count, first)


def _views(connection: Connection, tables: Tables, statement: Select[Any]) -> list[HoldView]:
    """Read holds, and the account of each from one of its tasks, or from a run before it."""
    found = [(HoldView(*columns), first) for *columns, first in connection.execute(statement)]
    tasks = {view.subject: first for view, first in found if view.scope == Scope.ACCOUNT}
    if unknown := [subject for subject, first in tasks.items() if first is None]:
        ran = select(runs.c.account, func.max(runs.c.task_id)).where(runs.c.account.in_(unknown))
        tasks |= {row[0]: row[1] for row in connection.execute(ran.group_by(runs.c.account))}
    emails = dict[str, str]()
    if tasks:
        select_emails = select(tables.email).where(tables.id.in_([*tasks.values()]))
        addresses = [email for email in connection.scalars(select_emails) if email]
        emails = {account_sha256(each): printable(mask_account(each))[:200] for each in addresses}
    return [replace(view, account=emails.get(view.subject)) for view, _ in found]
