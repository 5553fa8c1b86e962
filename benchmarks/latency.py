"""The time from the commit of `enrolled` to the worker's process, against the check interval.

The rows are enrolled at random points of the interval.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random

from benchmarks.backlog import TABLES, connect, create_backlog, discard_logs, execute
from enrollgate.common.backoff import Backoff
from enrollgate.control.loop import Loop
from enrollgate.control.reconciler import Reconciler
from enrollgate.domain.policy import Policy
from enrollgate.launchers.local.launcher import LocalLauncher

_WORKER = """
import json, os, time
started = time.time()
open(os.environ["BENCH_DIR"] + "/" + os.environ["ENROLLGATE_TASK_ID"], "w").write(repr(started))
open(os.environ["ENROLLGATE_REPORT_PATH"], "w").write(json.dumps({"reason": None, "message": ""}))
"""


def measure_latency(name: str, url: str, tasks: int) -> list[dict[str, object]]:
    """Measure the latency of `tasks` rows at two check intervals."""
    discard_logs()
    return [_measure(name, url, tasks, interval) for interval in (0.5, 2.0)]


def _measure(name: str, url: str, tasks: int, interval: float) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as folder,
        connect(url) as database,
    ):
        # Each worker writes its start time to a file here, named by its task.
        starts = Path(folder) / "starts"
        starts.mkdir()
        create_backlog(database, tasks * 10, tasks, index=True)
        loop = Loop(interval=interval, backoff=Backoff(base=1, factor=2, cap=10), random=Random(1))
        os.environ["BENCH_DIR"] = str(starts)
        launcher = LocalLauncher(
            Path(folder),
            installation="bench",
            worker_argv=(sys.executable, "-c", _WORKER),
            worker_env={"BENCH_DIR": str(starts)},
            max_attempts=1,
            run_timeout=60,
            stop_grace=1,
            backoff=Backoff(base=1, factor=2, cap=10),
            run_ttl=60,
            on_change=loop.wake,
            clock=time.time,
        )
        policy = Policy(enrollment_timeout=86_400, max_concurrent_runs=tasks)
        reconciler = Reconciler(database, TABLES, launcher, policy, installation="bench")
        thread = threading.Thread(target=loop.run, args=(reconciler.reconcile,))
        thread.start()
        committed = _enroll_one_by_one(url, tasks, interval)
        deadline = time.monotonic() + 60
        while len(list(starts.iterdir())) < tasks and time.monotonic() < deadline:
            time.sleep(0.1)
        loop.stop()
        thread.join()
        launcher.close()
        waits = sorted(
            float((starts / str(task)).read_text()) - at for task, at in committed.items()
        )
    p99 = statistics.quantiles(waits, n=100, method="inclusive")[98]
    return {
        "database": name,
        "interval_s": interval,
        "tasks": tasks,
        "p50_s": statistics.median(waits),
        "p99_s": p99,
        "max_s": waits[-1],
        "p50_relative_to_interval": statistics.median(waits) / interval,
        "p99_relative_to_interval": p99 / interval,
    }


def _enroll_one_by_one(url: str, tasks: int, interval: float) -> dict[int, float]:
    """Enroll each waiting row as Node.js does. Returns the time of each commit, by task."""
    random = Random(7)
    committed = {}
    with connect(url) as node:
        for task in range(10, tasks * 10 + 1, 10):
            time.sleep(random.uniform(0, interval))
            execute(node, f"UPDATE download_tasks SET status='enrolled' WHERE id={task}")
            committed[task] = time.time()
    return committed
