"""A database is restored while a Job of a later claim is live."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.cluster.control_plane import Cluster
from tests.cluster.jobs import list_pods
from tests.job_settings import job_settings
from tests.world import World

from enrollgate.control.wiring import utc_now
from enrollgate.launchers.kubernetes import KubernetesLauncher

STUBBORN_WORKER = "trap '' TERM; until [ -s /never ]; do sleep 0.1; done"


@pytest.fixture
def launcher(namespace: str, operator_kubeconfig: Path, image: str) -> Iterator[KubernetesLauncher]:
    worker = {"name": "worker", "command": ["sh", "-c", STUBBORN_WORKER], "args": []}
    settings = job_settings(
        namespace,
        "test",
        image,
        stop_grace=3,
        template={"spec": {"template": {"spec": {"containers": [worker]}}}},
    )
    made = KubernetesLauncher(
        Cluster.api_for(operator_kubeconfig),
        settings,
        start_timeout=900,
        concurrency=2,
        clock=utc_now,
    )
    yield made
    made.close()


@pytest.mark.usefixtures("nodes")
def test_restored_task_runs_again_once_the_pod_of_its_old_job_is_gone(
    cluster: Cluster, namespace: str, launcher: KubernetesLauncher, sqlite_url: str
) -> None:
    """The worker ignores SIGTERM, and the operator is restarted in the middle."""
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
