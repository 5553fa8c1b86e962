"""Unusable databases: each error names the problem and the remedy, and no task is lost."""

import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from operator import methodcaller

import pytest
from pymysql.err import OperationalError as PyMySQLOperationalError
from sqlalchemy import insert, inspect, make_url
from sqlalchemy.exc import OperationalError as SqlOperationalError
from tests.databases.server import limited_user
from tests.world import COURSE, World

from enrollgate.database import (
    Database,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    Tables,
    migrate,
    open_database,
)
from enrollgate.database.errors import translated
from enrollgate.database.migrate import current, head
from enrollgate.database.preflight import check_database, require_usable
from enrollgate.database.tables import runs
from enrollgate.domain.check import Severity
from enrollgate.domain.task import Statuses, TaskColumns
from enrollgate.telemetry.logging import configure_logging

EMAIL = "ada@example.com"
TABLES = Tables.named(TaskColumns(), Statuses())


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(open_database(make_url(database_url))) as opened:
        yield opened


def create_tasks(database: Database, columns: str) -> None:
    database.run_in_transaction(
        lambda connection: connection.exec_driver_sql(f"CREATE TABLE download_tasks ({columns})")
    )


def check_results(database: Database) -> dict[str, tuple[Severity, str]]:
    return {
        check.name: (check.severity, f"{check.detail}: {check.remedy}")
        for check in check_database(database, TABLES)
    }


GOOD = "id INTEGER PRIMARY KEY, status VARCHAR(32), email VARCHAR(255), course_url VARCHAR(2048)"


def test_migration_when_repeated_changes_nothing(database: Database) -> None:
    assert current(database) is None
    assert migrate(database) == (None, head())
    assert migrate(database) == (head(), head())
    assert current(database) == head()


MIGRATE = """
import sys
from sqlalchemy import make_url
from enrollgate.database import migrate, open_database
database = open_database(make_url(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(migrate(database)[1])
"""


