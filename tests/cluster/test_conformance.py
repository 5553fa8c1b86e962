"""The Kubernetes launcher keeps the promises of `Launcher`, on a real control plane."""

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from kubernetes import client
from tests.cluster.control_plane import Cluster
from tests.cluster.exit_script import SCRIPTED_WORKER, WORKER_FOLDER, WORKER_VOLUME, ExitScript
from tests.job_settings import job_settings
from tests.launcher_conformance import INSTALLATION, LauncherConformance

from enrollgate.control.wiring import utc_now
from enrollgate.domain.order import RunOrder
from enrollgate.domain.reasons import exit_code
from enrollgate.domain.report import Report
from enrollgate.launchers import Launcher
from enrollgate.launchers.kubernetes import Api, KubernetesLauncher
from enrollgate.launchers.kubernetes.manifest import build_job


class KubernetesBackend:
    """Jobs in one namespace; their workers end when an annotation of the pod says so."""

    def __init__(self, cluster: Cluster, namespace: str, kubeconfig: Path, image: str) -> None:
        worker: dict[str, Any] = {
            "name": "worker",
            "command": ["sh", "-c", SCRIPTED_WORKER],
            "args": [],
            "volumeMounts": [WORKER_FOLDER],
        }
        pod = {"containers": [worker], "volumes": [WORKER_VOLUME]}
        self._settings = job_settings(
            namespace,
            INSTALLATION,
            image,
            stop_grace=5,
            template={"spec": {"template": {"spec": pod}}},
        )
        self._cluster = cluster
        self._kubeconfig = kubeconfig
        self._exit_script = ExitScript(cluster, namespace)
        self._launcher = self._open(Cluster.api_for(kubeconfig))

    def _open(self, api: Api) -> KubernetesLauncher:
        return KubernetesLauncher(
            api,
            self._settings,
            start_timeout=900,
            concurrency=2,
            clock=utc_now,
        )

    @property
    def launcher(self) -> Launcher:
        return self._launcher

    def restart(self) -> None:
        self._launcher.close()
        self._launcher = self._open(Cluster.api_for(self._kubeconfig))

    def finish(self, name: str, report: Report) -> None:
        self._exit_script.set_exit(name, exit_code(report.reason), report.encode())

    def take_name(self, name: str) -> None:
        job = build_job(RunOrder(name, 1, 1, "", ""), self._settings)
        # A Job without labels would get those of its pods.
        job["metadata"]["labels"] = {"app": "theirs"}
        job["spec"]["suspend"] = True
        path = f"/apis/batch/v1/namespaces/{self._settings.namespace}/jobs"
        self._cluster.create(path, job)

    def make_unavailable(self) -> None:
        self._launcher.close()
        configuration = client.Configuration()
        configuration.host = "https://127.0.0.1:1"
        self._launcher = self._open(Api(configuration, random=Random(1), sleep=time.sleep))

    def close(self) -> None:
        self._exit_script.close()
        self._launcher.close()


@pytest.fixture
def backend(
    cluster: Cluster, namespace: str, operator_kubeconfig: Path, image: str
) -> Iterator[KubernetesBackend]:
    backend = KubernetesBackend(cluster, namespace, operator_kubeconfig, image)
    yield backend
    backend.close()


@pytest.mark.usefixtures("nodes")
class TestConformance(LauncherConformance):
    """The cases."""
