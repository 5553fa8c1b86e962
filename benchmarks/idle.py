"""One idle full pass, compared with the old worker: one SELECT for each waiting task.

A full pass reads the whole backlog by one exact statement (docs/decisions/0002), and the runs by
another one. The old worker is measured in its fastest form: the bare driver, on one connection,
without any other work.

Both are measured twice: by the clock, which includes Python's time, and by the processor time of
the database server. SQLite has no server.
"""

import json
import sqlite3
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial

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
from benchmarks.cpu import database_cpu_seconds
from enrollgate.database import Database, claims
from enrollgate.settings.operator import Settings

PASSES = 7
LOOKS = 200
# Each takes up to half a minute.
OLD_ROUNDS = 3
# Seconds between two rounds of the old worker.
OLD_INTERVAL = 10


class _Meter:
    """Measures calls by the clock and by the database's processor time, both in milliseconds."""

    def __init__(self) -> None:
        self._walls, self._cpu = list[float](), 0.0

    def measure(self, action: Callable[[], object]) -> None:
        """Call once."""
        before = database_cpu_seconds()
        self._walls.append(measure_ms(action))
        self._cpu += (database_cpu_seconds() - before) * 1000

    @property
    def wall(self) -> float:
        """Return the median of the calls."""
        return statistics.median(self._walls)

    @property
    def cpu(self) -> float:
        """Return the mean of the calls: one alone is less than a tick of the processor's clock."""
        return self._cpu / len(self._walls)


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
    while reconciler.reconcile().more:  # until all tasks are tracked
        pass
    passes, old, looks = _Meter(), _Meter(), _Meter()

    def look() -> tuple[bool, float]:
        # What a look asks while nothing is enrolled. SQLite is asked only after a commit.
        return claims.is_any_free(database, TABLES)

    # Many at once: a reading of the processor's time costs more than a look.
    look()
    look_wall = statistics.median(measure_ms(look) for _ in range(LOOKS))
    looks.measure(lambda: deque((look() for _ in range(LOOKS)), maxlen=0))
    look_cpu = looks.cpu / LOOKS
    statements = set[int]()
    for number in range(PASSES):  # in turns, so that a noisy moment affects both
        passes.measure(lambda: statements.add(reconciler.reconcile().statements))
        if number < OLD_ROUNDS:
            old.measure(partial(_select_per_task, database, url))
    # As in `LookInterval`, with the time of this process instead of the server's: it is more.
    pause = max(defaults.gate_interval, look_wall / 1000 / defaults.gate_database_share)
    # What the operator does, by default, between two rounds of the old worker.
    passes_a_round, looks_a_round = OLD_INTERVAL / defaults.check_interval, OLD_INTERVAL / pause
    database_ms = passes.cpu * passes_a_round + look_cpu * looks_a_round
    return {
        "waiting": waiting,
        "first_pass_ms": first_pass,
        "idle_pass_ms": passes.wall,
        "select_per_task_ms": old.wall,
        "look_ms": look_wall,
        "times_faster": old.wall / passes.wall,
        "times_faster_with_looks": old.wall
        / (passes.wall * passes_a_round + look_wall * looks_a_round),
        "idle_pass_database_ms": None if database.is_sqlite else passes.cpu,
        "select_per_task_database_ms": None if database.is_sqlite else old.cpu,
        "look_database_ms": None if database.is_sqlite else look_cpu,
        "times_less_database_time": None if database.is_sqlite else old.cpu / database_ms,
        "statements": "/".join(map(str, sorted(statements))),
        "peak_mb": _measure_memory(url),
    }


def _select_per_task(database: Database, url: str) -> None:
    """Do what the old worker did, for all waiting tasks."""
    with database.read_transaction() as connection:
        ids = list(
            connection.execute(
                text("SELECT id FROM download_tasks WHERE status='processing'")
            ).scalars()
        )
    if database.is_sqlite:
        _select_in_sqlite(url, ids)
    else:
        _select_in_mysql(url, ids)


def _select_in_sqlite(url: str, ids: list[int]) -> None:
    with closing(sqlite3.connect(str(make_url(url).database))) as connection:
        for task_id in ids:
            connection.execute(
                "SELECT status FROM download_tasks WHERE id = ?", (task_id,)
            ).fetchone()


def _select_in_mysql(url: str, ids: list[int]) -> None:
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
        for task_id in ids:
            cursor.execute("SELECT status FROM download_tasks WHERE id = %s", (task_id,))
            cursor.fetchone()


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
