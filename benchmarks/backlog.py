"""Large backlogs, made by the database itself."""

from collections.abc import Callable
from contextlib import closing
from time import perf_counter

from sqlalchemy import Connection, make_url, text
from tests.databases.schema import create_tasks_table
from tests.world import MemoryLauncher

from enrollgate.control.reconciler import Reconciler
from enrollgate.database import Database, Tables, migrate, open_database
from enrollgate.domain.policy import Policy
from enrollgate.domain.task import Statuses, TaskColumns

TABLES = Tables.named(TaskColumns(), Statuses())
_SEQUENCE = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "


def execute(database: Database, *statements: str) -> None:
    def run(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    database.run_in_transaction(run)


def fill(
    database: Database, rows: int, waiting: int, *, index: bool, status: str = "processing"
) -> None:
    """A table of so many rows, so many of them waiting, spread evenly; the others completed."""
    every = rows // waiting
    word = f"CASE WHEN i % {every} = 0 THEN '{status}' ELSE 'completed' END"
    columns = "INSERT INTO download_tasks (id, status, email, course_url) "
    values = (
        f"SELECT i, {word}, 'account@example.com', 'https://courses.example.com/course/1' FROM n"
    )
    execute(database, "DROP TABLE IF EXISTS download_tasks")
    execute(database, create_tasks_table(is_sqlite=database.is_sqlite))
    if database.is_sqlite:
        execute(database, _SEQUENCE.format(rows=rows) + columns + values)
    else:
        execute(
            database,
            columns + values.replace("FROM n", f"FROM (SELECT seq AS i FROM seq_1_to_{rows}) AS n"),
        )
    if index:
        execute(database, "CREATE INDEX ix_status ON download_tasks (status)")
    migrate(database)
    execute(database, "DELETE FROM enrollgate_tasks", "DELETE FROM enrollgate_runs")
    if not database.is_sqlite:
        execute(database, "ANALYZE TABLE download_tasks")


def operator(
    database: Database, *, runs: int = 10, launcher: MemoryLauncher | None = None
) -> Reconciler:
    """An operator with a timeout that no task reaches while it is measured."""
    policy = Policy(enrollment_timeout=86_400, max_concurrent_runs=runs)
    return Reconciler(database, TABLES, launcher or MemoryLauncher(), policy, installation="bench")


def opened(url: str) -> "closing[Database]":
    return closing(open_database(make_url(url)))


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    start = perf_counter()
    action()
    return (perf_counter() - start) * 1000
