"""One idle full pass, compared with the old worker: one SELECT for each waiting task.

A full pass reads the whole backlog by one exact statement (docs/decisions/0002), and the runs by
another one. Its time includes Python's. The old worker is measured in its fastest form: the bare
driver, on one connection, without any other work.
"""

import json
import sqlite3
import statistics
import subprocess
import sys
from contextlib import closing

import pymysql
from sqlalchemy import make_url, text

from benchmarks.backlog import (
    TABLES,
    build_reconciler,
    connect,
    create_backlog,
    discard_logs,
    measure_ms,
)
from enrollgate.database import Database, claims
from enrollgate.settings.operator import Settings

PASSES = 7
# Each takes up to ten seconds.
OLD_ROUNDS = 3


def measure_idle(name: str, url: str, sizes: tuple[int, ...], rows: int) -> list[dict[str, object]]:
    """Measure idle passes over a table of `rows` rows, for each number of waiting rows."""
    discard_logs()
    results = []
    for index in (True, False):
        for waiting in sizes:
            with connect(url) as database:
                create_backlog(database, rows, waiting, index=index)
                results.append(
                    {"database": name, "index": index, "rows": rows}
                    | _measure(database, url, waiting)
                )
    return results


def _measure(database: Database, url: str, waiting: int) -> dict[str, object]:
    reconciler, defaults = build_reconciler(database), Settings()
    first_pass = measure_ms(reconciler.reconcile)
    passes, old = list[float](), list[float]()
    # SQLite is looked at only after a commit: this is the look itself, of a full pass.
    looks = [
        measure_ms(lambda: claims.look(database, TABLES, installation="bench", limit=10))
        for _ in range(50)
    ]
    statements = set[int]()
    for _ in range(PASSES):  # in turns, so that a noisy moment affects both
        passes.append(measure_ms(lambda: statements.add(reconciler.reconcile().statements)))
        if len(old) < OLD_ROUNDS:
            old.append(_select_per_task(database, url))
    full_pass, select_per_task = statistics.median(passes), statistics.median(old)
    look = statistics.median(looks)
    # As in `LookInterval`, with the time of this process instead of the server's: it is more.
    pause = max(defaults.gate_interval, look / 1000 / defaults.gate_database_share)
    with_looks = full_pass + look * defaults.check_interval / pause
    return {
        "waiting": waiting,
        "first_pass_ms": first_pass,
        "idle_pass_ms": full_pass,
        "select_per_task_ms": select_per_task,
        "look_ms": look,
        "times_faster": select_per_task / full_pass,
        "times_faster_with_looks": select_per_task / with_looks,
        "statements": "/".join(map(str, sorted(statements))),
        "peak_mb": _measure_memory(url),
    }


def _select_per_task(database: Database, url: str) -> float:
    """Do what the old worker did, for all waiting tasks. Returns milliseconds."""
    with database.read_transaction() as connection:
        ids = list(
            connection.execute(
                text("SELECT id FROM download_tasks WHERE status='processing'")
            ).scalars()
        )
    return _select_in_sqlite(url, ids) if database.is_sqlite else _select_in_mysql(url, ids)


def _select_in_sqlite(url: str, ids: list[int]) -> float:
    with closing(sqlite3.connect(str(make_url(url).database))) as connection:

        def select_all() -> None:
            for task_id in ids:
                connection.execute(
                    "SELECT status FROM download_tasks WHERE id = ?", (task_id,)
                ).fetchone()

        return measure_ms(select_all)


def _select_in_mysql(url: str, ids: list[int]) -> float:
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

        def select_all() -> None:
            for task_id in ids:
                cursor.execute("SELECT status FROM download_tasks WHERE id = %s", (task_id,))
                cursor.fetchone()

        return measure_ms(select_all)


_CHILD = """
import json, sys
from benchmarks.backlog import TABLES, build_reconciler, connect, discard_logs, execute
from benchmarks.memory import peak
from enrollgate.control import wiring  # what a real operator has loaded
discard_logs()
with connect(sys.argv[1]) as database:
    execute(database, "DELETE FROM enrollgate_tasks")
    reconciler = build_reconciler(database)
    for _ in range(5):
        reconciler.reconcile()
print(json.dumps(peak()))
"""


def _measure_memory(url: str) -> float:
    """Return the peak memory, in MB, of an operator that tracks this backlog and then idles."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, url], check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout))
