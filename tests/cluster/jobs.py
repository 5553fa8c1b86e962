"""A Job of ours whose program is a shell script: for tests of what happens around the worker."""

from typing import Any

from tests.cluster.control_plane import Cluster
from tests.job_settings import job_settings

from enrollgate.domain.order import RunOrder
from enrollgate.launchers.kubernetes.job_client import parse_job, parse_pod
from enrollgate.launchers.kubernetes.manifest import build_job
from enrollgate.launchers.kubernetes.views import JobView, PodView

ORDER = RunOrder("harness-1-1", 1, 1, "https://courses.example.com/1", "cookies.txt")
# Runs until SIGTERM.
UP = "trap 'echo asked; exit 75' TERM; echo up; while :; do sleep 0.1; done"


def make_job(
    cluster: Cluster, namespace: str, script: str, image: str = "enrollgate:test", **settings: Any
) -> str:
    """Create the Job. Returns its API path."""
    job = build_job(ORDER, job_settings(namespace, "harness", image, **settings))
    job["spec"]["template"]["spec"]["containers"][0] |= {
        "command": ["sh", "-c", script],
        "args": [],
    }
    cluster.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{ORDER.name}"


def ended(cluster: Cluster, job: str) -> JobView:
    """Wait until the Job has finished. Returns it."""
    cluster.wait_for(
        lambda: parse_job(cluster.api.request("GET", job)).result, what=f"the end of {job}"
    )
    return parse_job(cluster.api.request("GET", job))


def list_pods(cluster: Cluster, namespace: str) -> list[PodView]:
    """Return all pods of a namespace, the oldest first."""
    return sorted(map(parse_pod, cluster.pods(namespace)), key=lambda pod: pod.created)


def list_logs(cluster: Cluster, namespace: str) -> list[str]:
    """Return the logs of the pods in this order; empty for a pod that has not started."""
    return [
        cluster.log(namespace, pod.name) if pod.has_started else ""
        for pod in list_pods(cluster, namespace)
    ]


def delete(cluster: Cluster, path: str) -> None:
    cluster.api.request("DELETE", path, body={"propagationPolicy": "Background"})


def wait_until_gone(cluster: Cluster, path: str) -> None:
    """Wait until there is no object at this path."""
    cluster.wait_for(lambda: cluster.find(path) is None, what=f"{path} is gone")
