"""The tables as SQLAlchemy sees them: Node.js's, under the names of this deployment, and ours.

Kept apart from the statements, so that the migration, the checks and the statements share one
definition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Case,
    Column,
    ColumnElement,
    Computed,
    Dialect,
    Double,
    FetchedValue,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    case,
    cast,
    func,
    literal,
    quoted_name,
)
from sqlalchemy.dialects.mysql import BIGINT as MYSQL_BIGINT
from sqlalchemy.dialects.mysql import DATETIME as MYSQL_DATETIME
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import DateTime, NullType, TypeDecorator, TypeEngine

from enrollgate.domain.task import Statuses, TaskColumns

# UTC with microseconds, without a time zone.
INSTANT = DateTime().with_variant(MYSQL_DATETIME(fsp=6), "mysql", "mariadb")
# SQLite numbers rows by itself only if the column's type is exactly INTEGER.
KEY = BigInteger().with_variant(Integer(), "sqlite")
# The task's id. A BIGINT would not hold those of a BIGINT UNSIGNED from 2^63 on.
TASK_ID = KEY.with_variant(MYSQL_BIGINT(unsigned=True), "mysql", "mariadb")

# Characters of a configured status, at most. Other statuses are cut to this length.
STATUS_LENGTH = 64
# Unknown statuses that are named, at most: an application may write a new one for each row.
UNKNOWN_STATUS_LIMIT = 20
# Characters of a recorded message or remedy, at most.
MESSAGE_LIMIT = 1000
# Characters of the title of an item, at most.
ITEM_LENGTH = 255

# How far a run is, as its worker said at `progress_at`: docs/node.md. The view has them, too.
PROGRESS: Mapping[str, type[TypeEngine[Any]] | TypeEngine[Any]] = {
    "attempt": Integer,
    "attempts": Integer,
    "percent": Integer,
    "items_done": Integer,
    "items_total": Integer,
    "bytes_done": BigInteger,
    "bytes_total": BigInteger,
    "bytes_per_second": BigInteger,
    "current_item": String(ITEM_LENGTH),
    "destination_url": Text,
}

ours = MetaData()

# One row for each task that is waiting or enrolled: since when it is known, and since when as
# enrolled. Deleted when the task is finished. `clock_steps` counts how often these instants were
# moved because the database's clock was set: so two operators that notice one step move them once.
# While the database refuses to fail the task, or the launcher to launch its run, the task is set
# aside until `retry_at`: `refusals` counts the tries in a row, `refusal` says why.
tracked_tasks = Table(
    "enrollgate_tasks",
    ours,
    Column("task_id", TASK_ID, primary_key=True, autoincrement=False),
    Column("first_seen_at", INSTANT, nullable=False),
    Column("last_seen_status", String(STATUS_LENGTH), nullable=False),
    Column("enrolled_seen_at", INSTANT),
    Column("clock_steps", Integer, nullable=False, server_default="0"),
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("refusal", Text),
    Column("retry_at", INSTANT),
    # The hold that keeps the task from being launched, as the last full pass saw it: to show it.
    Column("hold_id", KEY),
    Index("ix_enrollgate_tasks_status_seen", "last_seen_status", "first_seen_at"),
    Index("ix_enrollgate_tasks_retry", "retry_at"),
    Index("ix_enrollgate_tasks_hold", "hold_id"),
)

# Every run ever claimed. `active` is 1 while the run is unfinished and NULL after that, so the
# unique key on it allows one unfinished run per task. `claim_id` tells two claims of one name apart
# (the second one after a restore), `content_sha256` is the row's content as it was claimed. What
# each instant means: docs/operations.md. The last three columns are as in `enrollgate_tasks`: the
# database refuses to move the task of a run that has ended.
runs = Table(
    "enrollgate_runs",
    ours,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("task_id", TASK_ID, nullable=False),
    Column("run_number", Integer, nullable=False),
    Column("name", String(63), nullable=False),
    Column("installation", String(63), nullable=False),
    Column("claim_id", String(32)),
    Column("content_sha256", String(64)),
    # Where the run is carried out (`RunPlace`). NULL if it was never to be launched.
    Column("launcher", String(16)),
    Column("place_id", String(64)),
    Column("host", String(255)),
    Column("machine_id", String(64)),
    Column("work_dir", Text),
    Column("boot_id", String(64)),
    Column("state", String(16), nullable=False),
    # The task's state, if it was seen finished or deleted while the run was unfinished.
    Column("task_left", String(16)),
    # Whose course it is, and where: `Tables.account` and `Tables.course_host` as they were claimed.
    Column("account", String(64)),
    Column("course_host", String(255)),
    Column("first_seen_at", INSTANT),
    Column("enrolled_seen_at", INSTANT),
    Column("claimed_at", INSTANT, nullable=False),
    Column("launched_at", INSTANT),
    Column("started_at", INSTANT),
    Column("finished_at", INSTANT),
    Column("recorded_at", INSTANT),
    Column("outcome", String(16)),
    Column("reason", String(64)),
    Column("message", Text),
    Column("remedy", Text),
    Column("result", JSON(none_as_null=True)),
    *(Column(name, kind) for name, kind in PROGRESS.items()),
    Column("progress_at", INSTANT),
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("refusal", Text),
    Column("retry_at", INSTANT),
    Column("active", Integer, Computed("CASE WHEN state <> 'finished' THEN 1 END", persisted=True)),
    UniqueConstraint("task_id", "run_number", name="uq_enrollgate_runs_run_number"),
    UniqueConstraint("task_id", "active", name="uq_enrollgate_runs_active"),
    Index("ix_enrollgate_runs_active", "active", "installation"),
    Index("ix_enrollgate_runs_finished", "finished_at"),
    # For the page: counts and failures of the last days, from the index alone.
    Index("ix_enrollgate_runs_outcome", "outcome", "finished_at", "reason"),
    # For holds: how the last runs of an account or of a host ended.
    Index("ix_enrollgate_runs_account", "account", "recorded_at"),
    Index("ix_enrollgate_runs_course_host", "course_host", "recorded_at"),
)

# Every hold and every pause. While one is open (`active` is 1), runs in its scope are limited to
# `allowed` at a time, those not counted that were claimed before it; none, if that is 0, but for
# one probe from `probe_at` on. `subject` is the account's digest or the host; empty for the
# destination and the installation. A pause is a person's: the defaults make one.
holds = Table(
    "enrollgate_holds",
    ours,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("installation", String(63), nullable=False),
    Column("kind", String(8), nullable=False, server_default="pause"),
    Column("scope", String(16), nullable=False),
    Column("subject", String(255), nullable=False, server_default=""),
    Column("reason", String(64), nullable=False, server_default="Paused"),
    Column("message", Text),
    Column("remedy", Text),
    Column("opened_at", INSTANT, nullable=False, server_default=FetchedValue()),
    Column("opened_by", String(255), nullable=False),
    # The run whose failure opened it.
    Column("run_name", String(63)),
    # The digest of the account's cookies file at that time.
    Column("cookies_sha256", String(64)),
    Column("allowed", Integer, nullable=False, server_default="0"),
    Column("probes", Integer, nullable=False, server_default="0"),
    Column("probe_at", INSTANT),
    # When held tasks fail (a hold), or when it ends by itself (a pause).
    Column("ends_at", INSTANT),
    Column("closed_at", INSTANT),
    Column("closed_by", String(255)),
    Column("active", Integer, Computed("CASE WHEN closed_at IS NULL THEN 1 END", persisted=True)),
    UniqueConstraint(
        "installation", "kind", "scope", "subject", "active", name="uq_enrollgate_holds_active"
    ),
    Index("ix_enrollgate_holds_active", "active", "installation"),
)

# What people did with a command, and when: docs/holds.md. `action` is pause, resume, release, retry
# or cancel.
actions = Table(
    "enrollgate_actions",
    ours,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("installation", String(63), nullable=False),
    Column("acted_at", INSTANT, nullable=False, server_default=FetchedValue()),
    Column("actor", String(255), nullable=False),
    Column("action", String(16), nullable=False),
    Column("task_id", TASK_ID),
    Column("hold_id", KEY),
    Column("detail", Text),
    Index("ix_enrollgate_actions_acted", "acted_at"),
    Index("ix_enrollgate_actions_task", "task_id"),
)

# One row for each installation whose operator has worked: its limits, and a sign of life of each
# pass. `task_view` is the digest of the view that it has created last (`task_status`).
operators = Table(
    "enrollgate_operators",
    ours,
    Column("installation", String(63), primary_key=True),
    Column("version", String(64)),
    Column("launcher", String(16)),
    Column("last_pass_at", INSTANT),
    Column("pass_seconds", Double),
    Column("enrollment_timeout", Double),
    Column("max_concurrent_runs", Integer),
    Column("check_interval", Double),
    Column("started_at", INSTANT),
    Column("task_view", String(64)),
)


def is_not_set_aside(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Build the condition that a tracked task is not set aside."""
    return tracked_tasks.c.retry_at.is_(None) | (tracked_tasks.c.retry_at <= now)


