"""From the commit of `enrolled` to the worker's process, against the check interval. The rows come at random phases."""

import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random

import structlog
from sqlalchemy import text

from benchmarks.backlog import TABLES, fill, opened
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
    structlog.configure(processors=[_drop])
    return [_measure(name, url, tasks, interval) for interval in (0.5, 2.0)]


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent


def _measure(name: str, url: str, tasks: int, interval: float) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as folder, opened(url) as database:
        marks = Path(folder) / "marks"
        marks.mkdir()
        fill(database, tasks * 10, tasks, index=True)
        loop = Loop(interval=interval, backoff=Backoff(base=1, factor=2, cap=10), random=Random(1))
        os.environ["BENCH_DIR"] = str(marks)
        launcher = LocalLauncher(
            Path(folder),
            installation="bench",
            worker_argv=(sys.executable, "-c", _WORKER),
            worker_env={"BENCH_DIR": str(marks)},
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
        random = Random(7)
        committed = {}
        with opened(url) as node:
            for number in range(1, tasks + 1):
                time.sleep(random.uniform(0, interval))
                task = number * 10
                node.run_in_transaction(
                    lambda c, task=task: c.execute(
                        text("UPDATE download_tasks SET status='enrolled' WHERE id=:i"), {"i": task}
                    )
                )
                committed[task] = time.time()
        deadline = time.monotonic() + 60
        while len(list(marks.iterdir())) < tasks and time.monotonic() < deadline:
            time.sleep(0.1)
        loop.stop()
        thread.join()
        launcher.close()
        waits = sorted(
            float((marks / str(task)).read_text()) - at for task, at in committed.items()
        )
    p99 = statistics.quantiles(waits, n=100, method="inclusive")[98]
    return {
        "database": name,
        "interval_s": interval,
        "tasks": tasks,
        "p50_s": statistics.median(waits),
        "p99_s": p99,
        "max_s": waits[-1],
        "p50_of_interval": statistics.median(waits) / interval,
        "p99_of_interval": p99 / interval,
    }
