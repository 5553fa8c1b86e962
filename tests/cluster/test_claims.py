"""Which claim a Job belongs to, and when it was launched, started and ended."""

from collections.abc import Callable
from contextlib import closing

import pytest
from tests.cluster.control_plane import Cluster
from tests.cluster.jobs import ORDER, delete, ended, list_pods, make_job, wait_until_gone
from tests.job_settings import job_settings
from tests.world import World

from enrollgate.launchers.kubernetes import JobSettings, KubernetesLauncher

MakeLauncher = Callable[[JobSettings], KubernetesLauncher]
STUBBORN_WORKER = "trap '' TERM; until [ -s /never ]; do sleep 0.1; done"


@pytest.mark.usefixtures("nodes")
def test_restored_task_runs_again_once_the_pod_of_its_old_job_is_gone(
    cluster: Cluster, namespace: str, make_launcher: MakeLauncher, sqlite_url: str, image: str
) -> None:
    """The database was restored while the Job was live.

    The worker ignores SIGTERM, and the operator is restarted in the middle.
    """
    worker = {"name": "worker", "command": ["sh", "-c", STUBBORN_WORKER], "args": []}
    template = {"spec": {"template": {"spec": {"containers": [worker]}}}}
    settings = job_settings(namespace, "test", image, stop_grace=3, template=template)
    launcher = make_launcher(settings)
    with closing(World(sqlite_url)) as world:
        task = world.add("enrolled")
        world.new_operator(launcher=launcher).reconcile()
        cluster.wait_for(lambda: [pod for pod in list_pods(cluster, namespace) if pod.has_started])
        (old,) = list_pods(cluster, namespace)
        world.sql("DELETE FROM enrollgate_runs")

        def is_running_again() -> bool:
            world.new_operator(launcher=launcher).reconcile()
            pods = list_pods(cluster, namespace)
            assert len({pod.claim_id for pod in pods if not pod.is_finished}) <= 1, pods
            return bool(pods) and all(pod.claim_id != old.claim_id for pod in pods)

        cluster.wait_for(is_running_again)
        (run,) = world.runs(task)
        assert (run.name, run.state) == (f"test-{task}-1", "launched")


@pytest.mark.usefixtures("nodes")
def test_ended_job_is_observed_with_the_instants_of_its_worker(
    cluster: Cluster, namespace: str, make_launcher: MakeLauncher, image: str
) -> None:
    ended(cluster, make_job(cluster, namespace, "sleep 2", image))
    launcher = make_launcher(job_settings(namespace, "harness", image))
    seen = launcher.observe([ORDER.name])[ORDER.name]
    (pod,) = list_pods(cluster, namespace)
    assert pod.termination is not None
    assert (seen.started_at, seen.finished_at) == (pod.started_at, pod.termination.at)
    assert seen.launched_at and seen.started_at and seen.finished_at
    assert seen.launched_at <= seen.started_at < seen.finished_at
    path = f"/api/v1/namespaces/{namespace}/pods/{pod.name}"
    delete(cluster, path)
    wait_until_gone(cluster, path)
    left = launcher.observe([ORDER.name])[ORDER.name]
    assert left.started_at and left.finished_at, "the Job itself says so"
    assert left.started_at < left.finished_at
