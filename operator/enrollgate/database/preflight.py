"""What `doctor` checks in the database, and what must be right before the operator starts.

Both run the same checks: the operator starts exactly if none of them fails. Nothing here changes a
row.
"""

import re
from collections.abc import Iterator
from functools import partial

from sqlalchemy import Connection, delete, false, func, insert, literal, select, text, update

from enrollgate.common.redaction import redact
from enrollgate.database.engine import Database, require_file
from enrollgate.database.errors import DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.database.migrate import current, head, is_newer
from enrollgate.database.queries import count_by_status
from enrollgate.database.tables import Tables, holds, operators, runs, tracked_tasks
from enrollgate.database.task_status import VIEW, find_view_problem
from enrollgate.database.task_table import Column, TaskTable, describe_task_table
from enrollgate.domain.check import Check, Severity, failed, ok, warning

_OLDEST = {"mysql": (8, 4), "mariadb": (10, 11)}
# How many ids a check names, at most.
_IDS = 3


def check_database(database: Database, tables: Tables) -> Iterator[Check]:
    """Yield every check of the database; the first failure explains the later ones."""
    try:
        require_file(database.engine.url)
        yield from _check_all(database, tables)
    except (DatabaseUnavailable, DatabaseMisconfigured) as error:
        remedy = "see the message; ENROLLGATE_DATABASE_URL says which database is meant"
        yield failed("database", error.problem, error.remedy or remedy)


def require_usable(database: Database, tables: Tables) -> list[Check]:
    """Check that the operator can work with this database. Return the warnings.

    Raises DatabaseMisconfigured if it cannot, DatabaseUnavailable if the database is away.
    """
    checks = list(_check_all(database, tables))
    problems = [check for check in checks if check.severity is Severity.FAILED]
    if problems:
        raise DatabaseMisconfigured(
            "\n".join(f"{check.detail}: {check.remedy}" for check in problems)
        )
    return [check for check in checks if check.severity is Severity.WARNING]


def check_task_table(database: Database, tables: Tables) -> Iterator[Check]:
    """Yield the checks of Node.js's table alone.

    Raises DatabaseUnavailable or DatabaseMisconfigured.
    """
    require_file(database.engine.url)
    with database.read_transaction() as connection:
        table = describe_task_table(connection, tables)
    name, columns = tables.columns.table, tables.columns
    if table is None:
        remedy = (
            "let Node.js create it, name the right one in ENROLLGATE_TASK_TABLE, or grant the user "
            f"SELECT and UPDATE ({columns.status}) on the one that it may not see"
        )
        yield failed("task table", f"there is no table {name}", remedy)
        return
    if not table.has_transactions:
        remedy = f"ALTER TABLE {_quoted(database, name)} ENGINE=InnoDB"
        yield failed("task table", f"{name}: its engine {table.engine} has no transactions", remedy)
    else:
        yield ok("task table", name)
    wanted = {
        "ENROLLGATE_ID_COLUMN": columns.id,
        "ENROLLGATE_STATUS_COLUMN": columns.status,
        "ENROLLGATE_EMAIL_COLUMN": columns.email,
        "ENROLLGATE_COURSE_URL_COLUMN": columns.course_url,
    }
    if columns.priority is not None:
        wanted["ENROLLGATE_PRIORITY_COLUMN"] = columns.priority
    missing = {
        variable: column
        for variable, column in wanted.items()
        if column.lower() not in table.columns
    }
    for variable, column in missing.items():
        have = ", ".join(each.name for each in table.columns.values())
        remedy = f"name it in {variable}, or grant the user SELECT on it; the table has: {have}"
        yield failed("columns", f"{name} has no column {column}", remedy)
    if missing:
        return
    yield ok("columns", ", ".join(wanted.values()))
    yield from _check_ids(database, tables, table)
    yield _check_status_column(tables, table.columns[columns.status.lower()])
    if table.has_index(columns.status):
        yield ok("index on status", "there is one")
    elif table.engine is None and not database.is_sqlite:
        yield ok("index on status", f"{name} is a view: its tables have the indexes")
    else:
        names = _quoted(database, name), _quoted(database, columns.status)
        remedy = f"with many rows, add one: CREATE INDEX ix_status ON {names[0]} ({names[1]})"
        yield warning(
            "index on status",
            "there is none: each look at the gate reads the whole table, so it looks less often",
            remedy,
        )


def check_view(database: Database, tables: Tables, installation: str) -> Check:
    """Check that Node.js can read the view of its tasks. The operator works without it.

    Raises DatabaseUnavailable.
    """
    if problem := find_view_problem(database, tables, installation):
        return warning("task view", problem.problem, problem.remedy)
    return ok("task view", VIEW)


def _check_all(database: Database, tables: Tables) -> Iterator[Check]:
    database.now(on_primary=True)
    yield _check_server(database)
    yield (migration := _check_migration(database))
    structure = list(check_task_table(database, tables))
    yield from structure
    if all(check.severity is not Severity.FAILED for check in (migration, *structure)):
        yield (privileges := _check_privileges(database, tables))
        if privileges.severity is not Severity.FAILED:
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


def _quoted(database: Database, name: str) -> str:
    """Return the name of a table or column as it is written in SQL."""
    quote = database.engine.dialect.identifier_preparer.quote_identifier
    return ".".join(quote(part) for part in name.split("."))


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
            "the tables enrollgate_tasks, enrollgate_runs and enrollgate_operators do not exist",
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


