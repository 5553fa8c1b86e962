"""Watches all pods, and gives each new one a life."""

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
from tests.cluster.pod_runner import statuses
from tests.cluster.pod_runner.life import NODE, Fault, Life

from enrollgate.launchers.kubernetes import ApiError
from enrollgate.launchers.protocol import LauncherUnavailable

Json = dict[str, Any]


@dataclass
class PodRunner:
    """Start it once; it serves every namespace. Tests ask it for faults by a predicate on the pod."""

    cluster: Cluster
    folder: Path
    lives: dict[str, Life] = field(default_factory=dict)
    """By uid."""
    faults: list[tuple[Callable[[Json], bool], Fault]] = field(default_factory=list)
    node_is_lost: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._make_node()
        self.folder.chmod(0o755)
        self.thread = threading.Thread(target=self._watch, name="pod-runner", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopped.set()
        for life in list(self.lives.values()):
            life.deleted.set()

    @contextlib.contextmanager
    def fault(self, kind: Fault, concerns: Callable[[Json], bool]) -> Iterator[None]:
        """Pods that are created meanwhile, and that it concerns, go wrong in this way."""
        rule = (concerns, kind)
        self.faults.append(rule)
        try:
            yield
        finally:
            self.faults.remove(rule)

    def of(self, namespace: str, prefix: str = "") -> list[Life]:
        """The lives, so far, of a namespace's pods whose names begin so."""
        return [
            life
            for life in list(self.lives.values())
            if life.pod["metadata"]["namespace"] == namespace and life.pod["metadata"]["name"].startswith(prefix)
        ]

    def running(self, namespace: str, prefix: str = "") -> list[Life]:
        """Those whose processes run."""
        return [life for life in self.of(namespace, prefix) if life.process is not None and life.process.poll() is None]

    def _make_node(self) -> None:
        with contextlib.suppress(ApiError):
            self.cluster.create("/api/v1/nodes", {"metadata": {"name": NODE}})
        status = {"conditions": [statuses.condition("Ready", holds=True, reason="KubeletReady")]}
        self.cluster.api.request("PATCH", f"/api/v1/nodes/{NODE}/status", body={"status": status})

    def _watch(self) -> None:
        while not self.stopped.is_set():
            try:
                for kind, pod in watch_pods(self.cluster):
                    self._handle(kind, pod)
            except (
                ApiError,
                LauncherUnavailable,
                urllib3.exceptions.HTTPError,
                client.ApiException,
                OSError,
                ValueError,
            ):
                time.sleep(0.2)  # the API server is away: list again

    def _handle(self, kind: str, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        life = self.lives.get(uid)
        if kind == "DELETED" or pod["metadata"].get("deletionTimestamp"):
            if life is not None:
                life.deleted.set()
            return
        if life is None and not pod["spec"].get("nodeName"):
            self._begin(pod)

    def _begin(self, pod: Json) -> None:
        fault = next((kind for concerns, kind in self.faults if concerns(pod)), None)
        metadata = pod["metadata"]
        folder = self.folder / f"{metadata['namespace']}-{metadata['name']}"
        life = Life(self.cluster, pod, folder, self.folder / "claims", fault, self.node_is_lost)
        self.lives[metadata["uid"]] = life
        threading.Thread(target=self._run, args=(life,), name=metadata["name"], daemon=True).start()

    def _run(self, life: Life) -> None:
        while True:
            try:
                life.run()
            except LauncherUnavailable:  # the API server is away just now
                if life.process is None and not life.gone.is_set():
                    time.sleep(0.2)
                    continue
            except BaseException as error:
                self.errors.append(error)
                raise
            return


def watch_pods(cluster: Cluster) -> Iterator[tuple[str, Json]]:
    """All pods as they are, then as they change; ends when the watch does."""
    listing = cluster.api.request("GET", "/api/v1/pods")
    for pod in listing["items"]:
        yield "ADDED", pod
    core = client.CoreV1Api(client.ApiClient(cluster.api.configuration))
    stream = core.list_pod_for_all_namespaces(
        watch=True,
        resource_version=listing["metadata"]["resourceVersion"],
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
        stream.stream(65536, decode_content=False) if hasattr(stream, "stream") else stream.response.stream(65536)
    ):
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        yield from lines
