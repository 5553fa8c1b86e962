"""Delays: row enrolled to Job visible, Job finished to row completed; with the default settings."""

import statistics
import threading
import time
from random import Random

from sqlalchemy import text
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import FakeKubelet
from tests.cluster.world import ClusterWorld

from benchmarks.backlog import create_backlog
from benchmarks.cluster.burst import REPORT, enroll
from benchmarks.cluster.cluster_env import JobWatch, cluster_env
from benchmarks.cpu import database_cpu_seconds
from enrollgate.settings.operator import Settings

# Seconds in which nothing happens but looks and passes.
IDLE = 30


def measure_delays(
    cluster: Cluster, url: str, tasks: int, waiting: int, rows: int
) -> list[dict[str, object]]:
    """Measure `tasks` tasks, one by one, in a table of `rows` rows of which `waiting` wait."""
    to_job, cost = _to_job(cluster, url, tasks, waiting, rows)
    return [
        _row("row enrolled -> Job visible", rows, to_job)
        | {"database_percent_of_a_core": cost * 100},
        _row("Job finished -> row completed", tasks, _to_row(cluster, url, tasks))
        | {"database_percent_of_a_core": None},
    ]


def _row(what: str, rows: int, waits: list[float]) -> dict[str, object]:
    return {
        "what": what,
        "rows": rows,
        "tasks": len(waits),
        "p50_s": statistics.median(waits),
        "p99_s": statistics.quantiles(waits, n=100, method="inclusive")[98],
        "max_s": max(waits),
    }


def _to_job(
    cluster: Cluster, url: str, tasks: int, waiting: int, rows: int
) -> tuple[list[float], float]:
    """Enroll rows one by one, half a second apart on average, with the default settings.

    Returns the waits in seconds, and how much of a core the database used before, while only looks
    and passes ran.
    """
    random = Random(3)
    with cluster_env(
        cluster,
        url,
        CHECK_INTERVAL=str(Settings.model_fields["check_interval"].default),
        MAX_CONCURRENT_RUNS=str(tasks + 1),
        ENROLLMENT_TIMEOUT="86400",
    ) as world:
        create_backlog(world.database, rows, waiting, index=True)
        step = rows // waiting
        ids = range(step, tasks * step + 1, step)
        watch = JobWatch(cluster, world.namespace)
        process = world.start_operator()
        world.wait_for(lambda: _count_known(world) >= waiting, "the operator has seen the rows")
        time.sleep(IDLE)
        before = database_cpu_seconds()
        time.sleep(IDLE)
        cost = (database_cpu_seconds() - before) / IDLE
        committed = {}
        for task in ids:
            time.sleep(random.uniform(0, 1))
            world.set(task, "enrolled")
            committed[f"school-{task}-1"] = time.monotonic()
        world.wait_for(lambda: len(watch.appeared) == tasks, "all Jobs are there")
        world.stop_operator(process)
        watch.close()
        return [watch.appeared[name] - at for name, at in committed.items()], cost


def _count_known(world: ClusterWorld) -> int:
    with world.database.read_transaction() as connection:
        return int(connection.execute(text("SELECT COUNT(*) FROM enrollgate_tasks")).scalar_one())


def _to_row(cluster: Cluster, url: str, tasks: int) -> list[float]:
    """Let pods end one by one, while the operator runs a full pass only once a minute."""
    random = Random(4)
    kubelet_hold = threading.Event()
    kubelet_hold.set()
    with cluster_env(cluster, url, CHECK_INTERVAL="60", MAX_CONCURRENT_RUNS=str(tasks)) as world:
        watch = JobWatch(cluster, world.namespace)
        fake_kubelet = FakeKubelet(cluster, world.namespace, REPORT.encode(), hold=kubelet_hold)
        fake_kubelet.start()
        enroll(world, tasks)
        process = world.start_operator()
        world.wait_for(lambda: len(fake_kubelet.running) == tasks, "all pods run")
        completed: dict[str, float] = {}
        for name in list(fake_kubelet.running):
            time.sleep(random.uniform(0, 0.2))
            fake_kubelet.finish([name])
            job = name.rpartition("-")[0].rpartition("-")[0]
            _note_completion(world, job, completed)
        world.wait_for(lambda: len(watch.complete) == tasks, "the watch has seen all Jobs end")
        world.stop_operator(process)
        watch.close()
        fake_kubelet.stop()
        return [at - watch.complete[job] for job, at in completed.items()]


def _note_completion(world: ClusterWorld, job: str, completed: dict[str, float]) -> None:
    task = int(job.split("-")[1])
    deadline = time.monotonic() + 120
    while world.status(task) != "completed":
        assert time.monotonic() < deadline, f"{job} ended, and its row does not"
        time.sleep(0.002)
    completed[job] = time.monotonic()
