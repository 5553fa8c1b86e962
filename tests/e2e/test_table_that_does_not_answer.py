"""A task table that nobody can read for minutes, and a real operator on it.

It says so, is not ready, counts as alive, ends when it is asked to, and works on afterwards.
"""

import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pymysql
import pytest
from sqlalchemy import URL, make_url
from tests.databases.server import execute, free_port
from tests.e2e.operator_process import NoSite, OperatorProcess, wait_until

from enrollgate.database import migrate, open_database

pytestmark = pytest.mark.slow

# Seconds in which an operator ends: the chart's grace period.
GRACE = 60


def connect(url: URL) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    return pymysql.connect(
        host=url.host or "",
        port=url.port or 0,
        user=url.username or "",
        password=str(url.password),
        database=url.database,
    )


@contextmanager
def locked(url: URL) -> Iterator[None]:
    """As mysqldump does, and many a migration."""
    with closing(connect(url)) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLES download_tasks WRITE")
        yield


@contextmanager
def altered(url: URL) -> Iterator[None]:
    """An ALTER TABLE waits for a transaction that nobody ends. Whoever comes later waits for it."""
    alter = threading.Thread(
        target=lambda: execute(
            str_url(url), f"ALTER TABLE {url.database}.download_tasks ADD COLUMN extra INTEGER"
        )
    )
    with closing(connect(url)) as holder, holder.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute("SELECT COUNT(*) FROM download_tasks")
        alter.start()
        yield
    alter.join()


@contextmanager
def sleeping(url: URL) -> Iterator[None]:
    """A view in place of the table, of which each row sleeps."""
    use = f"USE {url.database}"
    execute(
        str_url(url),
        use,
        "RENAME TABLE download_tasks TO task_rows",
        "CREATE VIEW download_tasks AS SELECT * FROM task_rows WHERE SLEEP(1000) = 0",
    )
    yield
    execute(
        str_url(url), use, "DROP VIEW download_tasks", "RENAME TABLE task_rows TO download_tasks"
    )


def str_url(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.mark.parametrize(
    ("away", "says"),
    [
        (locked, "LOCK TABLES, ALTER TABLE"),
        (altered, "LOCK TABLES, ALTER TABLE"),
        (sleeping, "name the table behind it"),
    ],
)
def test_table_that_does_not_answer_is_named_and_waited_for(
    tmp_path: Path,
    server_database_url: str,
    away: Callable[[URL], AbstractContextManager[None]],
    says: str,
) -> None:
    url, port = make_url(server_database_url), free_port()
    operator = OperatorProcess(tmp_path, server_database_url, NoSite(), HTTP_PORT=str(port))
    operator.create_table()
    with closing(open_database(url)) as database:
        migrate(database)

    def answers(place: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{place}", timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def end() -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=GRACE) == 0

    process = operator.start()
    try:
        operator.add(1, "course")
        operator.wait_for_status(1, "failed")
        operator.add(2, "course", "processing")  # a row that each pass reads
        with away(url):
            wait_until(lambda: answers("readyz") == 503, lambda: operator.log)
            wait_until(lambda: says in operator.log, lambda: operator.log)
            assert answers("livez") == 200
            end()
            process = operator.start()
            wait_until(lambda: "waiting for the database" in operator.log, lambda: operator.log)
            assert answers("livez") == 200
        operator.add(3, "course")
        operator.wait_for_status(3, "failed")
        wait_until(lambda: answers("readyz") == 200)
        end()
    finally:
        operator.stop_all()
