"""A pod's requests to the API server.

Like a kubelet, it waits while the server is away, and sends nothing while the node is lost.
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import statuses

from enrollgate.launchers.base import LauncherUnavailable

Json = dict[str, Any]
NODE = "node-1"
_T = TypeVar("_T")


class Stopped(Exception):
    """The runner stopped while a pod waited to report."""


@dataclass(frozen=True)
class Node:
    """What all pods of the node share."""

    cluster: Cluster
    # While it is set, the node reports nothing and sees no deletions.
    lost: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)

    def patiently(self, ask: Callable[[], _T]) -> _T:
        """Send a request once the node is there and the API server answers.

        Raises ApiError if it is refused, and Stopped.
        """
        while not self.stopped.is_set():
            if not self.lost.is_set():
                with contextlib.suppress(LauncherUnavailable):
                    return ask()
            self.stopped.wait(0.1)
        raise Stopped


@dataclass(frozen=True)
class Reporting:
    """Reports about one pod. Raises what the API server refuses."""

    node: Node
    pod: Json
    since: str

    @property
    def path(self) -> str:
        metadata = self.pod["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    def bind(self) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        body = {"metadata": {"name": self.pod["metadata"]["name"]}, "target": target}
        self.node.patiently(lambda: self.node.cluster.create(f"{self.path}/binding", body))

    def report(self, *, conditions: list[Json], **status: Any) -> None:
        """Merge the status. Another pod of the same name is left alone."""
        current = self.node.patiently(lambda: self.node.cluster.find(self.path))
        if current is None or current["metadata"]["uid"] != self.pod["metadata"]["uid"]:
            return
        merged = statuses.merged_conditions(
            current.get("status", {}).get("conditions") or [], conditions
        )
        status |= {"conditions": merged, "startTime": self.since}
        self.node.patiently(
            lambda: self.node.cluster.api.request(
                "PATCH", f"{self.path}/status", body={"status": status}
            )
        )

    def remove(self) -> None:
        """Remove the object of a deleted pod."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        self.node.patiently(lambda: self.node.cluster.api.request("DELETE", self.path, body=body))

    def event(
        self, reason: str, message: str, *, source: str = "kubelet", kind: str = "Warning"
    ) -> None:
        path = f"/api/v1/namespaces/{self.pod['metadata']['namespace']}/events"
        body = statuses.event(self.pod, reason, message, source=source, kind=kind)
        self.node.patiently(lambda: self.node.cluster.create(path, body))
