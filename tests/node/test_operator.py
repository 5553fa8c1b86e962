"""An operator dies on a real node: each task keeps its one Job."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from tests.cluster.control_plane import Cluster
from tests.cluster.job_watch import JobWatch
from tests.faulty_site import FaultySite
from tests.node.faults import kill_container
from tests.node.installation import RELEASE, Installation

Install = Callable[..., Installation]
TASKS = 4


@contextmanager
def every_task_has_one_job(node: Cluster, installation: Installation) -> Iterator[None]:
    """Check that each task has had one Job, whatever happens in the block."""
    with closing(JobWatch(node, installation.namespace)) as watch:
        yield
        assert watch.tasks == [(task, 1) for task in installation.statuses()]


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
    with every_task_has_one_job(node, installation):
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
