"""The time from the commit of `enrolled` to the worker's process, and to the recorded launch.

With the default settings, in a table with many other rows. The rows are enrolled at random points.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from datetime import UTC
from pathlib import Path
from random import Random

from sqlalchemy import BigInteger, text

from benchmarks.backlog import TABLES, connect, create_backlog, discard_logs, execute
from enrollgate.common.backoff import Backoff
from enrollgate.control.look_interval import LookInterval
from enrollgate.control.loop import Loop
from enrollgate.control.reconciler import Reconciler
from enrollgate.database.tables import INSTANT
from enrollgate.domain.policy import Policy
from enrollgate.launchers.local.launcher import LocalLauncher
from enrollgate.settings.operator import Settings

_WORKER = """
import json, os, time
started = time.time()
open(os.environ["BENCH_DIR"] + "/" + os.environ["ENROLLGATE_TASK_ID"], "w").write(repr(started))
open(os.environ["ENROLLGATE_REPORT_PATH"], "w").write(json.dumps({"reason": None, "message": ""}))
"""


def measure_latency(
    name: str, url: str, tasks: int, rows: int, waiting: int
) -> list[dict[str, object]]:
    """Measure the latency of `tasks` of the `waiting` rows, in a table of `rows` rows."""
    discard_logs()
    return [_measure(name, url, tasks, rows, waiting)]


def _measure(name: str, url: str, tasks: int, rows: int, waiting: int) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as folder,
        connect(url) as database,
    ):
        # Each worker writes its start time to a file here, named by its task.
        starts = Path(folder) / "starts"
        starts.mkdir()
        create_backlog(database, rows, waiting, index=True)
        defaults = Settings()
        loop = Loop(
            interval=defaults.check_interval,
            backoff=Backoff(base=1, factor=2, cap=10),
            random=Random(1),
            look_interval=LookInterval(
                interval=defaults.gate_interval, share=defaults.gate_database_share
            ),
        )
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
        policy = Policy(enrollment_timeout=86_400, max_concurrent_runs=tasks + 1)
        reconciler = Reconciler(database, TABLES, launcher, policy, installation="bench")
        while reconciler.reconcile().more:  # every row is known
            pass
        thread = threading.Thread(
            target=loop.run,
            args=(reconciler.reconcile, reconciler.look, reconciler.begin_full_pass),
        )
        thread.start()
        committed = _enroll_one_by_one(url, tasks, rows // waiting)
        deadline = time.monotonic() + 60
        while len(list(starts.iterdir())) < tasks and time.monotonic() < deadline:
            time.sleep(0.1)
        loop.stop()
        thread.join()
        launcher.close()
        starts_after = sorted(
            float((starts / str(task)).read_text()) - at for task, at in committed.items()
        )
        launched = text("SELECT task_id, launched_at FROM enrollgate_runs").columns(
            task_id=BigInteger, launched_at=INSTANT
        )
        with database.autocommit() as connection:
            recorded = sorted(
                launched_at.replace(tzinfo=UTC).timestamp() - committed[task]
                for task, launched_at in connection.execute(launched)
            )
    return {
        "database": name,
        "rows": rows,
        "waiting": waiting,
        "tasks": tasks,
        "p50_s": statistics.median(starts_after),
        "p99_s": _p99(starts_after),
        "max_s": starts_after[-1],
        "launch_p50_s": statistics.median(recorded),
        "launch_p99_s": _p99(recorded),
    }


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _enroll_one_by_one(url: str, tasks: int, step: int) -> dict[int, float]:
    """Enroll each `step`th row as Node.js does. Returns the time of each commit, by task."""
    random = Random(7)
    committed = {}
    with connect(url) as node:
        for task in range(step, tasks * step + 1, step):
            time.sleep(random.uniform(0, 2))
            execute(node, f"UPDATE download_tasks SET status='enrolled' WHERE id={task}")
            committed[task] = time.time()
    return committed