def _check_ids(database: Database, tables: Tables, table: TaskTable) -> Iterator[Check]:
    """Check that the ids are integers that our tables hold, and that each is there once."""
    column = table.columns[tables.columns.id.lower()]
    if not column.is_integer:
        # MySQL would convert any other type, and mix up tasks.
        remedy = "name the table's integer key in ENROLLGATE_ID_COLUMN"
        yield failed("id column", f"{column.name} is {column.type}, not an integer", remedy)
        return
    key, several = tables.id, func.count() > 1
    twice = select(key).where(tables.has_key()).group_by(key).having(several).limit(_IDS)
    without = select(func.count()).select_from(tables.tasks).where(tables.lacks_key())
    with database.read_transaction() as connection:
        # A look at all rows, where no key makes it needless.
        is_unique = table.is_unique(column.name)
        ids = [] if is_unique else list(connection.scalars(twice))
        others = connection.scalar(without) or 0
    if ids:
        problem = f"several rows have the {column.name} {', '.join(map(str, ids))}"
        remedy = "give each row its own, and add a PRIMARY KEY, or name it in ENROLLGATE_ID_COLUMN"
        yield failed("id column", problem, remedy)
    elif others:
        problem = (
            f"{others} rows have no whole number from 0 on as {column.name}, and are left alone"
        )
        yield warning("id column", problem, f"give them one; make {column.name} the PRIMARY KEY")
    elif not is_unique and (table.engine is not None or database.is_sqlite):
        problem = f"{column.name} is {column.type}, and no key keeps it unique"
        remedy = "make it the PRIMARY KEY, or add a UNIQUE index: rows that share an id fail"
        yield warning("id column", problem, remedy)
    else:
        yield ok("id column", column.type)


def _check_status_column(tables: Tables, column: Column) -> Check:
    """Check that the column can hold the statuses, and that they mean the same to it."""
    statuses, kind = tables.statuses, column.type
    if column.is_generated:
        remedy = "name the column that it is computed from in ENROLLGATE_STATUS_COLUMN"
        return failed("status column", f"{column.name} is a generated column, read-only", remedy)
    if not (column.is_integer or column.is_text or column.values):
        problem = f"it is {kind}, which is neither text nor a whole number"
        return failed("status column", problem, "make it a VARCHAR or an ENUM")
    absent = [status for status in statuses.known if not column.can_hold(status)]
    if absent:
        problem = f"it is {kind}, which cannot hold {', '.join(map(repr, absent))}"
        remedy = f"widen it to {max(map(len, absent))} characters or more"
        if column.is_integer:
            # A comparison would convert the text: to MySQL, 'pending' equals 0.
            remedy = "name its numbers in ENROLLGATE_STATUS_*"
        elif column.values:
            problem = f"it is an ENUM without {', '.join(map(repr, absent))}"
            if column.is_case_sensitive:
                problem += f"; {column.collation} tells upper case from lower case"
            values = ", ".join(map(repr, column.values[:20]))
            remedy = f"name its values in ENROLLGATE_STATUS_*, or add the status; it has: {values}"
        # Node.js may have no use for a waiting status.
        is_needed = column.is_integer or not set(absent) <= set(statuses.waiting)
        return (failed if is_needed else warning)("status column", problem, remedy)
    if column.values:
        return ok("status column", "an ENUM with every status")
    if column.collation and not column.is_case_sensitive:
        kind += f" (collation {column.collation}: upper and lower case are the same to it)"
    return ok("status column", kind)


def _check_privileges(database: Database, tables: Tables) -> Check:
    """Try each kind of statement on no row: the server checks the privilege nevertheless."""
    nothing, now, empty = false(), func.current_timestamp(), literal("")
    seen = select(tables.id, now, tables.status).where(nothing)
    claimed = select(tables.id, literal(0), empty, empty, empty, now).where(nothing)
    opened = select(runs.c.installation, empty, empty).where(nothing)
    statements = (
        select(*tables.tasks.c).where(nothing),
        update(tables.tasks).where(nothing).values({tables.status: tables.statuses.failed}),
        insert(tracked_tasks).from_select(["task_id", "first_seen_at", "last_seen_status"], seen),
        update(tracked_tasks).where(nothing).values(last_seen_status=""),
        insert(runs).from_select(
            ["task_id", "run_number", "name", "installation", "state", "claimed_at"], claimed
        ),
        update(runs).where(nothing).values(state=""),
        insert(operators).from_select(["installation"], select(runs.c.installation).where(nothing)),
        update(operators).where(nothing).values(version=""),
        select(*holds.c).where(nothing),
        insert(holds).from_select(["installation", "scope", "opened_by"], opened),
        update(holds).where(nothing).values(allowed=0),
        delete(holds).where(nothing),
        delete(tracked_tasks).where(nothing),
        delete(runs).where(nothing),
    )
    try:
        for statement in statements:
            database.run_in_transaction(partial(Connection.execute, statement=statement))
    except DatabaseMisconfigured as error:
        return failed("privileges", error.problem, error.remedy)
    return ok("privileges", "may read tasks, write their status, and keep runs")


def _check_statuses(database: Database, tables: Tables) -> Check:
    counts = count_by_status(database, tables)
    found = [
        f"{'NULL' if each.status is None else redact(each.status) or repr('')}: {each.tasks}"
        for each in counts.listed
    ]
    if counts.others:
        found.append(f"{counts.tasks_of_others} with {counts.others} other statuses")
    all_found = ", ".join(found) or "no rows yet"
    unknown = [
        "NULL" if each.status is None else f"'{redact(each.status)}'"
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
