"""How MySQL and MariaDB read a table of a million rows when the gate is looked at."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import event, make_url, text
from tests.databases.schema import create_tasks_table
from tests.databases.server import fresh_database

from enrollgate.database import Database, Tables, claims, migrate, open_database
from enrollgate.domain.run import RunPlace
from enrollgate.domain.task import Statuses, TaskColumns

pytestmark = pytest.mark.slow
TABLES = Tables.named(TaskColumns(), Statuses())
DIGITS = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
# Every tenth row waits, every tenth is completed, every hundredth is enrolled.
ROWS = f"""
INSERT INTO download_tasks (id, status, email, course_url)
SELECT i, CASE WHEN i % 10 = 0 THEN 'processing' WHEN i % 10 = 1 THEN 'completed'
  WHEN i % 100 = 2 THEN 'enrolled' ELSE 'failed' END, 'a@example.com', 'https://a.example/'
FROM (SELECT 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d + 100000 * g.d AS i
  FROM ({DIGITS}) a, ({DIGITS}) b, ({DIGITS}) c, ({DIGITS}) e, ({DIGITS}) f, ({DIGITS}) g) n
ORDER BY i
"""
TRACKED = """
INSERT INTO enrollgate_tasks (task_id, first_seen_at, last_seen_status)
SELECT id, UTC_TIMESTAMP(6), status FROM download_tasks WHERE status IN ('processing', 'enrolled')
"""
RUN = """
INSERT INTO enrollgate_runs (task_id, run_number, name, installation, state, claimed_at)
SELECT id, 1, CONCAT('test-', id, '-1'), 'test', '{state}', UTC_TIMESTAMP(6) FROM download_tasks
WHERE status = '{status}' ORDER BY id LIMIT {limit}
"""
LIVE = 50


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def full(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A million rows: 100,000 wait, 100,000 are completed, 10,000 are enrolled, 50 of them run."""
    server: str = request.getfixturevalue(f"{request.param}_server_url")
    with fresh_database(server) as url, closing(open_database(make_url(url))) as database:
        for statement in (
            create_tasks_table(is_sqlite=False),
            ROWS,
            "CREATE INDEX ix_status ON download_tasks (status)",
        ):
            run(database, statement)
        migrate(database)
        for statement in (
            TRACKED,
            RUN.format(state="finished", status="completed", limit=100_000),
            RUN.format(state="launched", status="enrolled", limit=LIVE),
            "ANALYZE TABLE download_tasks, enrollgate_tasks, enrollgate_runs",
        ):
            run(database, statement)
        yield database


def run(database: Database, statement: str) -> None:
    """Run a statement that may take longer than one of the operator's."""
    with database.engine.begin() as connection:
        connection.connection.driver_connection._read_timeout = 300  # type: ignore[union-attr]
        connection.execute(text("SET SESSION /*M!100101 max_statement_time=300, */ timestamp=0"))
        connection.execute(text(statement))


def rows_read(database: Database) -> int:
    """Return how many rows the connection of single statements has read so far."""
    with database.autocommit() as connection:
        found = connection.execute(text("SHOW SESSION STATUS LIKE 'Handler_read%'")).all()
    return sum(int(count) for _, count in found)


@pytest.mark.parametrize("limit", [1, 50])
def test_look_reads_no_more_than_the_running_and_the_found(full: Database, limit: int) -> None:
    claims.look(full, TABLES, installation="test", limit=limit)
    before = rows_read(full)
    found = claims.look(full, TABLES, installation="test", limit=limit).found
    # For each row: the index, the tracked task and the run. Some more for the count itself.
    assert rows_read(full) - before <= 3 * (LIVE + limit) + 50
    assert [task.task_id for task in found] == [2 + 100 * (LIVE + n) for n in range(limit)]


def test_question_before_a_look_reads_no_more_than_the_running(full: Database) -> None:
    claims.is_any_free(full, TABLES)
    before = rows_read(full)
    is_any, seconds = claims.is_any_free(full, TABLES)
    assert is_any and seconds > 0
    assert rows_read(full) - before <= 2 * (LIVE + 1) + 50


def test_look_reads_the_index_in_order_and_makes_no_temporary_table(full: Database) -> None:
    sent = list[tuple[str, object]]()

    def note(
        _connection: object, _cursor: object, statement: str, values: object, *_: object
    ) -> None:
        sent.append((statement, values))

    event.listen(full.autocommit_engine, "before_cursor_execute", note)
    claims.look(full, TABLES, installation="test", limit=50)
    event.remove(full.autocommit_engine, "before_cursor_execute", note)
    statement, values = sent[-1]
    with full.autocommit() as connection:
        # `FORMAT=JSON` says on both servers what is used.
        plan = str(
            connection.exec_driver_sql(f"EXPLAIN FORMAT=JSON {statement}", values).scalar_one()  # type: ignore[arg-type]  # as it was sent
        )
        made = "SHOW SESSION STATUS LIKE 'Created_tmp_tables'"
        before = connection.execute(text(made)).one()[1]
        connection.exec_driver_sql(statement, values).all()  # type: ignore[arg-type]  # as it was sent
        assert int(connection.execute(text(made)).one()[1]) - int(before) <= 1, "SHOW makes one"
    assert "ix_status" in plan and "uq_enrollgate_runs_active" in plan
    for word in ("filesort", "temporary_table", "Sort:", "Temporary table", "Table scan"):
        assert word not in plan, plan


def test_claim_reads_no_more_than_it_claims(full: Database) -> None:
    found = claims.look(full, TABLES, installation="test", limit=4).found
    status = "SHOW SESSION STATUS LIKE 'Handler_read%'"

    def read() -> int:
        with full.engine.begin() as connection:
            return sum(int(count) for _, count in connection.execute(text(status)).all())

    read()
    before = read()
    claimed = claims.claim(
        full,
        TABLES,
        found,
        claim_id="c",
        installation="test",
        place=RunPlace("memory", "test"),
        limit=LIVE + 4,
        unfinished=LIVE,
    )
    # The unfinished runs are counted. Of 10,000 enrolled rows, four are read.
    assert claimed.count == 4 and read() - before <= 5 * LIVE + 200
