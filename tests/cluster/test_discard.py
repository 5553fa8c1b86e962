"""A finished run's Job gets the label `recorded`: only if it is ours and has finished.

A Job with that label is never listed again.
"""

from collections.abc import Callable
from typing import Any

import pytest
from tests.cluster.control_plane import Cluster
from tests.cluster.jobs import ORDER, delete, ended, make_job
from tests.job_settings import job_settings

from enrollgate.domain.observation import Observation, Phase
from enrollgate.launchers.kubernetes import JobSettings, KubernetesLauncher
from enrollgate.launchers.kubernetes.views import RECORDED

UP = "while :; do sleep 0.1; done"


@pytest.fixture
def launcher(
    namespace: str, make_launcher: Callable[[JobSettings], KubernetesLauncher]
) -> KubernetesLauncher:
    return make_launcher(job_settings(namespace, "harness", "enrollgate:test"))


def is_marked(cluster: Cluster, job: str) -> bool:
    return RECORDED in cluster.api.request("GET", job)["metadata"]["labels"]


def finished_job(cluster: Cluster, namespace: str) -> str:
    job = make_job(cluster, namespace, "true")
    ended(cluster, job)
    return job


@pytest.mark.usefixtures("nodes")
def test_a_finished_job_is_labelled_as_recorded(
    cluster: Cluster, namespace: str, launcher: KubernetesLauncher
) -> None:
    job = finished_job(cluster, namespace)
    seen = launcher.observe([ORDER.name])
    assert list(seen) == [ORDER.name]
    absent = Observation("harness-2-1", Phase.FAILED)
    launcher.discard([seen[ORDER.name], absent])
    assert is_marked(cluster, job) and launcher.observe([ORDER.name]) == {}
    launcher.discard(seen.values())  # idempotent


@pytest.mark.usefixtures("nodes")
def test_a_live_job_is_never_labelled(
    cluster: Cluster, namespace: str, launcher: KubernetesLauncher
) -> None:
    job = make_job(cluster, namespace, UP)
    seen = launcher.observe([ORDER.name])
    launcher.discard(seen.values())
    assert not is_marked(cluster, job)


@pytest.mark.usefixtures("nodes")
def test_a_new_job_of_the_same_name_is_not_labelled(
    cluster: Cluster, namespace: str, launcher: KubernetesLauncher
) -> None:
    job = finished_job(cluster, namespace)
    seen = launcher.observe([ORDER.name])
    delete(cluster, job)
    cluster.wait_for(lambda: cluster.find(job) is None, what="the old Job is gone")
    make_job(cluster, namespace, UP)
    launcher.discard(seen.values())
    assert not is_marked(cluster, job)


@pytest.mark.usefixtures("nodes")
def test_a_job_of_another_installation_is_not_labelled(
    cluster: Cluster, namespace: str, launcher: KubernetesLauncher
) -> None:
    job = finished_job(cluster, namespace)
    other: dict[str, Any] = {"metadata": {"labels": {"enrollgate.io/installation": "other"}}}
    cluster.api.request("PATCH", job, body=other)
    seen = launcher.observe([ORDER.name], only=True)
    launcher.discard(seen.values())
    assert not is_marked(cluster, job)
