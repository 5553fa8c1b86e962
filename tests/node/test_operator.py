"""Operators come and go on a real node: live Jobs go on, and each task keeps its one Job."""

from collections.abc import Callable

import pytest
from tests.cluster.chart import CHART
from tests.cluster.control_plane import Cluster
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture
from tests.node.faults import kill_container
from tests.node.installation import RELEASE, Installation, every_task_has_one_job

Install = Callable[..., Installation]
TASKS = 4


def test_another_replica_takes_over_when_the_leaders_pod_dies(
    install: Install, site: FaultySite, node: Cluster
) -> None:
    installation = install(replicas=2, leaseDuration="5s", maxConcurrentRuns=TASKS)

    def find_leader() -> str:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{installation.namespace}/leases/{RELEASE}"
        holder = node.api.request("GET", path)["spec"].get("holderIdentity") or ""
        return str(holder.rpartition("_")[0])

    installation.wait_for(find_leader, "a replica leads")
    leader = find_leader()
    pod = node.api.request("GET", f"/api/v1/namespaces/{installation.namespace}/pods/{leader}")
    with every_task_has_one_job(installation):
        for _ in range(TASKS):
            installation.enroll(f"{site.url}/feed")
        kill_container(pod)
        installation.kubectl("delete", "pod", leader, "--force", "--grace-period=0")
        installation.wait_for(lambda: find_leader() not in ("", leader), "another one leads")
        installation.wait_for(
            lambda: set(installation.statuses().values()) == {"completed"}, "all are completed"
        )
    assert [outcome for outcome, *_ in installation.runs()] == ["succeeded"] * TASKS
    shown = installation.kubectl("get", "pods", "-l", "app.kubernetes.io/component=operator")
    assert leader not in shown, "the Deployment has replaced its pod"


@pytest.mark.slow_node
def test_upgrade_rollback_and_uninstall_leave_live_jobs_alone(
    install: Install, site: FaultySite, node: Cluster
) -> None:
    site.lectures, site.rate = [Lecture("Long", lecture(20_000_000, 1))], 60_000
    installation = install()
    values = ("-f", str(installation.values), "--wait", "--timeout", "5m")
    with every_task_has_one_job(installation):
        installation.enroll(f"{site.url}/feed")
        first = installation.wait_for_running_worker()["metadata"]["uid"]
        installation.helm("upgrade", RELEASE, str(CHART), *values, "--set", "maxConcurrentRuns=7")
        installation.enroll(f"{site.url}/feed")
        installation.wait_for(lambda: len(_running(installation)) == 2, "both workers run")
        workers = _running(installation)
        assert first in workers
        installation.helm("rollback", RELEASE, "1", "--wait")
        assert "maxConcurrentRuns: 7" not in installation.helm("get", "values", RELEASE)

        installation.helm("uninstall", RELEASE, "--wait")

        assert _running(installation) == workers, "they do not notice"
        site.rate = 0
        installation.wait_for(lambda: not _running(installation), "they end")
        assert installation.statuses() == {1: "enrolled", 2: "enrolled"}, "nobody records them"
        installation.helm("install", RELEASE, str(CHART), *values)
        installation.wait_for(
            lambda: installation.statuses() == {1: "completed", 2: "completed"},
            "the new operator records them",
        )
    assert {pod["metadata"]["uid"] for pod in installation.worker_pods()} == workers
    assert [outcome for outcome, *_ in installation.runs()] == ["succeeded"] * 2


def _running(installation: Installation) -> set[str]:
    """Return the uids of the pods whose workers run."""
    pods = installation.worker_pods()
    return {pod["metadata"]["uid"] for pod in pods if pod["status"]["phase"] == "Running"}
