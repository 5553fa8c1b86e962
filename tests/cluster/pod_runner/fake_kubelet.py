"""A kubelet for thousands of pods: no processes, only statuses, sent as fast as possible.

Bursts and benchmarks use it in place of a `PodRunner`. A pod succeeds as soon as it is seen.
While `hold` is set, it runs until `finish` is called. Requests are written by hand: the official
client would cost more than the API server.
"""

import http.client
import json
import queue
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import statuses
from tests.cluster.pod_runner.reporting import NODE
from tests.cluster.pod_runner.runner import AWAY, changes_of_pods

from enrollgate.launchers.kubernetes.tls import without_strict

Json = dict[str, Any]


@dataclass
class FakeKubelet:
    """Serves the pods of one namespace with threads of its own."""

    cluster: Cluster
    namespace: str
    # The termination message of each worker.
    message: str
    threads: int = 4
    # Whether pods are bound to the pod runner's node, so that it is asked for their logs.
    binds: bool = False
    # While it is set, pods keep running.
    hold: threading.Event = field(default_factory=threading.Event)
    # Held pods, by name.
    running: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._work: queue.SimpleQueue[tuple[Json, bool]] = queue.SimpleQueue()
        self._seen: set[str] = set()
        self._api = self.cluster.api_for(self.cluster.kubeconfig)

    def start(self) -> None:
        threading.Thread(target=self._watch, name="fake_kubelet", daemon=True).start()
        for number in range(self.threads):
            threading.Thread(target=self._serve, name=f"fake_kubelet-{number}", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def finish(self, names: Iterable[str] | None = None) -> None:
        """Let these held pods succeed; without names, all of them."""
        for name in list(self.running) if names is None else names:
            self._work.put((self.running.pop(name), True))

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                listing = self._api.request("GET", "/api/v1/pods")
                for pod in listing["items"]:
                    self._see(pod)
                for _, pod in changes_of_pods(self.cluster, listing["metadata"]["resourceVersion"]):
                    self._see(pod)
                    if self._stopped.is_set():
                        return
            except AWAY:
                time.sleep(0.2)

    def _see(self, pod: Json) -> None:
        metadata = pod["metadata"]
        if metadata["namespace"] == self.namespace and metadata["uid"] not in self._seen:
            self._seen.add(metadata["uid"])
            if pod.get("status", {}).get("phase") == "Pending" and not metadata.get(
                "deletionTimestamp"
            ):
                self._work.put((pod, False))

    def _serve(self) -> None:
        connection = _connection(self.cluster)
        while not self._stopped.is_set():
            try:
                pod, ends = self._work.get(timeout=0.5)
            except queue.Empty:
                continue
            if self.binds and not ends:
                target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
                body = {"metadata": {"name": pod["metadata"]["name"]}, "target": target}
                self._send(connection, "POST", f"{_path(pod)}/binding", body)
            if ends or not self.hold.is_set():
                self._report(connection, pod, "Succeeded", self._success(pod))
            else:
                state = statuses.running(_worker(pod), statuses.now(), ready=True)
                self._report(connection, pod, "Running", state)
                self.running[pod["metadata"]["name"]] = pod
        connection.close()

    def _success(self, pod: Json) -> Json:
        return statuses.terminated(
            _worker(pod), statuses.now(), code=0, reason="Completed", message=self.message
        )

    def _report(
        self, connection: http.client.HTTPSConnection, pod: Json, phase: str, state: Json
    ) -> None:
        status = {
            "phase": phase,
            "startTime": pod["metadata"]["creationTimestamp"],
            "conditions": statuses.ready_conditions(ready=phase == "Running"),
            "containerStatuses": [state],
        }
        self._send(connection, "PATCH", f"{_path(pod)}/status", {"status": status})

    @staticmethod
    def _send(connection: http.client.HTTPSConnection, method: str, path: str, body: Json) -> None:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = (method, path, json.dumps(body), {"Content-Type": kind})
        try:
            connection.request(*request)
            answer = connection.getresponse()
        except (
            http.client.HTTPException,
            OSError,
        ):  # the server closes idle connections: connect again
            connection.close()
            connection.request(*request)
            answer = connection.getresponse()
        said = answer.read()
        # 404: deleted in the meantime; 409: bound before its connection broke
        assert answer.status in (200, 201, 404, 409), said


def _path(pod: Json) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def _worker(pod: Json) -> Json:
    worker: Json = pod["spec"]["containers"][0]
    return worker


def _connection(cluster: Cluster) -> http.client.HTTPSConnection:
    configuration = cluster.api.configuration
    context = without_strict(ssl.create_default_context(cafile=configuration.ssl_ca_cert))
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return http.client.HTTPSConnection(
        cluster.url.removeprefix("https://"), context=context, timeout=60
    )