def decode_text(value: object) -> str | None:
    """Return a value of Node.js's column as text, whatever the column's type; None for NULL.

    MySQL gives bytes for a VARBINARY and numbers for a TINYINT; SQLite gives a BLOB or a number in
    any column.
    """
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _AnyText(TypeDecorator[str]):
    """Text, whatever the type of Node.js's column."""

    impl = String
    cache_ok = True

    def process_result_value(
        self,
        value: object,
        dialect: Dialect,  # noqa: ARG002 -- TypeDecorator's signature
    ) -> str | None:
        """Return the value of a row as text."""
        return decode_text(value)


class _HasKey(FunctionElement[bool]):
    """The condition that a row's id is a number that our tables can hold."""

    # Not Boolean: for MySQL, which has none, SQLAlchemy would add `= 1`, which no index serves.
    type = NullType()  # type: ignore[assignment]  # see above
    inherit_cache = True


class _LacksKey(_HasKey):
    """The opposite condition, also for NULL."""

    inherit_cache = True


class _Account(FunctionElement[str]):
    """The digest of an e-mail address: `domain.account.account_sha256`."""

    type = String()
    inherit_cache = True


class _CourseHost(FunctionElement[str]):
    """The host of a course URL, in lower case; empty if there is none."""

    type = String()
    inherit_cache = True


