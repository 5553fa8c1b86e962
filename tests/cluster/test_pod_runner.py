"""The pod runner injects faults as real nodes show them, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.control_plane import Cluster, ControlPlane
from tests.cluster.jobs import UP, delete, ended, list_logs, list_pods, make_job
from tests.cluster.pod_runner import FakeKubelet, Fault, PodRunner

from enrollgate.launchers.kubernetes.job_client import parse_job


def of(namespace: str) -> Any:
    return lambda pod: pod["metadata"]["namespace"] == namespace


def running_job(cluster: Cluster, pod_runner: PodRunner, namespace: str) -> str:
    job = make_job(cluster, namespace, UP)
    cluster.wait_for(lambda: list_logs(cluster, namespace) == ["up\n"])
    return job


@pytest.mark.parametrize(
    ("fault", "field", "text", "event"),
    [
        (Fault.UNSCHEDULABLE, "unscheduled", "Insufficient memory", "FailedScheduling"),
        (Fault.IMAGE_PULL, "waiting_reason", "ImagePullBackOff", "BackOff"),
    ],
)
def test_a_pod_never_starts(
    cluster: Cluster,
    pod_runner: PodRunner,
    namespace: str,
    fault: Fault,
    field: str,
    text: str,
    event: str,
) -> None:
    with pod_runner.fault(fault, of(namespace)):
        job = make_job(cluster, namespace, "true")
        cluster.wait_for(
            lambda: [text in getattr(pod, field) for pod in list_pods(cluster, namespace)] == [True]
        )
        cluster.wait_for(lambda: event in [each["reason"] for each in cluster.events(namespace)])
    (pod,) = list_pods(cluster, namespace)
    assert pod.phase == "Pending" and not pod.has_started
    delete(cluster, job)
    cluster.wait_for(lambda: not list_pods(cluster, namespace))


def test_a_container_is_killed_for_memory(
    cluster: Cluster, pod_runner: PodRunner, namespace: str
) -> None:
    running_job(cluster, pod_runner, namespace)
    (life,) = pod_runner.running(namespace)
    life.kill_for_memory()
    cluster.wait_for(lambda: list_pods(cluster, namespace)[0].is_finished)
    stop = list_pods(cluster, namespace)[0].termination
    assert stop is not None and (stop.exit_code, stop.reason) == (137, "OOMKilled")


@pytest.mark.parametrize("is_disruption", [True, False])
def test_an_evicted_pod_says_why(
    cluster: Cluster, pod_runner: PodRunner, namespace: str, is_disruption: bool
) -> None:
    job = running_job(cluster, pod_runner, namespace)
    (life,) = pod_runner.running(namespace)
    (life.evict_for_pressure if is_disruption else life.evict_for_storage)()
    cluster.wait_for(lambda: list_pods(cluster, namespace)[0].is_finished)
    pod = list_pods(cluster, namespace)[0]
    assert (pod.phase, pod.reason) == ("Failed", "Evicted") and "storage" in pod.message
    assert bool(pod.disruption) == is_disruption
    if not is_disruption:
        cluster.wait_for(
            lambda: cluster.api.request("GET", job)["status"].get("failed") == 1, what="it counts"
        )


def test_a_drained_pod_is_replaced_and_not_counted(
    cluster: Cluster, pod_runner: PodRunner, namespace: str
) -> None:
    job = running_job(cluster, pod_runner, namespace)
    (first,) = list_pods(cluster, namespace)
    pod_runner.drain(namespace)
    cluster.wait_for(
        lambda: [pod.name for pod in list_pods(cluster, namespace)] not in ([first.name], [])
    )
    assert "asked" in pod_runner.of(namespace)[0].log.read_text()
    assert cluster.api.request("GET", job)["status"].get("failed", 0) == 0


def test_a_lost_nodes_pod_stays_until_the_node_is_back(
    cluster: Cluster, pod_runner: PodRunner, namespace: str
) -> None:
    job = running_job(cluster, pod_runner, namespace)
    with pod_runner.lost_node():
        delete(cluster, job)
        cluster.wait_for(lambda: list_pods(cluster, namespace)[0].delete_by)
        (life,) = pod_runner.running(namespace)
        assert life.deleted.wait(30) and life.running
    cluster.wait_for(lambda: not list_pods(cluster, namespace))
    assert not pod_runner.running(namespace)


def test_pods_outlive_an_api_server(
    cluster: Cluster, plane: ControlPlane, pod_runner: PodRunner, namespace: str
) -> None:
    script = "echo up; while [ ! -e /courses/over ]; do sleep 0.1; done; echo done"
    job = make_job(
        cluster, namespace, script, destination_claim="courses", destination="directory:/courses"
    )
    cluster.wait_for(lambda: list_logs(cluster, namespace) == ["up\n"])
    (life,) = pod_runner.running(namespace)
    plane.stop("kube-apiserver")
    (life.claims / namespace / "courses" / "over").touch()
    cluster.wait_for(lambda: not life.running)
    plane.start_api()
    result = ended(cluster, job).result
    assert result is not None and result.succeeded
    assert len(list_pods(cluster, namespace)) == 1


SERVER = """
import http.server, os, pathlib
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = pathlib.Path('/state' + self.path)
        self.send_response(200 if path.exists() else 503)
        self.end_headers()
        if (path.parent / 'crash').exists():
            (path.parent / 'crash').unlink()
            os._exit(3)
