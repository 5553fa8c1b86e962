"""A flood in front of a real operator: it stays ready, launches, and ends when it is asked to."""

import signal
import urllib.request
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url
from tests.databases.server import free_port
from tests.e2e.operator_process import NoSite, OperatorProcess, wait_until

from enrollgate.database import migrate, open_database

ROWS = 60_000


def test_flood_of_timeouts_keeps_the_operator_ready_and_obedient(
    tmp_path: Path, sqlite_url: str
) -> None:
    port = free_port()
    operator = OperatorProcess(tmp_path, sqlite_url, NoSite(), HTTP_PORT=str(port))
    operator.create_table()
    with closing(open_database(make_url(sqlite_url))) as database:
        migrate(database)
    numbers = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < :rows)"
    operator.sql(
        "INSERT INTO download_tasks (id, status, email, course_url) "
        f"{numbers} SELECT id, 'processing', 'a@example.com', 'https://a.example/' FROM n",
        rows=ROWS,
    )
    operator.sql(
        "INSERT INTO enrollgate_tasks (task_id, first_seen_at, last_seen_status) "
        "SELECT id, '2026-01-01 00:00:00.000000', 'processing' FROM download_tasks"
    )
    process = operator.start()
    try:

        def failed() -> int:
            query = "SELECT COUNT(*) FROM download_tasks WHERE status = 'failed' AND id <= :rows"
            return int(str(operator.sql(query, rows=ROWS)[0][0]))

        wait_until(lambda: failed() > 100, lambda: operator.log)
        operator.add(ROWS + 1, "course")
        operator.wait_for_status(ROWS + 1, "failed")
        for place in ("livez", "readyz"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{place}", timeout=30) as answer:
                assert answer.status == 200
        assert failed() < ROWS, "the flood is not over"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert failed() < ROWS, "it did not finish the flood first"
        assert "ENROLL CHECK" in operator.log and "HostNotAllowed" in operator.log
    finally:
        operator.stop_all()
