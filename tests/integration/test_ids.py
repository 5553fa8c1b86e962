"""Ids of every kind work, or are refused at the start; none is cut to another number."""

from contextlib import closing
from operator import methodcaller

import pytest
from sqlalchemy import make_url
from tests.world import COURSE, World

from enrollgate.database import (
    Database,
    DatabaseMisconfigured,
    Tables,
    migrate,
    open_database,
)
from enrollgate.database.backlog import load_backlog
from enrollgate.database.preflight import check_database, require_usable
from enrollgate.domain.check import Check, Severity
from enrollgate.domain.task import Statuses, TaskColumns

COLUMNS = "status VARCHAR(32), email VARCHAR(255), course_url VARCHAR(1024)"
TABLES = Tables.named(TaskColumns(), Statuses())


def create(url: str, key: str, *rows: str) -> None:
    with closing(open_database(make_url(url))) as database:
        for statement in (f"CREATE TABLE download_tasks ({key}, {COLUMNS})", *map(insert, rows)):
            database.run_in_transaction(methodcaller("exec_driver_sql", statement))
        migrate(database)


def insert(row: str) -> str:
    """Return the statement that inserts `id status`."""
    number, status = row.split()
    values = f"({number}, '{status}', 'a@example.com', '{COURSE}/{status}')"
    return f"INSERT INTO download_tasks (id, status, email, course_url) VALUES {values}"


def id_check(database: Database) -> Check:
    return next(each for each in check_database(database, TABLES) if each.name == "id column")


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**63 + 5, 2**64 - 6, 2**64 - 1])
def test_id_from_2_to_63_on_runs_and_times_out(server_database_url: str, number: int) -> None:
    create(server_database_url, "id BIGINT UNSIGNED PRIMARY KEY")
    with closing(World(server_database_url, create=False)) as world:
        require_usable(world.database, world.tables)
        world.sql(insert(f"{number} enrolled"))
        world.sql(insert(f"{number - 1} processing"))
        world.reconcile()
        assert world.launcher.live == [f"test-{number}-1"]
        world.launcher.succeed(f"test-{number}-1")
        world.reconcile()
        world.clock.advance(300)
        world.reconcile()
        assert (world.status(number), world.status(number - 1)) == ("completed", "failed")
        assert [run.task_id for run in world.runs()] == [number - 1, number]
        assert load_backlog(world.database, world.tables, installation="test").left == 0


def test_snowflake_id_works(database_url: str) -> None:
    number = 1234567890123456789
    create(database_url, "id BIGINT PRIMARY KEY", f"{number} enrolled", f"{number + 1} processing")
    with closing(World(database_url, create=False)) as world:
        require_usable(world.database, world.tables)
        world.reconcile()
        assert world.launcher.live == [f"test-{number}-1"]
        world.clock.advance(300)
        world.launcher.succeed(f"test-{number}-1")
        world.reconcile()
        assert (world.status(number), world.status(number + 1)) == ("completed", "failed")


@pytest.mark.parametrize(
    "kind", ["CHAR(36)", "VARCHAR(20)", "DECIMAL(20,0)", "BINARY(16)", "FLOAT"]
)
def test_id_that_is_no_integer_is_refused_with_the_remedy(
    server_database_url: str, kind: str
) -> None:
    create(server_database_url, f"id {kind} PRIMARY KEY")
    with closing(open_database(make_url(server_database_url))) as database:
        with pytest.raises(DatabaseMisconfigured, match="not an integer.*ENROLLGATE_ID_COLUMN"):
            require_usable(database, TABLES)
        assert id_check(database).severity is Severity.FAILED


def test_mariadb_uuid_as_id_is_refused(mariadb_url: str) -> None:
    create(mariadb_url, "id UUID PRIMARY KEY")
    with closing(open_database(make_url(mariadb_url))) as database:
        assert id_check(database).severity is Severity.FAILED


def test_two_rows_of_one_id_are_refused_at_the_start(database_url: str) -> None:
    create(database_url, "id INT", "1 enrolled", "1 enrolled", "2 enrolled")
    with closing(open_database(make_url(database_url))) as database:
        message = "several rows have the id 1: give each row its own"
        with pytest.raises(DatabaseMisconfigured, match=message):
            require_usable(database, TABLES)
        assert id_check(database).severity is Severity.FAILED


def test_id_that_no_key_keeps_unique_works_with_a_warning(database_url: str) -> None:
    create(database_url, "id INT", "1 enrolled", "2 enrolled")
    with closing(World(database_url, create=False)) as world:
        require_usable(world.database, world.tables)
        check = id_check(world.database)
        assert check.severity is Severity.WARNING and "no key keeps it unique" in check.detail
        world.reconcile()
        assert world.launcher.live == ["test-1-1", "test-2-1"]


@pytest.mark.parametrize("status", ["enrolled", "pending", "completed", "odd"])
def test_second_row_of_an_id_fails_that_task_alone(database_url: str, status: str) -> None:
    create(database_url, "id INT")
    with closing(World(database_url, create=False)) as world:
        for row in ("1 enrolled", f"1 {status}", "2 enrolled"):
            world.sql(insert(row))
        for _ in range(6):
            world.reconcile()
            world.clock.advance(10)
        assert world.launcher.live == ["test-2-1"]
        runs = world.runs(1)
        assert {run.reason for run in runs} == {"InvalidTask"} and len(runs) <= 2
        assert "several rows have the id 1" in str(runs[0].message)
        world.launcher.succeed("test-2-1")
        world.reconcile()
        assert world.status(2) == "completed"


@pytest.mark.parametrize("number", ["NULL", "-5"])
def test_row_without_a_usable_id_is_left_alone_and_counted(
    server_database_url: str, number: str
) -> None:
    create(server_database_url, "id INT UNIQUE")
    with closing(World(server_database_url, create=False)) as world:
        for row in (f"{number} enrolled", f"{number.replace('5', '6')} processing", "1 enrolled"):
            world.sql(insert(row))
        assert id_check(world.database).severity is Severity.WARNING
        assert "2 rows have no whole number" in id_check(world.database).detail
        for _ in range(3):
            world.reconcile()
            world.clock.advance(150)
        assert world.launcher.live == ["test-1-1"]
        assert {run.task_id for run in world.runs()} == {1}
        seen = load_backlog(world.database, world.tables, installation="test")
        assert (seen.without_key, seen.new, seen.left) == (2, {}, 0)


def test_any_value_as_id_in_sqlite_is_left_alone_and_counted(sqlite_url: str) -> None:
    create(sqlite_url, "id INT PRIMARY KEY")
    with closing(World(sqlite_url, create=False)) as world:
        for number in ("NULL", "'abc'", "1.5", "18446744073709551610", "x'00'", "-5", "7"):
            world.sql(insert(f"{number} enrolled"))
        assert "5 rows have no whole number" in id_check(world.database).detail
        world.reconcile()
        assert sorted(world.launcher.live) == ["test--5-1", "test-7-1"]
        assert load_backlog(world.database, world.tables, installation="test").without_key == 5
