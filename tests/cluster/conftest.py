"""One control plane and one pod runner for all cluster tests; a namespace for each test."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from tests.cluster.chart import grant
from tests.cluster.control_plane import (
    Cluster,
    ControlPlane,
    ControlPlaneAbsent,
    start_control_plane,
)
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.job_watch import JobWatch
from tests.cluster.pod_runner import FakeKubelet, PodRunner, sandbox
from tests.cluster.world import DELIVERED, ClusterWorld
from tests.conftest import absent, left_out

from enrollgate.control.wiring import utc_now
from enrollgate.launchers.kubernetes import JobSettings, KubernetesLauncher


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that ENROLLGATE_TEST_KUBECONFIG names, else one that the tests start."""
    with tempfile.TemporaryDirectory(
        prefix="enrollgate-cluster-", ignore_cleanup_errors=True
    ) as folder:
        if given := os.environ.get("ENROLLGATE_TEST_KUBECONFIG"):
            yield Cluster(Path(given), None, Path(folder))
            return
        try:
            plane = start_control_plane(Path(folder))
        except ControlPlaneAbsent as error:
            absent("kube-apiserver", str(error))
        try:
            yield Cluster(plane.kubeconfig("admin", plane.admin), plane, Path(folder))
        finally:
            plane.kill()


@pytest.fixture(scope="session")
def plane(cluster: Cluster) -> ControlPlane:
    """A control plane that tests may break."""
    if cluster.plane is None:
        left_out(
            "ENROLLGATE_TEST_KUBECONFIG names a cluster: no test that breaks its control plane"
        )
    return cluster.plane


@pytest.fixture(scope="session")
def pod_runner(cluster: Cluster) -> Iterator[PodRunner]:
    """The tests' own kubelet, which can inject faults. On a cluster with nodes, see `nodes`."""
    if cluster.plane is None:
        left_out(
            "ENROLLGATE_TEST_KUBECONFIG names a cluster: "
            "tests that need the pod runner's faults are left out"
        )
    if refused := sandbox.refusal():
        absent(
            "the right to mount",
            f"the pod runner mounts what pods mount: run the tests as root on Linux ({refused})",
        )
    with tempfile.TemporaryDirectory(
        prefix="enrollgate-pods-", ignore_cleanup_errors=True
    ) as folder:
        runner = PodRunner(cluster, Path(folder))
        runner.start()
        try:
            yield runner
        finally:
            runner.stop()
        assert not runner.errors, runner.errors


@pytest.fixture(scope="session")
def nodes(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    """Something that runs pods correctly: the cluster's own nodes, or else the pod runner."""
    if cluster.plane is not None:
        request.getfixturevalue("pod_runner")


@pytest.fixture(scope="session")
def image() -> str:
    """The image of the Jobs. The pod runner accepts any name; your own cluster must have the
    image.
    """
    return os.environ.get("ENROLLGATE_TEST_IMAGE", "enrollgate:test")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace under the `restricted` Pod Security Standard."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture
def operator_kubeconfig(cluster: Cluster, namespace: str) -> Path:
    """A token of the chart's service account, with its Role for one replica."""
    grant(namespace, cluster.kubeconfig, replicas=1)
    return cluster.kubeconfig_for(namespace, "school")


@pytest.fixture
def make_launcher(
    operator_kubeconfig: Path,
) -> Iterator[Callable[[JobSettings], KubernetesLauncher]]:
    """Build launchers with the operator's token, which are closed at the end."""
    with ExitStack() as opened:

        def make(settings: JobSettings) -> KubernetesLauncher:
            launcher = KubernetesLauncher(
                Cluster.api_for(operator_kubeconfig),
                settings,
                start_timeout=900,
                concurrency=2,
                clock=utc_now,
            )
            return opened.enter_context(closing(launcher))

        yield make


@pytest.fixture
def world(
    cluster: Cluster,
    nodes: None,
    namespace: str,
    operator_kubeconfig: Path,
    sqlite_url: str,
    image: str,
    tmp_path: Path,
) -> Iterator[ClusterWorld]:
    """Rows, Jobs whose workers end as the test says, and operators to start and stop."""
    made = ClusterWorld(cluster, namespace, sqlite_url, operator_kubeconfig, tmp_path, image=image)
    yield made
    made.close()


@pytest.fixture
def fault_proxy(cluster: Cluster) -> Iterator[FaultProxy]:
    """A proxy between the API server and those operators that use its kubeconfig."""
    made = FaultProxy(cluster)
    yield made
    made.close()


@pytest.fixture
def watch(cluster: Cluster, namespace: str) -> Iterator[JobWatch]:
    """A record of every Job that ever existed in the namespace."""
    made = JobWatch(cluster, namespace)
    yield made
    made.close()


@pytest.fixture
def fake_kubelet(cluster: Cluster, pod_runner: PodRunner, namespace: str) -> Iterator[FakeKubelet]:
    """Replaces the pod runner in this namespace: pods succeed at once, without a process."""
    pod_runner.left_alone.add(namespace)
    made = FakeKubelet(cluster, namespace, DELIVERED.encode())
    made.start()
    yield made
    made.stop()


@pytest.fixture
def brief_workers(cluster: Cluster, world: ClusterWorld, request: pytest.FixtureRequest) -> None:
    """Workers that succeed at once: by the fake kubelet, or on your own nodes by a shell that
    exits.
    """
    if cluster.plane is not None:
        request.getfixturevalue("fake_kubelet")
    else:
        world.template.write_text(world.template.read_text().replace("until [", "exit 0; until ["))
