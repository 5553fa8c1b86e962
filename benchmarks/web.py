"""How long `enrollgate web` takes for each page, at a million tasks and as many runs.

The page is a process of its own, asked over HTTP by one client after the other. The numbers behind
the overview are kept for some seconds; each request here comes after that, so it pays for all.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection

from benchmarks.backlog import TABLES, connect, create_backlog, execute, measure_ms
from enrollgate.database import Database
from enrollgate.database.task_status import ensure_view
from enrollgate.web.pages import STATISTICS_TTL

REQUESTS = 7


def measure_web(name: str, url: str, rows: int) -> list[dict[str, object]]:
    """Measure each page with `rows` tasks, a tenth of them waiting, and a run of each other one."""
    with connect(url) as database:
        create_backlog(database, rows, rows // 10, index=True)
        _add_runs(database)
        ensure_view(database, TABLES, "enrollgate")
    results = []
    middle = rows // 2 + 1
    paths = ("/", "/runs", "/failures", "/failures?reason=AccessDenied", f"/tasks/{middle}")
    with _serve(url) as client:
        for path in (*paths, "/search?q=courses.example.com/course/none"):
            times = []
            for _ in range(REQUESTS):
                time.sleep(STATISTICS_TTL if path == "/" else 0)
                times.append(measure_ms(partial(_get, client, path)))
            results.append(
                {
                    "database": name,
                    "rows": rows,
                    "page": path.replace(str(middle), "ID"),
                    "median_ms": statistics.median(times[1:]),
                    "first_ms": times[0],
                }
            )
    return results


def _add_runs(database: Database) -> None:
    """Add a run of each completed task, spread over four weeks; some failed, and 100 are live."""
    now = database.now()
    ago = (
        f"strftime('%Y-%m-%d %H:%M:%f000', '{now}', '-' || (id % 40000) || ' minutes')"
        if database.is_sqlite
        else f"DATE_SUB('{now}', INTERVAL id % 40000 MINUTE)"
    )
    live = "id % 10000 = 1"
    execute(
        database,
        "INSERT INTO enrollgate_tasks (task_id, first_seen_at, last_seen_status) "
        f"SELECT id, '{now}', status FROM download_tasks WHERE status = 'processing'",
        "INSERT INTO enrollgate_runs (task_id, run_number, name, installation, state, outcome, "
        "reason, message, first_seen_at, enrolled_seen_at, claimed_at, launched_at, finished_at, "
        "recorded_at, destination_url) "
        f"SELECT id, 1, 'enrollgate-x', 'enrollgate', CASE WHEN {live} THEN 'launched' "
        f"ELSE 'finished' END, CASE WHEN {live} THEN NULL WHEN id % 20 = 1 THEN 'failed' ELSE "
        "'succeeded' END, CASE WHEN id % 20 = 1 THEN 'AccessDenied' END, 'a message', "
        f"{ago}, {ago}, {ago}, {ago}, CASE WHEN {live} THEN NULL ELSE {ago} END, {ago}, "
        "'https://drive.google.com/drive/folders/x' "
        "FROM download_tasks WHERE status = 'completed'",
    )
    if not database.is_sqlite:
        execute(database, "ANALYZE TABLE enrollgate_runs, enrollgate_tasks")


@contextmanager
def _serve(url: str) -> Iterator[HTTPConnection]:
    """Start the page, and give a client that is connected to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"ENROLLGATE_DATABASE_URL": url, "ENROLLGATE_WEB__PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "enrollgate", "web"],
        env=os.environ | settings,
        stderr=subprocess.DEVNULL,
    )
    client = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        for _ in range(600):
            try:
                client.connect()
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(timeout=30)


def _get(client: HTTPConnection, path: str) -> None:
    client.request("GET", path)
    answer = client.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise AssertionError(f"{path}: {answer.status} {content[:500]!r}")