address = ('127.0.0.1', int(os.environ['ENROLLGATE_HTTP_PORT']))
http.server.HTTPServer(address, Answer).serve_forever()
"""


def test_a_deployments_pod_is_probed_and_restarted(
    cluster: Cluster, pod_runner: PodRunner, namespace: str
) -> None:
    def probe(path: str) -> dict[str, Any]:
        return {
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": 1,
            "failureThreshold": 1,
        }

    container = {
        "name": "server",
        "image": "enrollgate:test",
        "command": ["python", "-c", SERVER],
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [{"name": "ENROLLGATE_HTTP_PORT", "value": "8080"}],
        "startupProbe": probe("/live") | {"failureThreshold": 60},
        "readinessProbe": probe("/ready"),
        "livenessProbe": probe("/live"),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
    }
    security = {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    volumes = [{"name": "state", "persistentVolumeClaim": {"claimName": "state"}}]
    spec = {
        "containers": [container],
        "securityContext": security,
        "volumes": volumes,
        "terminationGracePeriodSeconds": 1,
    }
    template = {"metadata": {"labels": {"app": "server"}}, "spec": spec}
    deployment = {
        "metadata": {"name": "server"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "server"}},
            "template": template,
        },
    }
    state = pod_runner.folder / "claims" / namespace / "state"
    state.mkdir(parents=True)
    state.chmod(0o777)
    (state / "live").touch()
    cluster.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/server"

    def ready() -> bool:
        return bool(cluster.api.request("GET", path).get("status", {}).get("readyReplicas"))

    def containers() -> list[tuple[int, bool]]:
        statuses = [pod["status"].get("containerStatuses") or [] for pod in cluster.pods(namespace)]
        return [(each["restartCount"], each["ready"]) for status in statuses for each in status]

    cluster.wait_for(lambda: containers() == [(0, False)])
    (state / "ready").touch()
    cluster.wait_for(lambda: containers() == [(0, True)] and ready())
    (state / "crash").touch()
    cluster.wait_for(lambda: containers() == [(1, True)], what="the restart of a crashed container")
    (state / "live").unlink()
    cluster.wait_for(lambda: containers() == [(2, False)], what="the restart of an ill container")
    (state / "live").touch()
    cluster.wait_for(lambda: containers() == [(2, True)] and ready())


def test_pods_of_the_fake_kubelet_run_and_succeed_on_request(
    cluster: Cluster, pod_runner: PodRunner, namespace: str
) -> None:
    pod_runner.left_alone.add(namespace)
    template = {"spec": {"completions": 20, "parallelism": 20}}
    fake_kubelet = FakeKubelet(cluster, namespace, '{"done": true}')
    fake_kubelet.hold.set()
    fake_kubelet.start()
    try:
        job = make_job(cluster, namespace, "true", template=template)
        cluster.wait_for(lambda: len(fake_kubelet.running) == 20)
        assert parse_job(cluster.api.request("GET", job)).result is None
        fake_kubelet.finish()
        result = ended(cluster, job).result
        assert result is not None and result.succeeded
        assert {
            pod.termination.message for pod in list_pods(cluster, namespace) if pod.termination
        } == {'{"done": true}'}
    finally:
        fake_kubelet.stop()


KILLED = """
import pathlib, signal, sys
from tests.cluster.pod_runner import sandbox
folder = pathlib.Path(sys.argv[1])
box = sandbox.start(sandbox.Container(
    command=["sh", "-c", "sleep 1000 & wait"], variables={}, mounts=[], user=10001, read_only=True,
    folder=folder, log=folder / "log", message=folder / "message",
))
print(box.first, flush=True)
signal.pause()
"""


def test_a_killed_test_run_leaves_no_pod_behind(pod_runner: PodRunner, tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout is not None
        first = int(run.stdout.readline())
        os.kill(first, 0)
        run.send_signal(signal.SIGKILL)
    Cluster.wait_for(lambda: not Path(f"/proc/{first}").exists())
