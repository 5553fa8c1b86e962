"""What `doctor` checks in the database, and what must be right before the operator starts.

Nothing here changes a row.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import (
    BINARY,
    VARBINARY,
    Connection,
    Enum,
    Integer,
    LargeBinary,
    String,
    delete,
    false,
    func,
    insert,
    inspect,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.exc import NoSuchTableError

from enrollgate.database.engine import Database, DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.database.migrate import current, head, is_newer
from enrollgate.database.queries import count_by_status
from enrollgate.database.tables import Tables, runs, tracked_tasks
from enrollgate.domain.check import Check, Severity, failed, ok, warning

_OLDEST = {"mysql": (8, 4), "mariadb": (10, 11)}


def check_database(database: Database, tables: Tables) -> Iterator[Check]:
    """Yield every check of the database; the first failure explains the later ones."""
    try:
        if database.is_sqlite and not Path(database.place).exists():
            # To connect would create it.
            remedy = "`enrollgate migrate` creates it; else correct ENROLLGATE_DATABASE_URL"
            yield failed("database", f"there is no SQLite file {database.place}", remedy)
            return
        yield _check_server(database)
        yield _check_migration(database)
        structure = list(_check_structure(database, tables))
        yield from structure
        if all(check.severity is not Severity.FAILED for check in structure):
            yield _check_privileges(database, tables)
            yield _check_statuses(database, tables)
        if not database.is_sqlite:
            with database.read_transaction() as connection:
                settings = text("SELECT @@log_bin, @@binlog_format")
                enabled, log_format = connection.execute(settings).one()
            if enabled and str(log_format).upper() == "STATEMENT":
                remedy = "set binlog_format to ROW or MIXED: READ COMMITTED needs one of them"
                yield failed("binary log", "its format is STATEMENT", remedy)
            else:
                yield ok("binary log", f"format {log_format}" if enabled else "off")
    except (DatabaseUnavailable, DatabaseMisconfigured) as error:
        yield failed(
            "database",
            str(error),
            "see the message; ENROLLGATE_DATABASE_URL says which database is meant",
        )


def require_usable(database: Database, tables: Tables) -> None:
    """Check that the operator can work with this database.

    Raises DatabaseMisconfigured if it cannot, DatabaseUnavailable if the database is away.
    """
    database.now()
    problems = [
        check
        for check in (
            _check_migration(database),
            *_check_structure(database, tables),
            _check_privileges(database, tables),
        )
        if check.severity is Severity.FAILED
    ]
    if problems:
        raise DatabaseMisconfigured(
            "\n".join(f"{check.detail}: {check.remedy}" for check in problems)
        )


def _check_server(database: Database) -> Check:
    with database.read_transaction() as connection:
        if database.is_sqlite:
            version = connection.execute(text("SELECT sqlite_version()")).scalar_one()
            return ok(
                "database",
                f"{database.place}: SQLite {version}, embedded: one machine, one operator",
            )
        version = str(connection.execute(text("SELECT VERSION()")).scalar_one())
    kind = "mariadb" if "mariadb" in version.lower() else "mysql"
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST[kind]:
        oldest = ".".join(map(str, _OLDEST[kind]))
        return warning(
            "database",
            f"{database.place}: {kind} {version} is older than what is tested",
            f"upgrade to {oldest} or newer",
        )
    return ok("database", f"{database.place}: {kind} {version}")


def _check_migration(database: Database) -> Check:
    revision, newest = current(database), head()
    if revision is None:
        return failed(
            "our tables",
            "the tables enrollgate_tasks and enrollgate_runs do not exist",
            "run `enrollgate migrate`",
        )
    if is_newer(revision):
        return ok(
            "our tables",
            f"revision {revision}, of a newer version, which has only added to {newest}",
        )
    if revision != newest:
        return failed(
            "our tables",
            f"at revision {revision}, this program needs {newest}",
            "run `enrollgate migrate`",
        )
    return ok("our tables", f"revision {revision}")


def _check_structure(database: Database, tables: Tables) -> Iterator[Check]:
    columns, name = tables.columns, tables.columns.table
    with database.read_transaction() as connection:
        inspector = inspect(connection)
        try:
            found = {
                column["name"]: column
                for column in inspector.get_columns(tables.tasks.name, tables.tasks.schema)
            }
        except NoSuchTableError:
            remedy = "let Node.js create it, or name the right one in ENROLLGATE_TASK_TABLE"
            yield failed("task table", f"there is no table {name}", remedy)
            return
        yield ok("task table", name)
        wanted = {
            "ENROLLGATE_ID_COLUMN": columns.id,
            "ENROLLGATE_STATUS_COLUMN": columns.status,
            "ENROLLGATE_EMAIL_COLUMN": columns.email,
            "ENROLLGATE_COURSE_URL_COLUMN": columns.course_url,
        }
        missing = {variable: column for variable, column in wanted.items() if column not in found}
        for variable, column in missing.items():
            have = ", ".join(found)
            yield failed(
                "columns",
                f"{name} has no column {column}",
                f"name it in {variable}; the table has: {have}",
            )
        if missing:
            return
        yield ok("columns", ", ".join(wanted.values()))
        # Our tables hold the key as an integer: MySQL would convert any other type, and mix up
        # tasks.
        if isinstance(key_type := found[columns.id]["type"], Integer):
            yield ok("id column", str(key_type))
        else:
            remedy = "name the table's integer key in ENROLLGATE_ID_COLUMN"
            yield failed("id column", f"{columns.id} is {key_type}, not an integer", remedy)
        yield _check_status_type(tables, found[columns.status]["type"])
        indexes = inspector.get_indexes(tables.tasks.name, tables.tasks.schema)
        if any(index["column_names"][:1] == [columns.status] for index in indexes):
            yield ok("index on status", "there is one")
        else:
            remedy = f"with many rows, add one: CREATE INDEX ix_status ON {name} ({columns.status})"
            problem = "there is none: every pass reads the whole table"
            yield warning("index on status", problem, remedy)


def _check_status_type(tables: Tables, kind: object) -> Check:
    if isinstance(kind, Enum):
        values = {value.lower() for value in kind.enums}
        absent = [each for each in tables.statuses.known if each.lower() not in values]
        written = (tables.statuses.completed, tables.statuses.failed)
        needed = [each for each in written if each in absent]
        if needed:
            return failed(
                "status column",
                f"it is an ENUM without {', '.join(map(repr, needed))}, "
                "which Enrollgate must write",
                "add the status to the ENUM, or name yours in ENROLLGATE_STATUS_COMPLETED and "
                "ENROLLGATE_STATUS_FAILED",
            )
        if absent:
            problem = f"it is an ENUM without {', '.join(map(repr, absent))}"
            return warning("status column", problem, "nothing, if meant")
        return ok("status column", "an ENUM with every status")
    if isinstance(kind, LargeBinary | BINARY | VARBINARY):
        return failed(
            "status column", f"it is {kind}, which is not text", "make it a VARCHAR or an ENUM"
        )
    longest = max(len(status) for status in (tables.statuses.completed, tables.statuses.failed))
    if isinstance(kind, String) and kind.length is not None and kind.length < longest:
        return failed(
            "status column",
            f"it holds {kind.length} characters only",
            f"widen it to {longest} or more",
        )
    detail = str(kind)
    if isinstance(kind, String) and (collation := kind.collation) and collation.endswith("_ci"):
        detail += f" (collation {collation}: upper and lower case are the same to it)"
    return ok("status column", detail)


def _check_privileges(database: Database, tables: Tables) -> Check:
    """Try each kind of statement on no row: the server checks the privilege nevertheless."""
    nothing, now, empty = false(), func.current_timestamp(), literal("")
    seen = select(tables.id, now, tables.status).where(nothing)
    claimed = select(tables.id, literal(0), empty, empty, empty, now).where(nothing)
    statements = (
        select(tables.id, tables.email, tables.course_url).where(nothing),
        update(tables.tasks).where(nothing).values({tables.status: tables.statuses.failed}),
        insert(tracked_tasks).from_select(["task_id", "first_seen_at", "last_seen_status"], seen),
        update(tracked_tasks).where(nothing).values(last_seen_status=""),
        insert(runs).from_select(
            ["task_id", "run_number", "name", "installation", "state", "claimed_at"], claimed
        ),
        update(runs).where(nothing).values(state=""),
        delete(tracked_tasks).where(nothing),
    )
    try:
        for statement in statements:
            database.run_in_transaction(partial(Connection.execute, statement=statement))
    except (DatabaseMisconfigured, DatabaseUnavailable) as error:
        remedy = (
            f"grant SELECT and UPDATE on {tables.columns.table}, and all privileges on enrollgate_*"
        )
        return failed("privileges", str(error), remedy)
    return ok("privileges", "may read tasks, write their status, and keep runs")


def _check_statuses(database: Database, tables: Tables) -> Check:
    counts = count_by_status(database, tables)
    found = [
        f"{'NULL' if each.status is None else each.status or repr('')}: {each.tasks}"
        for each in counts.listed
    ]
    if counts.others:
        found.append(f"{counts.tasks_of_others} with {counts.others} other statuses")
    all_found = ", ".join(found) or "no rows yet"
    unknown = [
        "NULL" if each.status is None else repr(each.status)
        for each in counts.listed
        if each.configured_status is None
    ]
    if unknown:
        remedy = (
            "rows with these are left alone; if they have a meaning, "
            "name them in ENROLLGATE_STATUS_WAITING"
        )
        return warning(
            "statuses found", f"{all_found}; without a meaning: {', '.join(unknown)}", remedy
        )
    return ok("statuses found", all_found)
