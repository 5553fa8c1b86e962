"""The accounts in docs/operations.md can do all that they must, exactly as they are written."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import URL, make_url
from tests.databases import schema
from tests.databases.server import execute
from tests.repository import REPOSITORY
from tests.world import COURSE, World

from enrollgate.database import Database, DatabaseMisconfigured, Tables, migrate, open_database
from enrollgate.database.preflight import require_usable
from enrollgate.database.task_status import ensure_view
from enrollgate.domain.task import Statuses, TaskColumns


def documented_blocks() -> list[list[str]]:
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    section = page.split("\n## Database accounts\n")[1].split("\n## ")[0]
    return [
        [each.strip() for each in block.split(";") if each.strip()]
        for block in re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    ]


@contextmanager
def courses_database(server_url: str) -> Iterator[URL]:
    """Create the database that the page names, with Node.js's table, and drop everything after."""
    table = schema.create_tasks_table(is_sqlite=False).replace(
        "download_tasks", "courses.download_tasks"
    )
    execute(server_url, "CREATE DATABASE courses", table)
    try:
        yield make_url(server_url).set(database="courses")
    finally:
        execute(
            server_url,
            "DROP DATABASE courses",
            "DROP USER IF EXISTS 'enrollgate'@'%', 'enrollgate_migrate'@'%'",
        )


def migrate_all(database: Database) -> None:
    """Migrate as `enrollgate migrate` does."""
    migrate(database)
    tables = Tables.named(TaskColumns(), Statuses())
    assert ensure_view(database, tables, "test") is None


def operate(administrator: URL, operator: URL) -> None:
    """Let an operator with this account bring a task to each of its ends."""
    with (
        closing(World(administrator.render_as_string(hide_password=False), create=False)) as world,
        closing(open_database(operator, clock=world.clock)) as database,
    ):
        require_usable(database, world.tables)
        reconciler = world.new_operator(database)
        good, failing, late, odd, gone = (
            world.add(status) for status in ("enrolled", "enrolled", "paid", "paid", "enrolled")
        )
        replaced = world.add("enrolled")
        reconciler.reconcile()
        world.launcher.succeed(f"test-{good}-1")
        world.launcher.fail(f"test-{failing}-1")
        world.set(odd, "odd")
        world.delete(gone)
        world.sql(
            "UPDATE download_tasks SET course_url = :url WHERE id = :id",
            url=f"{COURSE}/2",
            id=replaced,
        )
        for _ in range(4):
            reconciler.reconcile()
            world.clock.advance(100)
        statuses = [world.status(task) for task in (good, failing, late, odd)]
        assert statuses == ["completed", "failed", "failed", "failed"]
        assert world.launcher.live == [f"test-{replaced}-2"]


@pytest.mark.parametrize("server", ["mariadb", "mysql"])
def test_one_documented_account_migrates_and_operates(
    request: pytest.FixtureRequest, server: str
) -> None:
    server_url = request.getfixturevalue(f"{server}_server_url")
    one, _, _ = documented_blocks()
    with courses_database(server_url) as administrator:
        execute(server_url, *one)
        url = administrator.set(username="enrollgate", password="change-me")
        with closing(open_database(url)) as database:
            migrate_all(database)
        operate(administrator, url)


@pytest.mark.parametrize("server", ["mariadb", "mysql"])
def test_two_documented_accounts_share_the_work(
    request: pytest.FixtureRequest, server: str
) -> None:
    server_url = request.getfixturevalue(f"{server}_server_url")
    _, migrating, operating = documented_blocks()
    with courses_database(server_url) as administrator:
        execute(server_url, *migrating)
        url = administrator.set(username="enrollgate_migrate", password="change-me")
        with closing(open_database(url)) as database:
            migrate_all(database)
        execute(server_url, *operating)
        url = administrator.set(username="enrollgate", password="change-me")
        with closing(open_database(url)) as database:
            sql = "ALTER TABLE enrollgate_runs ADD COLUMN x INT"
            with pytest.raises(DatabaseMisconfigured, match="grant the user ALTER on"):
                database.run_in_transaction(lambda connection: connection.exec_driver_sql(sql))
        operate(administrator, url)
