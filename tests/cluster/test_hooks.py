"""Failed Helm hooks say why, the release is not installed, and nothing of it stays behind."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.chart.rendering import REQUIRED, merged
from tests.cluster.chart import deploy, helm
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import PodRunner

OUT_OF_REACH = "mysql://enrollgate:unlikely-password@127.0.0.1:1/courses"
IMAGE = {"image": {"repository": "enrollgate", "tag": "test"}}


def install(
    cluster: Cluster, namespace: str, values: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    return deploy("install", merged(values, IMAGE), cluster=cluster, namespace=namespace)


def list_secrets(cluster: Cluster, namespace: str) -> set[str]:
    """Return the Secrets of a namespace, without Helm's own record of the release."""
    names = {
        each["metadata"]["name"]
        for each in cluster.items(f"/api/v1/namespaces/{namespace}/secrets")
    }
    return {name for name in names if not name.startswith("sh.helm.release")}


def list_policies(cluster: Cluster, namespace: str) -> set[str]:
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    return {each["metadata"]["name"] for each in cluster.items(path)}


def test_a_release_without_its_secret_is_not_installed(
    cluster: Cluster, pod_runner: PodRunner, namespace: str
) -> None:
    """The migration finds no database address, and must not create a database of its own."""
    done = install(cluster, namespace, merged(REQUIRED, {"migration": {"timeout": 5}}))

    assert done.returncode != 0 and "school-enrollgate-migrate" in done.stderr
    (job,) = cluster.jobs(namespace)
    assert not job["status"].get("succeeded")
    assert not cluster.items(f"/apis/apps/v1/namespaces/{namespace}/deployments")


def test_a_failed_migration_says_why_and_leaves_nothing_behind(
    cluster: Cluster, pod_runner: PodRunner, namespace: str
) -> None:
    values = {
        "database": {"url": OUT_OF_REACH},
        "destination": "drive:0AbCdEfGhIjKlMnOp",
        "migration": {"timeout": 20},
        "networkPolicy": {"enabled": True},
    }
    with ThreadPoolExecutor() as pool:
        installing = pool.submit(install, cluster, namespace, values)
        cluster.wait_for(lambda: cluster.pods(namespace), what="the migration's pod")
        assert list_policies(cluster, namespace) == {"school-enrollgate-migration"}, (
            "otherwise the migration has no network"
        )
        done = installing.result()

    assert done.returncode != 0 and "127.0.0.1" in done.stdout + done.stderr, (
        "the log of the migration"
    )
    assert list_secrets(cluster, namespace) == list_policies(cluster, namespace) == set()
    (job,) = cluster.jobs(namespace)
    assert "unlikely-password" not in json.dumps(job)

    gone = helm("uninstall", "school", "-n", namespace, "--wait", kubeconfig=cluster.kubeconfig)
    assert gone.returncode == 0, gone.stderr
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{job['metadata']['name']}"
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    cluster.api.request(
        "PATCH", path, body={"spec": {"ttlSecondsAfterFinished": 1}}
    )  # so that the test need not wait for the real value
    cluster.wait_for(
        lambda: not cluster.jobs(namespace) and not cluster.pods(namespace), what="nothing is left"
    )


def test_a_failing_helm_test_says_why_and_is_removed(
    cluster: Cluster, pod_runner: PodRunner, namespace: str
) -> None:
    values = {
        "database": {"url": OUT_OF_REACH},
        "destination": "drive:0AbCdEfGhIjKlMnOp",
        "migration": {"mode": "external"},
        "replicas": 0,
    }
    assert install(cluster, namespace, values).returncode == 0

    done = helm("test", "school", "--logs", "-n", namespace, kubeconfig=cluster.kubeconfig)

    assert done.returncode != 0 and "failed  database" in done.stdout, done.stdout + done.stderr
    assert " cluster: " not in done.stdout, (
        "it is no operator, and does not judge by what a worker may not do"
    )
    helm("uninstall", "school", "-n", namespace, "--wait", kubeconfig=cluster.kubeconfig)
    cluster.wait_for(
        lambda: not cluster.pods(namespace) and not list_secrets(cluster, namespace),
        what="nothing is left",
    )
