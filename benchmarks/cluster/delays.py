"""Delays: row enrolled to Job visible, Job finished to row completed; with the default settings."""

import statistics
import threading
import time
from random import Random

from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import FakeKubelet
from tests.cluster.world import ClusterWorld

from benchmarks.cluster.burst import REPORT, enroll
from benchmarks.cluster.cluster_env import JobWatch, cluster_env


def measure_delays(cluster: Cluster, url: str, tasks: int) -> list[dict[str, object]]:
    return [
        _row("row enrolled -> Job visible", 10.0, _to_job(cluster, url, tasks, 10.0)),
        _row("Job finished -> row completed", 60.0, _to_row(cluster, url, tasks)),
    ]


def _row(what: str, interval: float, waits: list[float]) -> dict[str, object]:
    return {
        "what": what,
        "check_interval_s": interval,
        "tasks": len(waits),
        "p50_s": statistics.median(waits),
        "p99_s": statistics.quantiles(waits, n=100, method="inclusive")[98],
        "max_s": max(waits),
    }


def _to_job(cluster: Cluster, url: str, tasks: int, interval: float) -> list[float]:
    """Enroll rows one by one, at random phases of the interval."""
    random = Random(3)
    with cluster_env(
        cluster, url, CHECK_INTERVAL=str(interval), MAX_CONCURRENT_RUNS=str(tasks + 1)
    ) as world:
        watch = JobWatch(cluster, world.namespace)
        ids = world.add("processing", count=tasks)
        process = world.start_operator()
        world.wait_for(lambda: f"task={ids[-1]} " in world.log, "the operator has seen the rows")
        committed = {}
        for task in ids:
            time.sleep(random.uniform(0, min(interval, 0.5)))
            world.set(task, "enrolled")
            committed[f"school-{task}-1"] = time.monotonic()
        world.wait_for(lambda: len(watch.appeared) == tasks, "all Jobs are there")
        world.stop_operator(process)
        watch.close()
        return [watch.appeared[name] - at for name, at in committed.items()]


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
