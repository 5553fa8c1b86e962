"""Watches all pods and starts a `Life` for each new one."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client
from tests.cluster.control_plane import Cluster
from tests.cluster.control_plane.cluster import lenient_client
from tests.cluster.pod_runner import statuses
from tests.cluster.pod_runner.life import Fault, Life
from tests.cluster.pod_runner.logs import LogServer
from tests.cluster.pod_runner.reporting import NODE, Node

from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.kubernetes import ApiError

Json = dict[str, Any]
# What a listing or a watch raises while the API server is away.
AWAY = (
    ApiError,
    LauncherUnavailable,
    urllib3.exceptions.HTTPError,
    client.ApiException,
    OSError,
    ValueError,
)


@dataclass
class PodRunner:
    """Start it once: it serves every namespace. Tests inject faults by a predicate on the pod."""

    cluster: Cluster
    folder: Path
    # By uid.
    lives: dict[str, Life] = field(default_factory=dict)
    faults: list[tuple[Callable[[Json], bool], Fault]] = field(default_factory=list)
    # Namespaces that something else serves, for example a `FakeKubelet`.
    left_alone: set[str] = field(default_factory=set)
    # Errors of the runner itself.
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.node = Node(self.cluster)
        assert self.cluster.plane is not None
        self.logs = LogServer(self.find_life, self.cluster.plane.server)

    def start(self) -> None:
        self.folder.chmod(0o755)
        self.logs.start()
        self._make_node(self.logs.port)
        threading.Thread(target=self._watch, name="pod-runner", daemon=True).start()

    def stop(self) -> None:
        """End all processes at once."""
        self.node.stopped.set()
        self.logs.stop()
        for life in list(self.lives.values()):
            life.deleted.set()
            life.gone.wait(30)

    @contextlib.contextmanager
    def fault(self, kind: Fault, concerns: Callable[[Json], bool]) -> Iterator[None]:
        """Let matching pods that are created in this block fail in this way."""
        rule = (concerns, kind)
        self.faults.append(rule)
        try:
            yield
        finally:
            self.faults.remove(rule)

    def of(self, namespace: str, prefix: str = "") -> list[Life]:
        """Return the lives of a namespace's pods whose names begin with `prefix`."""
        return [
            life
            for life in list(self.lives.values())
            if life.pod["metadata"]["namespace"] == namespace
            and life.pod["metadata"]["name"].startswith(prefix)
        ]

    def running(self, namespace: str, prefix: str = "") -> list[Life]:
        """Return those whose processes run."""
        return [life for life in self.of(namespace, prefix) if life.running]

    @contextlib.contextmanager
    def lost_node(self) -> Iterator[None]:
        """Let the node report nothing in this block: its processes go on."""
        self.node.lost.set()
        try:
            yield
        finally:
            self.node.lost.clear()

    def drain(self, namespace: str, prefix: str = "") -> None:
        """Evict pods through the API, as `kubectl drain` does."""
        for life in self.running(namespace, prefix):
            name = life.pod["metadata"]["name"]
            body = {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": name, "namespace": namespace},
            }
            self.cluster.create(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", body)

    def find_life(self, namespace: str, name: str) -> Life | None:
        """Return the newest life of the pod of this name."""
        found = [life for life in self.of(namespace, name) if life.pod["metadata"]["name"] == name]
        return found[-1] if found else None

    def _make_node(self, port: int) -> None:
        with contextlib.suppress(ApiError):
            self.cluster.create(
                "/api/v1/nodes",
                {"metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}},
            )
        status = {
            "conditions": [statuses.condition("Ready", holds=True, reason="KubeletReady")],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        self.cluster.api.request("PATCH", f"/api/v1/nodes/{NODE}/status", body={"status": status})

    def _watch(self) -> None:
        while not self.node.stopped.is_set():
            try:
                listing = self.cluster.api.request("GET", "/api/v1/pods")
                self._take(listing["items"])
                for kind, pod in changes_of_pods(
                    self.cluster, listing["metadata"]["resourceVersion"]
                ):
                    self._handle(kind, pod)
            except AWAY:
                time.sleep(0.2)  # list again

    def _take(self, pods: list[Json]) -> None:
        """Take over a full listing: known pods that are not in it are gone."""
        for uid in set(self.lives) - {pod["metadata"]["uid"] for pod in pods}:
            self.lives[uid].deleted.set()
        for pod in pods:
            self._handle("ADDED", pod)

    def _handle(self, kind: str, pod: Json) -> None:
        metadata = pod["metadata"]
        life = self.lives.get(metadata["uid"])
        if kind == "DELETED" or metadata.get("deletionTimestamp"):
            if life is not None:
                life.grace = metadata.get("deletionGracePeriodSeconds")
                life.deleted.set()
        elif life is not None:
            life.change(pod)
        elif not pod["spec"].get("nodeName") and metadata["namespace"] not in self.left_alone:
            self._begin(pod)

    def _begin(self, pod: Json) -> None:
        fault = next((kind for concerns, kind in self.faults if concerns(pod)), None)
        metadata = pod["metadata"]
        folder = self.folder / metadata["uid"]
        life = Life(self.node, pod, folder, self.folder / "claims", fault)
        self.lives[metadata["uid"]] = life
        threading.Thread(target=self._run, args=(life,), name=metadata["name"], daemon=True).start()

    def _run(self, life: Life) -> None:
        try:
            life.run()
        except BaseException as error:
            self.errors.append(error)
            raise


def changes_of_pods(cluster: Cluster, since: str) -> Iterator[tuple[str, Json]]:
    """Yield all changes of pods from a resource version on, until the watch ends."""
    core = client.CoreV1Api(lenient_client(cluster.api.configuration))
    # With _preload_content=False the client returns the raw response, not the annotated model.
    stream: Any = core.list_pod_for_all_namespaces(
        watch=True,
        resource_version=since,
        timeout_seconds=600,
        _preload_content=False,
        _request_timeout=(5, 630),
    )
    try:
        for line in _lines(stream):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return
            yield event["type"], event["object"]
    finally:
        stream.close()


def _lines(stream: Any) -> Iterator[bytes]:
    buffer = b""
    for chunk in (
        stream.stream(65536, decode_content=False)
        if hasattr(stream, "stream")
        else stream.response.stream(65536)
    ):
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        yield from lines
