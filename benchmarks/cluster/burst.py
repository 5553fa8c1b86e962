"""A burst of enrolled rows: the operator against a bare loop that creates the same Jobs."""

import subprocess
import sys
import time

from sqlalchemy import text
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import FakeKubelet
from tests.cluster.world import ClusterWorld

from benchmarks.cluster.cluster_env import JobWatch, cluster_env, pinned_cpus
from enrollgate.domain.report import Report


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
    operator, completed = _operator(cluster, url, jobs)
    after = _bare(cluster, url, jobs)
    return {
        "control_plane_core": core,
        "rows": jobs,
        "bare_jobs_per_second": (before + after) / 2,
        "operator_jobs_per_second": operator,
        "relative_to_bare_loop": operator / ((before + after) / 2),
        "rows_completed_per_second": completed,
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


def _operator(cluster: Cluster, url: str, jobs: int) -> tuple[float, float]:
    """Measure Jobs created per second, and then, once all pods may end, rows completed per
    second.
    """
    report = Report(
        None, "3 items delivered", items_delivered=3, destination_url="https://drive.test/f"
    )
    with cluster_env(cluster, url, MAX_CONCURRENT_RUNS=str(jobs)) as world:
        watch = JobWatch(cluster, world.namespace)
        process = world.start_operator()
        (first,) = world.add("processing")
        world.wait_for(
            lambda: f"ENROLL CHECK task={first} " in world.log, "the operator makes passes"
        )
        enroll(world, jobs)
        committed = time.monotonic()
        world.wait_for(lambda: len(watch.appeared) >= jobs, "the Jobs are there", timeout=1200)
        _settle(world, jobs)
        fake_kubelet = FakeKubelet(cluster, world.namespace, report.encode())
        fake_kubelet.start()
        begin = time.monotonic()
        world.wait_for(
            lambda: world.statuses().get("completed") == jobs,
            "all rows are completed",
            timeout=1200,
        )
        completed = jobs / (time.monotonic() - begin)
        fake_kubelet.stop()
        world.stop_operator(process)
        assert len(watch.appeared) == jobs, "a task had two Jobs"
        watch.close()
        return watch.per_second(committed), completed


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
