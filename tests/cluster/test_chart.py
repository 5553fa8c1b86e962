"""The chart on a real API server: every object is admitted, and a release leaves nothing behind."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.chart.examples import EXAMPLES
from tests.chart.rendering import CUSTOM_KINDS, EVERYTHING, REQUIRED, merged, pods, render
from tests.cluster.chart import deploy, helm, kubectl
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import PodRunner
from tests.job_settings import job_settings

from enrollgate.domain.order import RunOrder
from enrollgate.launchers.kubernetes.manifest import build_job

WITHOUT_HOOKS = merged(REQUIRED, {"migration": {"mode": "external"}})
VOLUME = merged(
    WITHOUT_HOOKS,
    {
        "destination": "directory:/courses",
        "destinationVolume": {"create": True},
        "networkPolicy": {"enabled": True},
        "replicas": 2,
    },
)
KINDS = (
    "deployments,replicasets,pods,jobs,configmaps,secrets,serviceaccounts,roles,rolebindings,services,networkpolicies,"
    "poddisruptionbudgets"
)


def _apply(cluster: Cluster, namespace: str, objects: list[dict[str, Any]]) -> str:
    """Return what the API server answers to these objects in a server-side dry run."""
    documents = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    arguments = ("apply", "--dry-run=server", "-n", namespace, "-f", "-")
    return kubectl(*arguments, kubeconfig=cluster.kubeconfig, stdin=documents)


def _present(cluster: Cluster, namespace: str) -> set[str]:
    names = kubectl("get", KINDS, "-n", namespace, "-o", "name", kubeconfig=cluster.kubeconfig)
    return set(names.split()) - {"configmap/kube-root-ca.crt", "serviceaccount/default"}


@pytest.mark.parametrize("name", ["required", "everything", "volume"])
def test_the_api_server_admits_every_object_and_every_pod(
    cluster: Cluster, namespace: str, tmp_path: Path, name: str
) -> None:
    """The namespace enforces `restricted`. Pod templates are sent as pods, so that it checks
    them.
    """
    objects = render(
        tmp_path, {"required": REQUIRED, "everything": EVERYTHING, "volume": VOLUME}[name]
    )
    for each in objects:
        each["metadata"].pop("namespace", None)
    known = [each for each in objects if each["kind"] not in (*CUSTOM_KINDS, "Pod")]
    ours = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}"},
            "spec": _alone(spec),
        }
        for number, spec in enumerate(pods(objects))
    ]

    assert _apply(cluster, namespace, known).count("(server dry run)") == len(known)
    assert _apply(cluster, namespace, ours).count("(server dry run)") == len(ours)


def test_the_api_server_admits_every_example_of_the_docs(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    assert len(EXAMPLES) >= 8
    for name, values in EXAMPLES.items():
        known = [
            each for each in render(tmp_path, values) if each["kind"] not in (*CUSTOM_KINDS, "Pod")
        ]
        for each in known:
            each["metadata"].pop("namespace", None)
        assert _apply(cluster, namespace, known).count("(server dry run)") == len(known), name


def _alone(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the pod without references to other objects, since only Pod Security is tested."""
    theirs = ("serviceAccountName", "priorityClassName", "runtimeClassName")
    return {name: value for name, value in spec.items() if name not in theirs} | {
        "restartPolicy": "Never"
    }


def _wait_until_only(cluster: Cluster, namespace: str, part_of_name: str) -> None:
    def others() -> list[str]:
        return [name for name in _present(cluster, namespace) if part_of_name not in name]

    try:
        cluster.wait_for(lambda: not others(), timeout=200)
    except AssertionError:
        raise AssertionError(f"still there: {others()}") from None


def test_a_release_leaves_nothing_behind_and_running_jobs_alone(
    cluster: Cluster, namespace: str
) -> None:
    def release(*arguments: str) -> None:
        done = helm(*arguments, "-n", namespace, kubeconfig=cluster.kubeconfig)
        assert done.returncode == 0, done.stdout + done.stderr

    def operators() -> int:
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        return int(cluster.items(path)[0]["spec"]["replicas"])

    done = deploy("install", WITHOUT_HOOKS, cluster=cluster, namespace=namespace)
    assert done.returncode == 0, done.stdout + done.stderr
    job = build_job(
        RunOrder("school-enrollgate-1-1", 1, 1, "https://courses.example.com/1", "cookies.txt"),
        job_settings(namespace, "school-enrollgate", "enrollgate:1"),
    )
    kubectl(
        "create", "-n", namespace, "-f", "-", kubeconfig=cluster.kubeconfig, stdin=json.dumps(job)
    )
    done = deploy("upgrade", VOLUME, cluster=cluster, namespace=namespace)
    assert done.returncode == 0, done.stdout + done.stderr
    assert operators() == 2
    release("rollback", "school", "1")
    assert operators() == 1
    release("uninstall", "school", "--wait")

    _wait_until_only(cluster, namespace, "enrollgate-1-1")
    assert "job.batch/school-enrollgate-1-1" in _present(cluster, namespace)


def test_two_releases_share_a_namespace(cluster: Cluster, namespace: str) -> None:
    for name in ("day", "night"):
        done = deploy("install", VOLUME, cluster=cluster, namespace=namespace, release=name)
        assert done.returncode == 0, done.stdout + done.stderr
    for name in ("day", "night"):
        helm("uninstall", name, "-n", namespace, "--wait", kubeconfig=cluster.kubeconfig)
    _wait_until_only(cluster, namespace, "nothing")


def test_a_node_is_drained_while_no_operator_is_ready(
    cluster: Cluster, pod_runner: PodRunner, namespace: str
) -> None:
    """While the database is away, no pod is ready, so the disruption budget protects none."""
    database = {"url": "mysql://enrollgate:p@127.0.0.1:1/courses"}
    values = {
        "database": database,
        "destination": "drive:0AbCdEfGhIj",
        "migration": {"mode": "external"},
        "replicas": 2,
        "image": {"repository": "enrollgate", "tag": "test"},
    }
    done = deploy("install", values, cluster=cluster, namespace=namespace)
    assert done.returncode == 0, done.stdout + done.stderr

    def unready() -> list[str]:
        """Return running pods that are not ready: pods that have not started may always be
        evicted.
        """
        running = [
            each for each in cluster.pods(namespace) if each["status"].get("phase") == "Running"
        ]
        return [each["metadata"]["name"] for each in running if not _is_ready(each)]

    cluster.wait_for(lambda: len(unready()) == 2, what="both run")
    pod = unready()[0]
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace},
    }
    evicted = cluster.api.request(
        "POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", body=body
    )
    assert evicted["status"] == "Success"


def _is_ready(pod: dict[str, Any]) -> bool:
    return ("Ready", "True") in [
        (each["type"], each["status"]) for each in pod["status"].get("conditions", [])
    ]
