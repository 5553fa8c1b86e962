"""Large backlogs for the benchmarks, created by the database itself."""

from collections.abc import Callable
from contextlib import closing
from time import perf_counter

import structlog
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
    """Run the statements in one transaction."""

    def run(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    database.run_in_transaction(run)


def create_backlog(
    database: Database, rows: int, waiting: int, *, index: bool, status: str = "processing"
) -> None:
    """Create the task table again, with `rows` rows, and empty the operator's own tables.

    `waiting` rows have `status`, spread evenly. All others are completed. With `index` the status
    column has an index.
    """
    step = rows // waiting
    row_status = f"CASE WHEN i % {step} = 0 THEN '{status}' ELSE 'completed' END"
    columns = "INSERT INTO download_tasks (id, status, email, course_url) "
    values = (
        f"SELECT i, {row_status}, 'account@example.com', "
        "'https://courses.example.com/course/1' FROM n"
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


def build_reconciler(
    database: Database, *, runs: int = 10, launcher: MemoryLauncher | None = None
) -> Reconciler:
    """Build a reconciler whose enrollment timeout (one day) ends after the benchmark."""
    policy = Policy(enrollment_timeout=86_400, max_concurrent_runs=runs)
    return Reconciler(database, TABLES, launcher or MemoryLauncher(), policy, installation="bench")


def connect(url: str) -> "closing[Database]":
    """Open the database. It is closed at the end of the `with` block."""
    return closing(open_database(make_url(url)))


def measure_ms(action: Callable[[], object]) -> float:
    """Return the wall time of one call, in milliseconds."""
    start = perf_counter()
    action()
    return (perf_counter() - start) * 1000


def discard_logs() -> None:
    """Drop all log lines of this process, so that a benchmark does not measure the terminal."""
    structlog.configure(processors=[_drop])


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent
