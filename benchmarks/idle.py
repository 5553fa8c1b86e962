"""One idle pass compared with the old way: one SELECT for each waiting task, every ten seconds.

The old way is measured in its fastest honest form: the bare driver, one connection, one prepared statement text. Of the
new way the whole pass is measured, Python included: one exact statement over the backlog, and one for the runs.
"""

import json
import sqlite3
import statistics
import subprocess
import sys
from contextlib import closing

import pymysql
import structlog
from sqlalchemy import make_url, text

from benchmarks.backlog import fill, opened, operator, timed
from enrollgate.database import Database

PASSES = 7


def measure_idle(name: str, url: str, sizes: tuple[int, ...], rows: int) -> list[dict[str, object]]:
    structlog.configure(processors=[_drop])
    results = []
    for index in (True, False):
        for waiting in sizes:
            with opened(url) as database:
                fill(database, rows, waiting, index=index)
                results.append(
                    {"database": name, "index": index, "rows": rows}
                    | _measure(database, url, waiting)
                )
    return results


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent


def _measure(database: Database, url: str, waiting: int) -> dict[str, object]:
    reconciler = operator(database)
    first_pass = timed(reconciler.reconcile)
    passes, old = list[float](), list[float]()
    statements = set[int]()
    for _ in range(PASSES):  # in turns, so that a noisy moment affects both
        passes.append(timed(lambda: statements.add(reconciler.reconcile().statements)))
        if len(old) < 3:
            old.append(_old_way(database, url))
    exact, old_way = statistics.median(passes), statistics.median(old)
    return {
        "waiting": waiting,
        "first_pass_ms": first_pass,
        "exact_ms": exact,
        "old_way_ms": old_way,
        "times_less": old_way / exact,
        "statements": "/".join(map(str, sorted(statements))),
        "peak_MB": _memory(url),
    }


def _old_way(database: Database, url: str) -> float:
    with database.read_transaction() as connection:
        ids = list(
            connection.execute(
                text("SELECT id FROM download_tasks WHERE status='processing'")
            ).scalars()
        )
    return _old_sqlite(url, ids) if database.is_sqlite else _old_mysql(url, ids)


def _old_sqlite(url: str, ids: list[int]) -> float:
    with closing(sqlite3.connect(str(make_url(url).database))) as connection:

        def ask() -> None:
            for task_id in ids:
                connection.execute(
                    "SELECT status FROM download_tasks WHERE id = ?", (task_id,)
                ).fetchone()

        return timed(ask)


def _old_mysql(url: str, ids: list[int]) -> float:
    parts = make_url(url)
    connection = pymysql.connect(
        host=parts.host or "",
        port=parts.port or 3306,
        user=parts.username or "",
        password=str(parts.password),
        database=parts.database,
        autocommit=True,
    )
    with closing(connection), connection.cursor() as cursor:

        def ask() -> None:
            for task_id in ids:
                cursor.execute("SELECT status FROM download_tasks WHERE id = %s", (task_id,))
                cursor.fetchone()

        return timed(ask)


_CHILD = """
import json, sys
import structlog
from benchmarks.backlog import opened, operator
from benchmarks.idle import _drop
from benchmarks.memory import peak
structlog.configure(processors=[_drop])
from enrollgate.control import wiring  # what a real operator has loaded
with opened(sys.argv[1]) as database:
    from sqlalchemy import text
    database.run_in_transaction(lambda c: c.execute(text("DELETE FROM enrollgate_tasks")))
    passes = operator(database)
    for _ in range(5):
        passes.reconcile()
print(json.dumps(peak()))
"""


def _memory(url: str) -> float:
    """The peak of an operator's process that sees this backlog for the first time and then passes over it, in MB."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, url], check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout))
