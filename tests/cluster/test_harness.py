"""The control plane and the pod runner do what real ones do, so that the other tests mean something."""

from typing import Any

import pytest
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import PodRunner

from enrollgate.domain.order import RunOrder
from enrollgate.launchers.kubernetes import ApiError, JobSettings
from enrollgate.launchers.kubernetes.manifest import build_job
from enrollgate.launchers.kubernetes.views import job_view, pod_view

ORDER = RunOrder("harness-1-1", 1, 1, "https://courses.example.com/1", "cookies.txt")


def make_job(cluster: Cluster, namespace: str, script: str, **settings: Any) -> str:
    """Our own Job, its program replaced by a shell script."""
    job = build_job(ORDER, JobSettings(namespace, "harness", "enrollgate:test", **settings))
    job["spec"]["template"]["spec"]["containers"][0] |= {"command": ["sh", "-c", script], "args": []}
    cluster.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)
    return ORDER.name


def ended(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    def verdict() -> object:
        return job_view(cluster.api.request("GET", path)).verdict

    path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
    cluster.wait_for(verdict, what=f"the end of {name}")
    return cluster.api.request("GET", path)


def test_a_job_runs_once_as_its_spec_says(cluster: Cluster, pod_runner: PodRunner, namespace: str) -> None:
    cluster.secret(namespace, "cookies", **{"cookies.txt": "secret-cookie"})
    script = """
        id -u; cat /etc/enrollgate/cookies/cookies.txt; touch /scratch/a /tmp/b && echo writable
        touch /etc/c 2>&1; touch /etc/enrollgate/cookies/d 2>&1; grep CapEff /proc/self/status
        printf '%s' "task $ENROLLGATE_TASK_ID, failed before: $ENROLLGATE_FAILED_TRIES" > /dev/termination-log
    """
    name = make_job(cluster, namespace, script, cookies_secret="cookies")
    assert job_view(ended(cluster, namespace, name)).verdict.succeeded  # type: ignore[union-attr]
    (pod,) = cluster.pods(namespace)
    stop = pod_view(pod).stop
    assert stop is not None and (stop.exit_code, stop.message) == (0, "task 1, failed before: 0")
    (life,) = pod_runner.of(namespace)
    log = life.log.read_text()
    assert "10001\nsecret-cookie" in log and "writable" in log and log.count("Read-only file system") == 2
    assert "CapEff:\t0000000000000000" in log


def test_a_permanent_exit_code_fails_the_job_at_once(cluster: Cluster, pod_runner: PodRunner, namespace: str) -> None:
    job = job_view(ended(cluster, namespace, make_job(cluster, namespace, "exit 69")))
    assert job.verdict is not None and not job.verdict.succeeded and job.verdict.reason == "PodFailurePolicy"
    assert len(cluster.pods(namespace)) == 1


def test_a_retried_pod_knows_how_many_failed_before_it(cluster: Cluster, pod_runner: PodRunner, namespace: str) -> None:
    script = 'printf %s "$ENROLLGATE_FAILED_TRIES" > /dev/termination-log; exit 75'
    job = job_view(ended(cluster, namespace, make_job(cluster, namespace, script, max_tries=2)))
    assert job.verdict is not None and job.verdict.reason == "BackoffLimitExceeded"
    pods = sorted(map(pod_view, cluster.pods(namespace)), key=lambda pod: pod.created)
    assert [pod.stop.message for pod in pods if pod.stop] == ["0", "1"]


def test_a_deleted_jobs_process_is_asked_to_end(cluster: Cluster, pod_runner: PodRunner, namespace: str) -> None:
    script = "trap 'echo asked; exit 75' TERM; echo up; while :; do sleep 0.1; done"
    name = make_job(cluster, namespace, script)
    cluster.wait_for(lambda: pod_runner.running(namespace) and "up" in pod_runner.of(namespace)[0].log.read_text())
    options = {"propagationPolicy": "Background"}
    cluster.api.request("DELETE", f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}", body=options)
    cluster.wait_for(lambda: not cluster.pods(namespace))
    (life,) = pod_runner.of(namespace)
    assert "asked" in life.log.read_text()


def test_an_account_without_a_role_is_refused(cluster: Cluster, namespace: str) -> None:
    api = cluster.api_of(cluster.kubeconfig_for(namespace, "default"))
    with pytest.raises(ApiError, match="cannot list resource"):
        api.request("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs")


def test_a_pod_that_may_be_root_is_refused(cluster: Cluster, namespace: str) -> None:
    pod = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    with pytest.raises(ApiError, match="violates PodSecurity"):
        cluster.create(f"/api/v1/namespaces/{namespace}/pods", pod)
