"""Plays nodes for very many pods: no processes, only the statuses that a kubelet would report, as quickly as they can be sent.

For benchmarks, in place of a `PodRunner`. A pod is Running as soon as it is seen; it has Succeeded at once, or, while `hold` is
set, once `finish` says so.
"""

import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import statuses
from tests.cluster.pod_runner.runner import AWAY, changes_of_pods

from enrollgate.launchers.kubernetes import ApiError

Json = dict[str, Any]


@dataclass
class Mimic:
    """Serves the pods of one namespace with some threads of its own."""

    cluster: Cluster
    namespace: str
    message: str
    """The termination message of each worker."""
    threads: int = 8
    hold: threading.Event = field(default_factory=threading.Event)
    """While it is set, pods go on running."""
    running: dict[str, Json] = field(default_factory=dict)
    """By name: those that are held."""

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._work: queue.SimpleQueue[tuple[Json, bool]] = queue.SimpleQueue()
        self._seen: set[str] = set()
        self.api = self.cluster.api_of(self.cluster.kubeconfig, connections=self.threads)

    def start(self) -> None:
        threading.Thread(target=self._watch, name="mimic", daemon=True).start()
        for number in range(self.threads):
            threading.Thread(target=self._serve, name=f"mimic-{number}", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def finish(self, names: Iterable[str] | None = None) -> None:
        """Lets held pods succeed: these, or all."""
        for name in list(self.running) if names is None else names:
            self._work.put((self.running.pop(name), True))

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                listing = self.api.request("GET", "/api/v1/pods")
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
            if pod.get("status", {}).get("phase") == "Pending" and not metadata.get("deletionTimestamp"):
                self._work.put((pod, False))

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                pod, ends = self._work.get(timeout=0.5)
            except queue.Empty:
                continue
            try:
                if ends:
                    self._succeed(pod)
                else:
                    self._run(pod)
            except ApiError as error:
                if error.status != 404:  # deleted meanwhile
                    raise

    def _run(self, pod: Json) -> None:
        container = pod["spec"]["containers"][0]
        state = statuses.running(container, statuses.now(), ready=True)
        self._report(pod, "Running", state, ready=True)
        if self.hold.is_set():
            self.running[pod["metadata"]["name"]] = pod
        else:
            self._succeed(pod)

    def _succeed(self, pod: Json) -> None:
        container = pod["spec"]["containers"][0]
        state = statuses.terminated(container, statuses.now(), code=0, reason="Completed", message=self.message)
        self._report(pod, "Succeeded", state, ready=False)

    def _report(self, pod: Json, phase: str, state: Json, *, ready: bool) -> None:
        metadata = pod["metadata"]
        status = {
            "phase": phase,
            "startTime": metadata["creationTimestamp"],
            "conditions": statuses.ready_conditions(ready=ready),
            "containerStatuses": [state],
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self.api.request("PATCH", path, body={"status": status})