def _compile(element: type[FunctionElement[Any]], condition: str, *dialects: str) -> None:
    def build(each: FunctionElement[Any], compiler: SQLCompiler, **options: object) -> str:
        return condition.format(compiler.process(each.clauses, **options))

    compiles(element, *dialects)(build)


# An integer column holds nothing else than numbers. The first condition must not look like a range
# of the key, which MySQL would read instead of the index on the status; the second one should.
_compile(_HasKey, "(SIGN({0}) >= 0)")
_compile(_LacksKey, "({0} < 0 OR {0} IS NULL)")
# In SQLite, a value of any type can be in any column: https://www.sqlite.org/datatype3.html
_compile(_HasKey, "(typeof({0}) = 'integer')", "sqlite")
_compile(_LacksKey, "(typeof({0}) <> 'integer')", "sqlite")
# White space around an address does not count, nor does the case: as in Python, but for the few
# letters whose lower case is another one there.
_TEXT = "CONVERT({0} USING utf8mb4)"
_LINE = f"REPLACE(REPLACE(REPLACE({_TEXT}, CHAR(9), ' '), CHAR(10), ' '), CHAR(13), ' ')"
_compile(_Account, f"COALESCE(SHA2(LOWER(TRIM({_LINE})), 256), '')")
_compile(_Account, "enrollgate_account({0})", "sqlite")
# What is between `://` and the path, the query or the fragment, without the port.
_HOST = f"SUBSTRING({_TEXT}, LOCATE('://', {_TEXT}) + 3)"
for _end in "/?#":
    _HOST = f"SUBSTRING_INDEX({_HOST}, '{_end}', 1)"
_HOST = (
    f"IF(LEFT({_HOST}, 1) = '[', SUBSTRING_INDEX(SUBSTRING({_HOST}, 2), ']', 1), "
    f"SUBSTRING_INDEX({_HOST}, ':', 1))"
)
# To the collations of most columns, `kürs` is `kurs`; to a name server it is not.
_compile(
    _CourseHost,
    f"CONVERT(COALESCE(LEFT(LOWER(TRIM(TRAILING '.' FROM TRIM({_HOST}))), 255), '') USING utf8mb4) "
    "COLLATE utf8mb4_bin",
)
_compile(_CourseHost, "enrollgate_host({0})", "sqlite")


