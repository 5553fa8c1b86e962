"""One pod's life, in a thread of its own: bound, started, probed, ended, deleted; and what may go wrong on the way."""

import functools
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import sandbox, statuses
from tests.cluster.pod_runner.volumes import NotThere, Supplies
from tests.databases.server import free_port

from enrollgate.launchers.kubernetes import ApiError

Json = dict[str, Any]
NODE = "node-1"
MESSAGE_LIMIT = 4096
_TICK = 0.1


class Fault(Enum):
    """How a pod may go wrong before it runs."""

    UNSCHEDULABLE = "unschedulable"
    IMAGE_PULL = "image pull"
    NEVER_REPORTS = "never reports"


@dataclass
class Ending:
    """How a container ended that somebody other than itself has ended."""

    reason: str = ""
    pod_reason: str = ""
    pod_message: str = ""
    disruption: str = ""


@dataclass
class Life:
    """Runs one pod. `deleted` is set once the API server shows that it is to go."""

    cluster: Cluster
    pod: Json
    folder: Path
    claims: Path
    fault: Fault | None
    node_is_lost: threading.Event
    deleted: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)
    ending: Ending = field(default_factory=Ending)
    process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=free_port)
    """Pods share this machine's network: each serves its probes on a port of its own."""

    def __post_init__(self) -> None:
        metadata = self.pod["metadata"]
        self.path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        self.spec = self.pod["spec"]
        self.since = statuses.now()

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def run(self) -> None:
        """From beginning to end. What the API server refuses, because the pod is gone, ends it."""
        try:
            self.folder.mkdir(parents=True)
            self._live()
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        finally:
            if self.process is not None:
                sandbox.kill(self.process)
            self.gone.set()

    def _live(self) -> None:
        if self.fault is Fault.UNSCHEDULABLE:
            message = "0/1 nodes are available: 1 Insufficient memory."
            why = statuses.condition("PodScheduled", holds=False, reason="Unschedulable", message=message)
            self._report(phase="Pending", conditions=[why])
            self._event("FailedScheduling", message)
            return
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        self.cluster.create(
            f"{self.path}/binding", {"metadata": {"name": self.pod["metadata"]["name"]}, "target": target}
        )
        if self.fault is Fault.NEVER_REPORTS:
            self.deleted.wait()
            return
        if self.fault is Fault.IMAGE_PULL:
            image = self._containers[0]["image"]
            self._pending("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: not found')
            self._event("Failed", f'Failed to pull image "{image}": not found')
            self.deleted.wait()
            self._remove()
            return
        for container in self.spec.get("initContainers", ()):
            if not self._run_init(container):
                return
        self._run_main(self._containers[0])

    @property
    def _containers(self) -> list[Json]:
        containers: list[Json] = self.spec["containers"]
        return containers

    def _run_init(self, container: Json) -> bool:
        while not self.deleted.is_set():
            started = self._start(container)
            if started is None or self._wait(started) == 0:
                return started is not None
            self._pending("PodInitializing", "an init container failed")
            self.deleted.wait(1)
        self._remove()
        return False

    def _run_main(self, container: Json) -> None:
        restarts = 0
        while True:
            since = statuses.now()
            started = self._start(container)
            if started is None:
                return
            self._report_running(container, since, restarts)
            code = self._wait(started, functools.partial(self._probe, container, since, restarts))
            if self.spec["restartPolicy"] == "Always" and not self.deleted.is_set():
                restarts += 1
                self.deleted.wait(1)
                continue
            break
        if not self.node_is_lost.is_set():
            self._report_end(container, since, code, restarts)
            if self.deleted.is_set():
                self._remove()

    def _start(self, container: Json) -> subprocess.Popen[bytes] | None:
        """Starts the container once all it wants is there; None if the pod is deleted before."""
        supplies = Supplies(self.cluster, self.pod, self.folder, self.claims)
        told = ""
        while not self.deleted.is_set():
            try:
                self.process = sandbox.start(self._sandbox(container, supplies))
            except NotThere as error:
                if str(error) != told:
                    told = str(error)
                    self._say_what_is_missing(container, told)
                self.deleted.wait(0.5)
                continue
            return self.process
        self._remove()
        return None

    def _sandbox(self, container: Json, supplies: Supplies) -> sandbox.Container:
        service = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": self.cluster.url.rpartition(":")[2],
        }
        declared = {each["name"] for each in container.get("env", ())}
        ports = {"ENROLLGATE_HTTP_PORT": str(self.port)} if "ENROLLGATE_HTTP_PORT" in declared else {}
        security = {**self.spec.get("securityContext", {}), **container.get("securityContext", {})}
        return sandbox.Container(
            command=[*(container.get("command") or ["enrollgate"]), *container.get("args", ())],
            variables=service | supplies.variables(container, ports),
            mounts=supplies.mounts(container),
            user=security.get("runAsUser", 0),
            read_only=bool(security.get("readOnlyRootFilesystem")),
            folder=self.folder,
            log=self.log,
            message=self.folder / "termination-log",
        )

    def _say_what_is_missing(self, container: Json, what: str) -> None:
        in_volume = "volume" in what or any(
            name in what
            for volume in self.spec.get("volumes", ())
            for name in [volume.get("secret", {}).get("secretName", "\0")]
        )
        if in_volume:
            self._pending("ContainerCreating", "")
            self._event("FailedMount", f"MountVolume.SetUp failed for volume: {what}")
        else:
            self._pending("CreateContainerConfigError", what)
            self._event("Failed", f"Error: {what}")

    def _wait(self, process: subprocess.Popen[bytes], meanwhile: Callable[[], None] = lambda: None) -> int:
        """Waits for its end; ends it if the pod is deleted."""
        last = 0.0
        while process.poll() is None:
            if self.deleted.wait(_TICK):
                return self._terminate(process)
            if time.monotonic() - last > 0.5:
                last = time.monotonic()
                meanwhile()
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def _terminate(self, process: subprocess.Popen[bytes]) -> int:
        if self.node_is_lost.is_set():
            self.node_is_lost_forever = True
            return process.wait()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(self.spec.get("terminationGracePeriodSeconds", 30))
        except subprocess.TimeoutExpired:
            sandbox.kill(process)
            process.wait()
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    # ended by others

    def kill_for_memory(self) -> None:
        """The kernel's OOM killer strikes."""
        assert self.process is not None
        self.ending.reason = "OOMKilled"
        sandbox.kill(self.process)

    def evict(self, message: str) -> None:
        """The kubelet evicts it: the pod fails, and is not deleted."""
        assert self.process is not None
        self.ending = Ending("Error", "Evicted", message, "TerminationByKubelet")
        self.process.send_signal(signal.SIGTERM)

    # probes

    def _probe(self, container: Json, since: str, restarts: int) -> None:
        readiness = container.get("readinessProbe")
        if readiness is not None:
            ready = self._answers(readiness)
            if ready != self.is_ready:
                self._report_running(container, since, restarts, ready=ready)
        liveness = container.get("livenessProbe")
        if liveness is not None and self.is_ready and not self._answers(liveness):
            assert self.process is not None
            os.kill(self.process.pid, signal.SIGTERM)

    def _answers(self, probe: Json) -> bool:
        url = f"http://127.0.0.1:{self.port}{probe['httpGet'].get('path', '/')}"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status < 400)
        except (OSError, urllib.error.URLError):
            return False

    # what is told to the API server

    is_ready = False

    def _report_running(self, container: Json, since: str, restarts: int, *, ready: bool | None = None) -> None:
        self.is_ready = container.get("readinessProbe") is None if ready is None else ready
        state = statuses.running(container, since, ready=self.is_ready, restarts=restarts)
        self._report(
            phase="Running",
            podIP="127.0.0.1",
            podIPs=[{"ip": "127.0.0.1"}],
            containerStatuses=[state],
            conditions=[statuses.condition("Initialized", holds=True), *statuses.ready_conditions(ready=self.is_ready)],
        )

    def _report_end(self, container: Json, since: str, code: int, restarts: int) -> None:
        reason = self.ending.reason or ("Completed" if code == 0 else "Error")
        state = statuses.terminated(
            container, since, code=code, reason=reason, message=self._message(container, code), restarts=restarts
        )
        conditions = statuses.ready_conditions(ready=False)
        if self.ending.disruption:
            message = f"The node was low on resource: {self.ending.pod_message}"
            conditions.append(
                statuses.condition("DisruptionTarget", holds=True, reason=self.ending.disruption, message=message)
            )
        failed = code != 0 or self.ending.pod_reason
        more = {"reason": self.ending.pod_reason, "message": self.ending.pod_message} if self.ending.pod_reason else {}
        self._report(
            phase="Failed" if failed else "Succeeded", containerStatuses=[state], conditions=conditions, **more
        )

    def _message(self, container: Json, code: int) -> str:
        message = (self.folder / "termination-log").read_text(errors="replace")[:MESSAGE_LIMIT]
        if not message and code != 0 and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = self.log.read_text(errors="replace")[-2048:]
        return message

    def _pending(self, reason: str, message: str) -> None:
        self._report(
            phase="Pending", containerStatuses=[statuses.waiting(self._containers[0], reason, message)], conditions=[]
        )

    def _report(self, *, conditions: list[Json], **status: Any) -> None:
        current = self.cluster.find(self.path)
        if current is None or current["metadata"]["uid"] != self.pod["metadata"]["uid"]:
            return
        merged = statuses.merged_conditions(current.get("status", {}).get("conditions") or [], conditions)
        status |= {"conditions": merged, "startTime": self.since}
        self.cluster.api.request("PATCH", f"{self.path}/status", body={"status": status})

    def _remove(self) -> None:
        if not self.node_is_lost.is_set():
            self.cluster.api.request("DELETE", self.path, query={"gracePeriodSeconds": "0"})

    def _event(self, reason: str, message: str) -> None:
        metadata = self.pod["metadata"]
        self.cluster.create(
            f"/api/v1/namespaces/{metadata['namespace']}/events",
            {
                "metadata": {"generateName": f"{metadata['name']}."},
                "involvedObject": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": metadata["name"],
                    "namespace": metadata["namespace"],
                    "uid": metadata["uid"],
                },
                "type": "Warning",
                "reason": reason,
                "message": message,
                "firstTimestamp": statuses.now(),
                "lastTimestamp": statuses.now(),
                "source": {"component": "kubelet"},
            },
        )
