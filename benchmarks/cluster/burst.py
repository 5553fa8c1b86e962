"""A burst of enrolled rows: the operator against a bare loop that creates the same Jobs."""

import signal
import subprocess
import sys
import threading
import time
from typing import Any

from sqlalchemy import text
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import FakeKubelet
from tests.cluster.world import ClusterWorld

from benchmarks.cluster.cluster_env import JobWatch, cluster_env, pinned_cpus
from benchmarks.cpu import cpu_seconds
from enrollgate.domain.report import Report
from enrollgate.launchers.kubernetes.views import RECORDED

DEFAULT_INTERVAL = 10
# Seconds in which the operator writes its last Events.
TAIL = 5.0
REPORT = Report(
    None, "3 items delivered", items_delivered=3, destination_url="https://drive.test/f"
)


def measure_cluster_burst(cluster: Cluster, url: str, jobs: int) -> list[dict[str, object]]:
    """Run the bare loop once before and once after the operator, since the API server slows down
    as it fills up.

    For the operator everything counts, from the commit of the rows to the last Job: seeing them,
    claiming, creating, recording.
    """
    with pinned_cpus(cluster):
        rows = [_measure(cluster, url, jobs, "dedicated")]
    return [*rows, _measure(cluster, url, jobs, "shared with the operator")]


def _measure(cluster: Cluster, url: str, jobs: int, core: str) -> dict[str, object]:
    before = _bare(cluster, url, jobs)
    operator = _operator(cluster, url, jobs)
    bare = (before + _bare(cluster, url, jobs)) / 2
    per_second = operator.pop("jobs_per_second")
    return {
        "control_plane_core": core,
        "rows": jobs,
        "bare_jobs_per_second": bare,
        "operator_jobs_per_second": per_second,
        "relative_to_bare_loop": per_second / bare,
        **operator,
    }


def _bare(cluster: Cluster, url: str, jobs: int) -> float:
    with cluster_env(cluster, url) as world:
        watch = JobWatch(cluster, world.namespace)
        command = [sys.executable, "-m", "benchmarks.cluster.bare", str(jobs)]
        done = subprocess.run(
            command, check=True, env=world.environment, stdout=subprocess.PIPE, text=True
        )
        world.wait_for(lambda: len(watch.appeared) >= jobs, "the Jobs are there", timeout=1200)
        _settle(world, jobs)
        watch.close()
        return watch.per_second(float(done.stdout))


def _operator(cluster: Cluster, url: str, jobs: int) -> dict[str, float]:
    """Measure Jobs created per second, then rows completed per second, and the CPU of both.

    All Jobs finish at once: while they do, the operator is stopped (SIGSTOP). So it is measured,
    and not how fast pods end.
    """
    hold = threading.Event()
    hold.set()
    with cluster_env(cluster, url, MAX_CONCURRENT_RUNS=str(jobs)) as world:
        watch = JobWatch(cluster, world.namespace)
        fake_kubelet = FakeKubelet(cluster, world.namespace, REPORT.encode(), hold=hold)
        process = world.start_operator(CHECK_INTERVAL=str(DEFAULT_INTERVAL))
        (first,) = world.add("processing")
        world.wait_for(
            lambda: f"ENROLL CHECK task={first} " in world.log, "the operator makes passes"
        )
        before = cpu_seconds(process.pid)
        enroll(world, jobs)
        committed = time.monotonic()
        world.wait_for(lambda: len(watch.appeared) >= jobs, "the Jobs are there", timeout=1200)
        _settle(world, jobs)
        time.sleep(TAIL)
        launched = cpu_seconds(process.pid) - before
        fake_kubelet.start()
        world.wait_for(lambda: len(fake_kubelet.running) >= jobs, "all pods run", timeout=1200)
        before = cpu_seconds(process.pid)
        process.send_signal(signal.SIGSTOP)
        fake_kubelet.finish(list(fake_kubelet.running))
        world.wait_for(lambda: len(watch.complete) >= jobs, "all Jobs are complete", timeout=1200)
        process.send_signal(signal.SIGCONT)
        begin = time.monotonic()
        world.wait_for(
            lambda: world.statuses().get("completed") == jobs,
            "all rows are completed",
            timeout=1200,
        )
        completed = jobs / (time.monotonic() - begin)
        world.wait_for(
            lambda: not any(is_unrecorded(job) for job in cluster.jobs(world.namespace)),
            "all Jobs are labelled",
            timeout=1200,
        )
        time.sleep(TAIL)
        finished = cpu_seconds(process.pid) - before
        fake_kubelet.stop()
        world.stop_operator(process)
        assert len(watch.appeared) == jobs, "a task had two Jobs"
        watch.close()
        return {
            "jobs_per_second": watch.per_second(committed),
            "rows_completed_per_second": completed,
            "cpu_s_per_1000_launched": launched / jobs * 1000,
            "cpu_s_per_1000_finished": finished / jobs * 1000,
        }


def is_unrecorded(job: dict[str, Any]) -> bool:
    """Return whether a Job lacks the label of recorded ones."""
    return RECORDED not in job["metadata"]["labels"]


def enroll(world: ClusterWorld, rows: int) -> None:
    """Insert this many enrolled rows in one commit."""
    values = [{"email": "ada@example.com", "url": "https://courses.example.com/1"}] * rows
    statement = (
        "INSERT INTO download_tasks (status, email, course_url) VALUES ('enrolled', :email, :url)"
    )
    world.database.run_in_transaction(
        lambda connection: connection.execute(text(statement), values)
    )


def _settle(world: ClusterWorld, jobs: int) -> None:
    """Wait until the Job controller has created all pods: it must not slow the next measurement."""
    world.wait_for(
        lambda: len(world.cluster.pods(world.namespace)) >= jobs,
        "all pods are there",
        timeout=1200,
    )