@dataclass(frozen=True, slots=True)
class Tables:
    """The task table under this deployment's names, and what its statuses mean."""

    tasks: Table
    columns: TaskColumns
    statuses: Statuses

    @classmethod
    def named(cls, columns: TaskColumns, statuses: Statuses) -> "Tables":
        """Build the task table with these names; `table` may be `schema.table`."""
        schema, _, name = columns.table.rpartition(".")
        priority = list[Column[Any]]()
        if columns.priority is not None:
            priority.append(Column(quoted_name(columns.priority, quote=True), BigInteger))
        # Always quoted: each version of a server reserves other words.
        table = Table(
            quoted_name(name, quote=True),
            MetaData(),
            Column(quoted_name(columns.id, quote=True), BigInteger, primary_key=True),
            Column(quoted_name(columns.status, quote=True), _AnyText),
            Column(quoted_name(columns.email, quote=True), _AnyText),
            Column(quoted_name(columns.course_url, quote=True), _AnyText),
            *priority,
            schema=quoted_name(schema, quote=True) if schema else None,
        )
        return cls(table, columns, statuses)

    @property
    def id(self) -> Column[int]:
        """Return the key of the task table."""
        return self.tasks.c[self.columns.id]

    @property
    def status(self) -> Column[str]:
        """Return the status column of the task table."""
        return self.tasks.c[self.columns.status]

    @property
    def email(self) -> Column[str]:
        """Return the column of the enrolled account."""
        return self.tasks.c[self.columns.email]

    @property
    def course_url(self) -> Column[str]:
        """Return the column of the course URL."""
        return self.tasks.c[self.columns.course_url]

    def priority(self) -> ColumnElement[int] | None:
        """Return the column of the priority; None without one."""
        return self.tasks.c[self.columns.priority] if self.columns.priority else None

    def has_key(self) -> ColumnElement[bool]:
        """Build the condition: our tables can hold the row's id. A row without one is no task."""
        return _HasKey(self.id)

    def lacks_key(self) -> ColumnElement[bool]:
        """Build the condition: the row's id is NULL, negative, or in SQLite no integer."""
        return _LacksKey(self.id)

    def is_enrolled(self) -> ColumnElement[bool]:
        """Build the condition: the task is enrolled."""
        return (self.status == self.statuses.enrolled) & self.has_key()

    def is_open(self) -> ColumnElement[bool]:
        """Build the condition: the task is waiting or enrolled."""
        return self.status.in_(self.statuses.open) & self.has_key()

    def is_unknown(self) -> ColumnElement[bool]:
        """Build the condition: the status is NULL or none of the configured ones."""
        return self.status.is_(None) | self.status.not_in(self.statuses.known)

    def is_finished(self) -> ColumnElement[bool]:
        """Build the condition: the task is completed or failed."""
        return self.status.in_((self.statuses.completed, self.statuses.failed))

    def account_name(self) -> ColumnElement[str]:
        """Build the row's account without its spelling: cheaper than its digest, to group by."""
        return func.lower(func.trim(self.email), type_=String)

    def account(self) -> ColumnElement[str]:
        """Build the digest of the row's account. Rows of one account have one cookies file."""
        return _Account(self.email)

    def course_host(self) -> ColumnElement[str]:
        """Build the host of the row's course URL."""
        return _CourseHost(self.course_url)

    def content_sha256(self) -> ColumnElement[str]:
        """Build the SHA-256 of the row's content: its e-mail and its course URL, byte by byte.

        No collation has a part in it: upper case, trailing spaces and NULL all make a difference.
        A column may have any type, so it is cast to its bytes first.
        """
        digests = [
            func.coalesce(func.sha2(cast(column, LargeBinary), 256, type_=String), "NULL")
            for column in (self.email, self.course_url)
        ]
        return func.sha2(digests[0] + digests[1], 256, type_=String)

    def configured_status(self, status: ColumnElement[str]) -> Case[str | None]:
        """Return the configured status that the database holds equal to this one, else NULL.

        The database compares, never Python: under a case-insensitive collation `ENROLLED` *is*
        `enrolled`.
        """
        return case(
            *((status == known, literal(known)) for known in self.statuses.known), else_=None
        )
