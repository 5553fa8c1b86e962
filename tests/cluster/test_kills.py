"""The operator is killed or stopped at the worst moments of a burst: each task has one Job."""

import signal
import subprocess
import time
from random import Random

import pytest
from tests.cluster.control_plane import Cluster
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.job_watch import JobWatch
from tests.cluster.steps import all_completed, wait_for_log, wait_for_starts
from tests.cluster.world import ClusterWorld

JOBS = r"/jobs$"


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("is_created", [False, True])
def test_an_operator_killed_around_a_create_leaves_no_second_job(
    world: ClusterWorld,
    watch: JobWatch,
    brief_workers: None,
    fault_proxy: FaultProxy,
    is_created: bool,
) -> None:
    """Claimed but not created: the request never leaves. Created but not recorded: the answer is
    lost.
    """
    tasks = world.add(count=6)
    with fault_proxy.hold("POST", JOBS, answers=is_created) as hold:
        process = world.start_operator(
            fault_proxy.kubeconfig(world.kubeconfig), MAX_CONCURRENT_RUNS="20"
        )
        world.wait_for(lambda: hold.held == len(tasks), "every create is under way")
        kill(process)
        hold.drop()
    assert len(world.jobs()) == (len(tasks) if is_created else 0)
    assert [run.state for run in world.runs()] == ["claimed"] * len(tasks)
    world.start_operator(MAX_CONCURRENT_RUNS="20")
    all_completed(world, watch, tasks)


def test_an_operator_killed_before_it_labels_a_finished_job_is_continued(
    world: ClusterWorld, watch: JobWatch, brief_workers: None, fault_proxy: FaultProxy
) -> None:
    """It is stopped when it labels the first Job: the row is written, the label is not."""
    tasks = world.add(count=6)
    with fault_proxy.hold("PATCH", r"/jobs/") as hold:
        process = world.start_operator(
            fault_proxy.kubeconfig(world.kubeconfig), MAX_CONCURRENT_RUNS="20"
        )
        world.wait_for(lambda: hold.held > 0, "it marks one")
        kill(process)
        hold.drop()
    assert "completed" in world.statuses()
    world.start_operator(MAX_CONCURRENT_RUNS="20")
    all_completed(world, watch, tasks)
    world.wait_for(
        lambda: all(
            "enrollgate.io/recorded" in job["metadata"]["labels"] for job in world.jobs().values()
        ),
        "all are marked",
    )


def test_an_operator_killed_repeatedly_creates_each_job_once(
    world: ClusterWorld, watch: JobWatch, brief_workers: None
) -> None:
    random = Random(20261125)
    tasks = world.add(count=150)
    for life in range(1, 7):
        process = world.start_operator(MAX_CONCURRENT_RUNS="10", CHECK_INTERVAL="0.1")
        wait_for_starts(world, life)
        time.sleep(random.uniform(0, 0.8))  # any moment will do: no time is asserted
        kill(process)
    assert world.statuses().get("enrolled"), (
        "the burst was over before the last kill: it proves nothing"
    )
    world.start_operator(MAX_CONCURRENT_RUNS="50", CHECK_INTERVAL="0.1")
    all_completed(world, watch, tasks)


def test_sigterm_in_a_burst_ends_cleanly_and_the_next_operator_finishes(
    world: ClusterWorld,
    cluster: Cluster,
    watch: JobWatch,
    brief_workers: None,
    fault_proxy: FaultProxy,
) -> None:
    """SIGTERM arrives during creates: claimed runs are created and recorded, the Lease is
    released.
    """
    tasks = world.add(count=30)
    elected = {
        "KUBERNETES__LEADER_ELECTION": "true",
        "KUBERNETES__LEASE_DURATION": "3600",
        "MAX_CONCURRENT_RUNS": "20",
    }
    with fault_proxy.hold("POST", JOBS) as hold:
        process = world.start_operator(fault_proxy.kubeconfig(world.kubeconfig), **elected)
        world.wait_for(lambda: hold.held > 0, "creates are under way")
        process.send_signal(signal.SIGTERM)
        wait_for_log(world, "stopping after this pass")
    assert process.wait(120) == 0
    assert "operator stopped" in world.log
    states = {run.name: run.state for run in world.runs()}
    assert (
        len(states) == 20
        and set(states.values()) == {"launched"}
        and set(states) == set(world.jobs())
    )
    lease = cluster.api.request(
        "GET", f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/leases/school"
    )
    assert lease["spec"]["holderIdentity"] == ""
    world.start_operator(**elected)
    all_completed(world, watch, tasks)