def test_many_migrations_at_once_all_succeed(database_url: str) -> None:
    """In processes of their own: Alembic is not made for threads."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", MIGRATE, database_url],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            )
            for _ in range(6)
        ]
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate()[0] for process in processes] == [f"{head()}\n"] * 6
    with closing(open_database(make_url(database_url))) as database:
        assert current(database) == head()


@pytest.mark.parametrize(
    "undone",
    [
        ("DROP TABLE enrollgate_runs",),
        (
            "DROP TABLE enrollgate_runs",
            "DROP INDEX ix_enrollgate_tasks_status_seen ON enrollgate_tasks",
        ),
        ("DROP INDEX ix_enrollgate_runs_finished ON enrollgate_runs",),
        (),
    ],
    ids=[
        "before the second table",
        "before the first index",
        "before the last index",
        "before the revision",
    ],
)
def test_interrupted_migration_is_finished_by_the_next_one(
    database: Database, undone: tuple[str, ...]
) -> None:
    migrate(database)
    whole = structure(database)
    for statement in ("DELETE FROM enrollgate_schema_version", *undone):
        sql = statement.partition(" ON ")[0] if database.is_sqlite else statement
        database.run_in_transaction(methodcaller("exec_driver_sql", sql))
    assert migrate(database) == (None, head())
    assert structure(database) == whole


def structure(database: Database) -> dict[str, object]:
    with database.read_transaction() as connection:
        inspector = inspect(connection)
        return {
            table: (
                [column["name"] for column in inspector.get_columns(table)],
                sorted(str(index["name"]) for index in inspector.get_indexes(table)),
                sorted(str(key["name"]) for key in inspector.get_unique_constraints(table)),
            )
            for table in ("enrollgate_tasks", "enrollgate_runs")
        }


def test_database_without_migration_is_refused_with_the_remedy(database: Database) -> None:
    create_tasks(database, GOOD)
    with pytest.raises(DatabaseMisconfigured, match="run `enrollgate migrate`"):
        require_usable(database, TABLES)


def test_missing_table_is_named_with_the_remedy(database: Database) -> None:
    migrate(database)
    with pytest.raises(
        DatabaseMisconfigured, match="there is no table download_tasks: let Node.js create it"
    ):
        require_usable(database, TABLES)


def test_table_dropped_during_work_is_an_error_with_a_remedy(
    database_url: str,
) -> None:
    with closing(World(database_url)) as world:
        world.sql("DROP TABLE download_tasks")
        with pytest.raises(DatabaseMisconfigured, match="let Node.js create the task table"):
            world.reconcile()


def test_missing_column_is_named_with_the_remedy(database: Database) -> None:
    create_tasks(
        database, "id INTEGER PRIMARY KEY, status VARCHAR(32), mail VARCHAR(255), course_url TEXT"
    )
    migrate(database)
    message = (
        "has no column email: name it in ENROLLGATE_EMAIL_COLUMN, or grant the user SELECT on it; "
        "the table has: id, status, mail"
    )
    with pytest.raises(DatabaseMisconfigured, match=message):
        require_usable(database, TABLES)


def test_good_database_passes_every_check(database: Database) -> None:
    create_tasks(database, GOOD)
    migrate(database)
    require_usable(database, TABLES)
    found = check_results(database)
    assert {severity for severity, _ in found.values()} <= {Severity.OK, Severity.WARNING}
    assert "CREATE INDEX" in found["index on status"][1]
    database.run_in_transaction(
        lambda connection: connection.exec_driver_sql("CREATE INDEX ix ON download_tasks (status)")
    )
    database.run_in_transaction(
        lambda connection: connection.exec_driver_sql(
            "INSERT INTO download_tasks (id, status) VALUES (1, 'odd')"
        )
    )
    found = check_results(database)
    assert found["index on status"][0] is Severity.OK
    assert found["statuses found"][0] is Severity.WARNING and "'odd'" in found["statuses found"][1]


def test_tables_of_a_newer_version_are_accepted_after_a_rollback(
    database: Database,
) -> None:
    """The newer version only added to the tables; the older one does not know its revision."""
    create_tasks(database, GOOD)
    migrate(database)
    sql = "UPDATE enrollgate_schema_version SET version_num = '9999'"
    database.run_in_transaction(lambda connection: connection.exec_driver_sql(sql))
    assert migrate(database) == ("9999", "9999")
    require_usable(database, TABLES)
    severity, detail = check_results(database)["our tables"]
    assert (
        severity is Severity.OK
        and f"revision 9999, of a newer version, which has only added to {head()}" in detail
    )


def test_many_different_statuses_are_summarized_by_the_doctor(database: Database) -> None:
    create_tasks(database, GOOD)
    migrate(database)
    rows = ", ".join(f"({number}, 'odd{number}')" for number in range(1, 101))
    for values in (rows, "(101, ''), (102, ''), (103, NULL), (104, NULL)", "(105, 'enrolled')"):
        sql = f"INSERT INTO download_tasks (id, status) VALUES {values}"
        database.run_in_transaction(methodcaller("exec_driver_sql", sql))
    detail = check_results(database)["statuses found"][1]
    assert "enrolled: 1" in detail and "NULL: 2" in detail and "'': 2" in detail
    assert "82 with 82 other statuses" in detail and detail.count("'odd") == 18


@pytest.mark.parametrize(
    "kind", ["VARCHAR(36)", "CHAR(36)", "DECIMAL(20,2)", "DOUBLE", "VARBINARY(16)"]
)
def test_key_that_is_not_an_integer_is_refused(server_database_url: str, kind: str) -> None:
    with closing(open_database(make_url(server_database_url))) as database:
        create_tasks(database, GOOD.replace("id INTEGER", f"id {kind}"))
        migrate(database)
        message = (
            r"id is [A-Z].*, not an integer: name the table's integer key in ENROLLGATE_ID_COLUMN"
        )
        with pytest.raises(DatabaseMisconfigured, match=message):
            require_usable(database, TABLES)
        assert check_results(database)["id column"][0] is Severity.FAILED


@pytest.mark.parametrize(
    "kind", ["TINYINT", "SMALLINT", "MEDIUMINT", "INT UNSIGNED", "BIGINT", "BIGINT UNSIGNED"]
)
def test_every_integer_type_is_accepted_as_key(server_database_url: str, kind: str) -> None:
    with closing(open_database(make_url(server_database_url))) as database:
        create_tasks(database, GOOD.replace("id INTEGER", f"id {kind}"))
        migrate(database)
        require_usable(database, TABLES)


def test_text_key_in_sqlite_is_refused(sqlite_url: str) -> None:
    with closing(open_database(make_url(sqlite_url))) as database:
        create_tasks(database, GOOD.replace("id INTEGER", "id TEXT"))
        migrate(database)
        with pytest.raises(DatabaseMisconfigured, match="id is TEXT, not an integer"):
            require_usable(database, TABLES)


@pytest.mark.parametrize("kind", ["VARBINARY(32)", "BLOB"])
def test_status_column_that_is_not_text_is_refused(server_database_url: str, kind: str) -> None:
    with closing(open_database(make_url(server_database_url))) as database:
        create_tasks(database, GOOD.replace("status VARCHAR(32)", f"status {kind}"))
        migrate(database)
        with pytest.raises(
            DatabaseMisconfigured,
            match="neither text nor a whole number: make it a VARCHAR or an ENUM",
        ):
            require_usable(database, TABLES)


def test_enum_status_column_without_our_statuses_is_refused(server_database_url: str) -> None:
    with closing(open_database(make_url(server_database_url))) as database:
        create_tasks(
            database,
            GOOD.replace("status VARCHAR(32)", "status ENUM('pending','enrolled','completed')"),
        )
        migrate(database)
        with pytest.raises(
            DatabaseMisconfigured, match="ENUM without 'paid', 'processing', 'failed'"
        ):
            require_usable(database, TABLES)


def test_enum_status_column_with_every_status_is_accepted(server_database_url: str) -> None:
    with closing(World(server_database_url)) as world:
        values = ",".join(f"'{status}'" for status in world.statuses.known)
        world.sql(f"ALTER TABLE download_tasks MODIFY status ENUM({values}) NOT NULL")
        require_usable(world.database, world.tables)
        late, good = world.add("processing"), world.add("enrolled")
        world.reconcile()
        world.launcher.succeed(f"test-{good}-1")
        world.clock.advance(300)
        world.reconcile()
        assert (world.status(late), world.status(good)) == ("failed", "completed")


def test_status_column_too_short_for_our_statuses_is_refused(server_database_url: str) -> None:
    with closing(open_database(make_url(server_database_url))) as database:
        create_tasks(database, GOOD.replace("VARCHAR(32)", "VARCHAR(8)"))
        migrate(database)
        with pytest.raises(
            DatabaseMisconfigured,
            match=r"VARCHAR\(8\), which cannot hold .*: widen it to 10 characters or more",
        ):
            require_usable(database, TABLES)


def test_wrong_password_is_reported_without_the_password(server_database_url: str) -> None:
    url = make_url(server_database_url).set(password="hunter2")
    with closing(open_database(url)) as database:
        with pytest.raises(
            DatabaseMisconfigured, match="check the user name and the password"
        ) as caught:
            database.now()
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "password", ["p\u00e4ss", "p\u20acss", "\u043f\u0430\u0440\u043e\u043b\u044c"]
)
def test_password_in_any_alphabet_is_accepted(server_database_url: str, password: str) -> None:
    all_of_it = f"ALL ON {make_url(server_database_url).database}.*"
    with (
        limited_user(server_database_url, all_of_it, password=password) as url,
        closing(open_database(url)) as database,
    ):
        assert migrate(database) == (None, head())


def test_user_that_may_not_log_in_from_this_host_is_misconfigured(
    server_database_url: str,
) -> None:
    with (
        limited_user(server_database_url, host="10.9.9.9") as url,
        closing(open_database(url)) as database,
    ):
        with pytest.raises(DatabaseMisconfigured):
            database.now()


@pytest.mark.parametrize("code", [1130, 1698, 1820, 1862, 2059, 3118])
def test_refused_login_is_misconfigured(code: int) -> None:
    with pytest.raises(DatabaseMisconfigured, match=f"MySQL error {code}"), translated():
        raise SqlOperationalError("CONNECT", None, PyMySQLOperationalError(code, "no"))


def test_unknown_database_is_reported_with_the_remedy(server_database_url: str) -> None:
    with closing(open_database(make_url(server_database_url).set(database="nowhere"))) as database:
        with pytest.raises(DatabaseMisconfigured, match="create the database, or correct its name"):
            database.now()


def test_server_that_is_away_is_unavailable_not_misconfigured() -> None:
    with closing(open_database(make_url("mysql+pymysql://u:p@127.0.0.1:1/d"))) as database:
        with pytest.raises(DatabaseUnavailable, match="127.0.0.1"):
            database.now()


def test_read_only_user_is_refused_before_the_first_pass(server_database_url: str) -> None:
    granted = f"SELECT ON {make_url(server_database_url).database}.*"
    with (
        closing(World(server_database_url)),
        limited_user(server_database_url, granted) as url,
    ):
        with closing(open_database(url)) as limited:
            with pytest.raises(
                DatabaseMisconfigured, match="grant the user UPDATE on .*download_tasks"
            ):
                require_usable(limited, TABLES)


@pytest.mark.parametrize(
    ("table", "privileges", "missing"),
    [
        ("enrollgate_tasks", "SELECT, UPDATE, DELETE", "INSERT"),
        ("enrollgate_tasks", "SELECT, INSERT, DELETE", "UPDATE"),
        ("enrollgate_tasks", "SELECT, INSERT, UPDATE", "DELETE"),
        ("enrollgate_runs", "SELECT, UPDATE, DELETE", "INSERT"),
        ("enrollgate_runs", "SELECT, INSERT, DELETE", "UPDATE"),
        ("enrollgate_runs", "SELECT, INSERT, UPDATE", "DELETE"),
        ("download_tasks", "SELECT", "UPDATE"),
    ],
)
def test_missing_privilege_is_found_before_the_first_pass(
    server_database_url: str, table: str, privileges: str, missing: str
) -> None:
    everything = {
        "download_tasks": "SELECT, UPDATE",
        "enrollgate_tasks": "SELECT, INSERT, UPDATE, DELETE",
        "enrollgate_runs": "SELECT, INSERT, UPDATE, DELETE",
        "enrollgate_holds": "SELECT, INSERT, UPDATE, DELETE",
        "enrollgate_actions": "SELECT, INSERT, UPDATE, DELETE",
        "enrollgate_operators": "SELECT, INSERT, UPDATE",
        "enrollgate_schema_version": "SELECT",
    }
    name = make_url(server_database_url).database
    granted = [
        f"{some} ON {name}.{each}" for each, some in (everything | {table: privileges}).items()
    ]
    with (
        closing(World(server_database_url)),
        limited_user(server_database_url, *granted) as url,
    ):
        with closing(open_database(url)) as limited:
            with pytest.raises(
                DatabaseMisconfigured,
                match=f"{missing} command denied .*: grant the user {missing} on .*{table} ",
            ):
                require_usable(limited, TABLES)


def test_user_with_the_documented_privileges_can_do_everything(
    server_database_url: str,
) -> None:
    """The privileges in docs/operations.md. The MySQL user logs in by caching_sha2_password."""
    name = make_url(server_database_url).database
    granted = (
        f"SELECT, UPDATE (status) ON {name}.download_tasks",
        f"SELECT, INSERT, UPDATE, DELETE ON {name}.enrollgate_tasks",
        f"SELECT, INSERT, UPDATE, DELETE ON {name}.enrollgate_runs",
        f"SELECT, INSERT, UPDATE, DELETE ON {name}.enrollgate_holds",
        f"SELECT, INSERT, UPDATE, DELETE ON {name}.enrollgate_actions",
        f"SELECT, INSERT, UPDATE ON {name}.enrollgate_operators",
        f"SELECT ON {name}.enrollgate_schema_version",
    )
    with (
        closing(World(server_database_url)) as world,
        limited_user(server_database_url, *granted) as url,
        closing(open_database(url, clock=world.clock)) as limited,
    ):
        require_usable(limited, world.tables)
        world.check_work(limited)


@pytest.fixture
def real_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Write the log to standard error as `enrollgate run` does, at level debug."""
    # Not pytest's own capture: its stream of the setup phase is closed when the test runs.
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for module, hook in (
        (sys, "excepthook"),
        (threading, "excepthook"),
        (logging, "raiseExceptions"),
    ):
        monkeypatch.setattr(module, hook, getattr(module, hook))
    configure_logging("json", "debug")
    yield stderr
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_email_never_reaches_a_message_or_the_log(database_url: str, real_log: io.StringIO) -> None:
    """Each way that a task can end."""
    with closing(World(database_url)) as world:
        bad = world.add("enrolled", EMAIL, f"https://{EMAIL}:secret@host.example/?token=secret")
        nobody = world.add("enrolled", None)
        good, failing, gone = (
            world.add("enrolled", EMAIL, f"{COURSE}?user={EMAIL}") for _ in range(3)
        )
        late, odd = world.add("processing", EMAIL), world.add("processing", EMAIL)
        left_alone = world.add(f"asked by {EMAIL}", EMAIL)
        world.reconcile()
        world.launcher.succeed(f"test-{good}-1")
        world.launcher.fail(f"test-{failing}-1")
        world.set(odd, f"refund {EMAIL}"[:32])
        world.delete(gone)
        for _ in range(3):
            world.reconcile()
            world.clock.advance(150)
        world.sql("DROP TABLE download_tasks")
        with pytest.raises(DatabaseMisconfigured):
            world.reconcile()
        log = real_log.getvalue()
        reasons = {run.task_id: run.reason for run in world.runs()}
        assert reasons[bad] == "InvalidCourseUrl" and reasons[nobody] == "InvalidTask"
        assert (reasons[late], reasons[odd], reasons[gone]) == (
            "EnrollmentTimeout",
            "UnexpectedStatus",
            "TaskNotFound",
        )
        for task in (bad, nobody, good, failing, gone, late, odd):
            assert f"ENROLL CHECK task={task} " in log, f"task {task} is not in the log at all"
        assert "Logging error" not in log
        assert "rows with an unknown status are left alone" in log and left_alone
        for text in (log, *(str(run) for run in world.runs())):
            assert "ada" not in text and "example.com" not in text.replace(
                "courses.example.com", ""
            ), text
            assert "secret" not in text


def test_statement_error_shows_none_of_its_values(sqlite_url: str) -> None:
    with closing(World(sqlite_url)) as world:
        broken = insert(runs).values(
            task_id=1, run_number=1, name="ada@example", claimed_at="hunter2"
        )
        with pytest.raises(DatabaseUnavailable) as caught:
            world.database.run_in_transaction(lambda connection: connection.execute(broken))
        assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"
