"""One operator for a long time, with a trickle of tasks: does anything in it grow?

The operator is a process as its users start it, in local mode on MariaDB, with real workers. Most
tasks complete; some are failed, deleted or renamed by Node.js while they run. Its memory,
descriptors and threads are read from /proc, its connections from the server.
"""

import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
from sqlalchemy import make_url
from tests.chaos.course_site import WatchfulSite
from tests.chaos.faults import kill_runs
from tests.chaos.node import ODD, OPERATOR, Node
from tests.databases import start_mariadb
from tests.databases.server import free_port, fresh_database
from tests.e2e.operator_process import OperatorProcess

from enrollgate.database import migrate, open_database

# Seconds between two new tasks at least, and between two looks.
TASK_INTERVAL, SAMPLE_INTERVAL = 5.0, 2.0
# Open tasks and unfinished runs with which no further task is added.
MOST_OPEN = 20
# The first part of the time, in which caches fill, does not count.
WARM_UP = 0.2
# What may be more at the end: a part of the memory at the start, or a number of the others.
MEMORY_GROWTH, COUNT_GROWTH = 0.05, 1.0


def measure_soak(minutes: float) -> list[dict[str, object]]:
    """Let an operator work for so many minutes. Returns one row for each thing that may grow."""
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as mine,
        tempfile.TemporaryDirectory(
            prefix="enrollgate-bench-", ignore_cleanup_errors=True
        ) as theirs,
    ):
        server, site = start_mariadb(Path(theirs)), WatchfulSite(rate=1e6)
        try:
            with fresh_database(server.url("")) as url, site.serving():
                node = Node(url, site, Path(mine) / "cookies")
                node.create_tables()
                with closing(open_database(make_url(url))) as database:
                    migrate(database)
                node.create_operator()
                port = free_port()
                operator = OperatorProcess(
                    Path(mine), node.operator_url, site, HTTP_PORT=str(port), CHECK_INTERVAL="1"
                )
                try:
                    return _soak(operator, node, port, minutes * 60)
                finally:
                    operator.stop_all()
                    kill_runs(Path(mine))  # they outlive the operator, and write into the folder
        finally:
            server.kill()


def _soak(
    operator: OperatorProcess, node: Node, port: int, seconds: float
) -> list[dict[str, object]]:
    process = psutil.Process(operator.start().pid)
    read: dict[str, Callable[[], float]] = {
        "memory, MB": lambda: process.memory_info().rss / 2**20,
        "descriptors": process.num_fds,
        "threads": process.num_threads,
        "database connections": lambda: float(
            str(
                node.query(
                    f"SELECT COUNT(*) FROM information_schema.processlist WHERE user='{OPERATOR}'"
                )[0][0]
            )
        ),
    }
    metrics = f"http://127.0.0.1:{port}/metrics"
    samples: dict[str, list[float]] = {name: [] for name in read}
    times = list[float]()
    started, task, due = time.monotonic(), 0, 0.0
    while (elapsed := time.monotonic() - started) < seconds:
        # On a loaded machine it is a trickle, too: what piles up is no leak.
        if elapsed >= due and node.count_open() < MOST_OPEN:
            task, due = task + 1, elapsed + TASK_INTERVAL
            node.add(task, "enrolled")
        elif task % 10 == 5:  # its run has most likely begun
            node.write_status(task, "failed")
        elif task % 10 == 7:
            node.delete(task)
        elif task % 10 == 9:
            node.write_status(task, ODD)
        if elapsed >= seconds * WARM_UP:
            with urllib.request.urlopen(metrics, timeout=120) as response:
                response.read()
            times.append(elapsed)
            for name, value in read.items():
                samples[name].append(value())
        time.sleep(SAMPLE_INTERVAL)
    node.wait_until_quiet(lambda: len(node.site.log))
    [(completed,)] = node.query("SELECT COUNT(*) FROM download_tasks WHERE status='completed'")
    return [
        {"minutes": seconds / 60, "tasks": task, "completed": completed}
        | describe_growth(name, times, values)
        for name, values in samples.items()
    ]


def describe_growth(name: str, times: list[float], values: list[float]) -> dict[str, object]:
    """Return how a value changed over the times, in seconds.

    The growth is that of a straight line through all samples: one odd sample decides nothing.
    """
    tenth = max(1, len(values) // 10)
    start, end = statistics.fmean(values[:tenth]), statistics.fmean(values[-tenth:])
    slope = statistics.linear_regression(times, values).slope
    growth = slope * (times[-1] - times[0])
    allowed = MEMORY_GROWTH * start if name.startswith("memory") else COUNT_GROWTH
    return {
        "what": name,
        "start": start,
        "end": end,
        "peak": float(max(values)),
        "slope_per_hour": slope * 3600,
        "growth_relative_to_allowed": growth / allowed,
        "flat": growth <= allowed,
    }
