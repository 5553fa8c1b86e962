"""`doctor` and the start of the operator decide alike, and rightly, on real tables and servers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from operator import methodcaller
from pathlib import Path

import pytest
from sqlalchemy import make_url
from tests.conftest import server_in_a_folder
from tests.databases import start_mariadb
from tests.databases.server import execute, fresh_database, limited_user
from tests.world import COURSE, World

from enrollgate.commands.status import load_overview, render, to_json
from enrollgate.database import (
    Database,
    DatabaseMisconfigured,
    Tables,
    migrate,
    open_database,
)
from enrollgate.database.preflight import check_database, require_usable
from enrollgate.domain.check import Check, Severity
from enrollgate.domain.task import Statuses, TaskColumns

COLUMNS = "id INT PRIMARY KEY, status VARCHAR(32), email VARCHAR(255), course_url VARCHAR(1024)"
NUMBERS = Statuses(("1", "2", "3"), "4", "5", "6")


@contextmanager
def opened(
    url: str, *statements: str, columns: TaskColumns | None = None, statuses: Statuses | None = None
) -> Iterator[tuple[Database, Tables]]:
    """Open the database, run the statements, and migrate."""
    tables = Tables.named(columns or TaskColumns(), statuses or Statuses())
    with closing(open_database(make_url(url))) as database:
        for statement in statements:
            database.run_in_transaction(methodcaller("exec_driver_sql", statement))
        migrate(database)
        yield database, tables


def checks(database: Database, tables: Tables) -> dict[str, Check]:
    """Run every check, and make sure that the start decides as they do."""
    found = list(check_database(database, tables))
    failures = [check for check in found if check.severity is Severity.FAILED]
    if failures:
        with pytest.raises(DatabaseMisconfigured) as refusal:
            require_usable(database, tables)
        for check in failures:
            assert check.detail in str(refusal.value) and check.remedy in str(refusal.value)
            assert check.remedy, check
    else:
        warnings = require_usable(database, tables)
        assert warnings == [check for check in found if check.severity is Severity.WARNING]
    return {check.name: check for check in found}


def build_world(database_url: str, tables: Tables) -> World:
    world = World(database_url, create=False)
    world.tables = tables
    world.restart()
    return world


def test_integer_status_with_numbers_in_the_settings_works(server_database_url: str) -> None:
    table = f"CREATE TABLE download_tasks ({COLUMNS.replace('VARCHAR(32)', 'TINYINT')})"
    rows = (
        "INSERT INTO download_tasks VALUES "
        f"(1, 4, 'a@example.com', '{COURSE}'), (2, 1, 'b@example.com', '{COURSE}'), "
        "(3, 0, 'c@example.com', ''), (4, NULL, 'd@example.com', '')"
    )
    with opened(server_database_url, table, rows, statuses=NUMBERS) as (database, tables):
        found = checks(database, tables)
        assert found["status column"].severity is Severity.OK
        assert "without a meaning: NULL, '0'" in found["statuses found"].detail
        with closing(build_world(server_database_url, tables)) as world:
            world.reconcile()
            assert world.launcher.live == ["test-1-1"]
            overview = load_overview(database, tables, "test")
            assert list(render(overview, tables))
            assert {each["status"] for each in to_json(overview)["tasks"]} == {"0", "1", "4", None}
            world.launcher.succeed("test-1-1")
            world.reconcile()
            world.clock.advance(300)
            world.reconcile()
            assert [str(world.status(task)) for task in (1, 2, 3, 4)] == ["5", "6", "0", "None"]


def test_integer_status_with_words_in_the_settings_is_refused(database_url: str) -> None:
    """To MySQL, 'pending' equals 0."""
    table = f"CREATE TABLE download_tasks ({COLUMNS.replace('VARCHAR(32)', 'TINYINT')})"
    with opened(database_url, table) as (database, tables):
        check = checks(database, tables)["status column"]
        assert check.severity is Severity.FAILED
        assert "it is " in check.detail and "cannot hold 'pending', 'paid'" in check.detail
        assert check.remedy == "name its numbers in ENROLLGATE_STATUS_*"


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        ("TINYINT", Statuses(("1",), "2", "3", "128")),
        ("TINYINT UNSIGNED", Statuses(("-1",), "2", "3", "4")),
        ("SMALLINT", Statuses(("01",), "2", "3", "4")),
        ("TINYINT", Statuses(("1.0",), "2", "3", "4")),
    ],
)
def test_number_that_the_status_column_cannot_hold_is_refused(
    server_database_url: str, kind: str, statuses: Statuses
) -> None:
    table = f"CREATE TABLE download_tasks ({COLUMNS.replace('VARCHAR(32)', kind)})"
    with opened(server_database_url, table, statuses=statuses) as (database, tables):
        assert checks(database, tables)["status column"].severity is Severity.FAILED


def test_status_with_an_address_or_a_newline_is_not_shown(database_url: str) -> None:
    """The operator logs the warnings when it starts."""
    with closing(World(database_url)) as world:
        world.add("asked by ada@example.com")
        world.add("odd\nENROLL CHECK task=77")
        check = checks(world.database, world.tables)["statuses found"]
        assert check.severity is Severity.WARNING and "odd" in check.detail
        assert "ada" not in check.detail and "\n" not in check.detail


CAPITALS = "'PENDING', 'PAID', 'PROCESSING', 'ENROLLED', 'COMPLETED', 'FAILED'"


@pytest.mark.parametrize("by_table", [False, True], ids=["column", "table"])
def test_enum_in_capitals_under_a_binary_collation_names_the_statuses(
    server_database_url: str, by_table: bool
) -> None:
    kind = f"ENUM({CAPITALS})" + ("" if by_table else " COLLATE utf8mb4_bin")
    table = f"CREATE TABLE download_tasks ({COLUMNS.replace('VARCHAR(32)', kind)})"
    table += " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if by_table else ""
    with opened(server_database_url, table) as (database, tables):
        check = checks(database, tables)["status column"]
        assert check.severity is Severity.FAILED
        assert "ENUM without 'pending', 'paid', 'processing', 'enrolled'" in check.detail
        assert "utf8mb4_bin tells upper case from lower case" in check.detail
        assert "it has: 'PENDING', 'PAID'" in check.remedy


def test_enum_in_capitals_under_another_collation_works(server_database_url: str) -> None:
    kind = f"ENUM({CAPITALS}) COLLATE utf8mb4_general_ci"
    table = f"CREATE TABLE download_tasks ({COLUMNS.replace('VARCHAR(32)', kind)})"
    row = f"INSERT INTO download_tasks VALUES (1, 'ENROLLED', 'a@example.com', '{COURSE}')"
    with opened(server_database_url, table, row) as (database, tables):
        assert checks(database, tables)["status column"].severity is Severity.OK
        with closing(build_world(server_database_url, tables)) as world:
            world.reconcile()
            world.launcher.succeed("test-1-1")
            world.reconcile()
            assert world.status(1) == "COMPLETED"


@pytest.mark.parametrize(
    ("values", "severity"),
    [
        ("'pending','paid','processing','enrolled','completed'", Severity.FAILED),
        ("'pending','paid','processing','enrolled','failed'", Severity.FAILED),
        ("'pending','paid','processing','completed','failed'", Severity.FAILED),
        ("'pending','enrolled','completed','failed','it''s odd'", Severity.WARNING),
    ],
)
def test_enum_that_lacks_a_status_is_named(
    server_database_url: str, values: str, severity: Severity
) -> None:
    table = f"CREATE TABLE download_tasks ({COLUMNS.replace('VARCHAR(32)', f'ENUM({values})')})"
    with opened(server_database_url, table) as (database, tables):
        check = checks(database, tables)["status column"]
        assert check.severity is severity and "it is an ENUM without" in check.detail


@pytest.mark.parametrize(
    ("length", "severity"),
    [(7, Severity.FAILED), (8, Severity.FAILED), (9, Severity.WARNING), (10, Severity.OK)],
)
def test_status_column_too_short_for_a_status_is_named(
    server_database_url: str, length: int, severity: Severity
) -> None:
    table = f"CREATE TABLE download_tasks ({COLUMNS.replace('32', str(length))})"
    with opened(server_database_url, table) as (database, tables):
        assert checks(database, tables)["status column"].severity is severity


def test_generated_status_column_is_refused_with_the_remedy(database_url: str) -> None:
    columns = COLUMNS.replace(
        "status VARCHAR(32)",
        "state VARCHAR(32), status VARCHAR(32) GENERATED ALWAYS AS (lower(state)) STORED",
    )
    with opened(database_url, f"CREATE TABLE download_tasks ({columns})") as (database, tables):
        check = checks(database, tables)["status column"]
        assert check.severity is Severity.FAILED and "generated column" in check.detail
        assert "ENROLLGATE_STATUS_COLUMN" in check.remedy


def test_default_expression_is_no_generated_column(server_database_url: str) -> None:
    columns = COLUMNS.replace("VARCHAR(32)", "VARCHAR(32) DEFAULT (LOWER('PENDING'))")
    with opened(server_database_url, f"CREATE TABLE download_tasks ({columns})") as (database, it):
        assert checks(database, it)["status column"].severity is Severity.OK


@pytest.mark.parametrize(
    "names",
    [
        TaskColumns("library", "rank", "order", "group", "desc"),
        TaskColumns("my-tasks", "select", "from-where", "e`mail", "100%"),
        TaskColumns("Übersicht", "id", "zustand", "e-mail", "url(1)"),
    ],
)
def test_reserved_and_odd_names_work(database_url: str, names: TaskColumns) -> None:
    with closing(open_database(make_url(database_url))) as database:
        quote = database.engine.dialect.identifier_preparer.quote_identifier
    kinds = ("INTEGER PRIMARY KEY", "VARCHAR(32)", "VARCHAR(255)", "VARCHAR(1024)")
    columns = (names.id, names.status, names.email, names.course_url)
    listed = ", ".join(f"{quote(name)} {kind}" for name, kind in zip(columns, kinds, strict=True))
    # PyMySQL reads %% as %, as long as a statement has no parameters it reads it as it is.
    statements = (
        f"CREATE TABLE {quote(names.table)} ({listed})",
        f"INSERT INTO {quote(names.table)} VALUES (1, 'enrolled', 'a@example.com', '{COURSE}'), "
        f"(2, 'pending', 'a@example.com', '{COURSE}')",
    )
    with opened(database_url, *statements, columns=names) as (database, tables):
        found = checks(database, tables)
        assert {each.severity for each in found.values()} <= {Severity.OK, Severity.WARNING}
        database.run_in_transaction(
            methodcaller("exec_driver_sql", found["index on status"].remedy.partition(": ")[2])
        )
        assert checks(database, tables)["index on status"].severity is Severity.OK
        with closing(build_world(database_url, tables)) as world:
            world.reconcile()
            world.launcher.succeed("test-1-1")
            world.clock.advance(300)
            world.reconcile()
            rows = f"SELECT {quote(names.status)} FROM {quote(names.table)} ORDER BY 1"
            with database.read_transaction() as connection:
                assert list(connection.exec_driver_sql(rows).scalars()) == ["completed", "failed"]


@pytest.mark.parametrize("charset", ["latin1", "utf8mb3", "ascii"])
@pytest.mark.parametrize("server", ["mariadb", "mysql"])
def test_database_of_another_character_set_works(
    request: pytest.FixtureRequest, server: str, charset: str
) -> None:
    server_url = request.getfixturevalue(f"{server}_server_url")
    with fresh_database(server_url) as url:
        execute(server_url, f"ALTER DATABASE {make_url(url).database} CHARACTER SET {charset}")
        with closing(World(url)) as world:
            good, late = world.add("enrolled"), world.add("processing")
            odd = world.add("odd")
            world.reconcile()
            world.launcher.succeed(f"test-{good}-1")
            world.clock.advance(300)
            world.reconcile()
            found = checks(world.database, world.tables)
            assert all(each.severity is not Severity.FAILED for each in found.values())
            statuses = [world.status(task) for task in (good, late, odd)]
            assert statuses == ["completed", "failed", "odd"]
            ours = (
                "SELECT DISTINCT character_set_name FROM information_schema.columns WHERE "
                "table_schema = DATABASE() AND table_name IN ('enrollgate_tasks', "
                "'enrollgate_runs') AND character_set_name IS NOT NULL"
            )
            with world.database.read_transaction() as connection:
                assert list(connection.exec_driver_sql(ours).scalars()) == ["utf8mb4"]


def test_status_beyond_the_columns_character_set_is_refused(server_database_url: str) -> None:
    statuses = Statuses(("chờ",), "đã xong", "completed", "failed")
    table = f"CREATE TABLE download_tasks ({COLUMNS}) CHARACTER SET latin1"
    with opened(server_database_url, table, statuses=statuses) as (database, tables):
        found = checks(database, tables)
        assert any(each.severity is Severity.FAILED for each in found.values())


def test_table_without_transactions_is_refused(server_database_url: str) -> None:
    table = f"CREATE TABLE download_tasks ({COLUMNS}) ENGINE=MyISAM"
    with opened(server_database_url, table) as (database, tables):
        check = checks(database, tables)["task table"]
        assert check.severity is Severity.FAILED and "MyISAM has no transactions" in check.detail
        database.run_in_transaction(methodcaller("exec_driver_sql", check.remedy))
        assert checks(database, tables)["task table"].severity is Severity.OK


def own_tables(name: str | None) -> tuple[str, ...]:
    return tuple(
        f"SELECT, INSERT, UPDATE, DELETE ON {name}.enrollgate_{table}"
        for table in ("tasks", "runs", "holds", "actions", "operators", "schema_version")
    )


def test_view_works_without_the_privilege_to_see_its_definition(server_database_url: str) -> None:
    name = make_url(server_database_url).database
    view = "CREATE VIEW download_tasks AS SELECT * FROM rows_of_node"
    with opened(server_database_url, f"CREATE TABLE rows_of_node ({COLUMNS})", view):
        granted = (f"SELECT, UPDATE (status) ON {name}.download_tasks", *own_tables(name))
        with (
            limited_user(server_database_url, *granted) as url,
            closing(open_database(url)) as database,
        ):
            found = checks(database, Tables.named(TaskColumns(), Statuses()))
            assert {each.severity for each in found.values()} == {Severity.OK}, found


@pytest.mark.parametrize(
    "query",
    [
        "SELECT DISTINCT * FROM rows_of_node",
        "SELECT id, UPPER(status) status, email, course_url FROM rows_of_node",
    ],
    ids=["view", "column"],
)
def test_view_that_is_not_updatable_is_refused(server_database_url: str, query: str) -> None:
    table, view = f"CREATE TABLE rows_of_node ({COLUMNS})", f"CREATE VIEW download_tasks AS {query}"
    with opened(server_database_url, table, view) as (database, tables):
        check = checks(database, tables)["privileges"]
        assert check.severity is Severity.FAILED and "updatable" in check.detail
        assert "ENROLLGATE_TASK_TABLE" in check.remedy


def test_column_level_grants_are_enough(server_database_url: str) -> None:
    name = make_url(server_database_url).database
    with closing(World(server_database_url)) as world:
        columns = "SELECT (id, status, email, course_url), UPDATE (status)"
        granted = (f"{columns} ON {name}.download_tasks", *own_tables(name))
        with (
            limited_user(server_database_url, *granted) as url,
            closing(open_database(url, clock=world.clock)) as database,
        ):
            found = checks(database, world.tables)
            assert all(each.severity is not Severity.FAILED for each in found.values()), found
            world.check_work(database)


@pytest.mark.parametrize(
    ("granted", "remedy"),
    [
        ("SELECT (id, status, course_url), UPDATE (status)", "grant the user SELECT on it"),
        ("SELECT (id, status, email, course_url)", "grant the user UPDATE"),
    ],
)
def test_missing_column_privilege_is_named(
    server_database_url: str, granted: str, remedy: str
) -> None:
    name = make_url(server_database_url).database
    with closing(World(server_database_url)) as world:
        with (
            limited_user(
                server_database_url, f"{granted} ON {name}.download_tasks", *own_tables(name)
            ) as url,
            closing(open_database(url)) as database,
        ):
            found = checks(database, world.tables)
            assert remedy in "; ".join(
                each.remedy for each in found.values() if each.severity is Severity.FAILED
            )


@pytest.mark.parametrize("server", ["mariadb", "mysql"])
def test_defaults_for_people_do_not_matter(request: pytest.FixtureRequest, server: str) -> None:
    """For example `sql_safe_updates`, which refuses an UPDATE without a key."""
    server_url = request.getfixturevalue(f"{server}_server_url")
    options = ("sql_safe_updates", "sql_select_limit", "sql_big_selects", "max_join_size")
    with fresh_database(server_url) as url, closing(World(url)) as world:
        tasks = [world.add("processing") for _ in range(4)]
        good = world.add("enrolled")
        try:
            execute(
                server_url,
                *(
                    f"SET GLOBAL {option} = {value}"
                    for option, value in zip(options, (1, 2, 0, 1), strict=True)
                ),
            )
            with closing(open_database(make_url(url), clock=world.clock)) as database:
                checks(database, world.tables)
                operator = world.new_operator(database)
                operator.reconcile()
                world.clock.advance(300)
                world.launcher.succeed(f"test-{good}-1")
                operator.reconcile()
        finally:
            execute(server_url, *(f"SET GLOBAL {option} = DEFAULT" for option in options))
        assert {world.status(task) for task in tasks} == {"failed"}
        assert world.status(good) == "completed"


def test_binary_log_of_statements_is_refused_with_the_remedy() -> None:
    with server_in_a_folder(
        "ENROLLGATE_TEST_MARIADB_URL",
        lambda folder: start_mariadb(folder, "--log-bin=binlog", "--binlog-format=STATEMENT"),
    ) as server:
        with fresh_database(server.url("")) as url:
            with closing(open_database(make_url(url))) as database:
                tables = Tables.named(TaskColumns(), Statuses())
                execute(url, f"CREATE TABLE {make_url(url).database}.download_tasks ({COLUMNS})")
                found = {each.name: each for each in check_database(database, tables)}
                assert found["binary log"].severity is Severity.FAILED
                assert "ROW or MIXED" in found["binary log"].remedy
                with pytest.raises(DatabaseMisconfigured, match="binlog_format to ROW or MIXED"):
                    require_usable(database, tables)
                with pytest.raises(DatabaseMisconfigured, match="1665.*binlog_format to ROW"):
                    migrate(database)
                    database.run_in_transaction(
                        methodcaller(
                            "exec_driver_sql",
                            "INSERT INTO download_tasks (id, status) VALUES (1, 'x')",
                        )
                    )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (f"CREATE TABLE download_tasks ({COLUMNS.replace(' PRIMARY KEY', '')})", "the id 1"),
        (f"CREATE TABLE download_tasks ({COLUMNS.replace('VARCHAR(32)', 'TINYINT')})", "TINYINT"),
        (
            f"CREATE TABLE download_tasks ({COLUMNS.replace('VARCHAR(32)', f'ENUM({CAPITALS})')})"
            " COLLATE utf8mb4_bin",
            "ENUM without 'pending'",
        ),
    ],
    ids=["two rows of one id", "numbers", "capitals"],
)
def test_both_commands_end_with_the_same_words(
    mariadb_url: str, tmp_path: Path, table: str, words: str
) -> None:
    two = "INSERT INTO download_tasks (id) VALUES (1), (1)"
    with opened(mariadb_url, table, *([] if "PRIMARY KEY" in table else [two])):
        settings = {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "ENROLLGATE_DATABASE_URL": mariadb_url,
            "ENROLLGATE_WORK_DIR": str(tmp_path / "work"),
            "ENROLLGATE_DESTINATION": f"directory:{tmp_path / 'courses'}",
        }
        others = {key: text for key, text in os.environ.items() if not key.startswith("ENROLL")}
        for command, exit_code in (("doctor", 1), ("run", 2)):
            done = subprocess.run(
                [sys.executable, "-m", "enrollgate", command],
                env=others | settings,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == exit_code, done
            assert words in done.stdout + done.stderr and "Traceback" not in done.stderr, done
