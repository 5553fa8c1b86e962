"""One pod, in a thread of its own: bound, started, probed, ended, deleted, with faults on
request.
"""

import threading
import time
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tests.cluster.pod_runner import sandbox, statuses
from tests.cluster.pod_runner.expansion import expand
from tests.cluster.pod_runner.probes import Health
from tests.cluster.pod_runner.reporting import Node, Reporting, Stopped
from tests.cluster.pod_runner.volumes import NotThere, Supplies, VolumeNotThere
from tests.databases.server import free_port

from enrollgate.launchers.kubernetes import ApiError

Json = dict[str, Any]
# Bytes of a termination message that a kubelet keeps.
MESSAGE_LIMIT = 4096
# Bytes of the log that replace a missing message, if the pod asks for it.
_LOG_FALLBACK = 2048
_EVICTION_GRACE = 1.0
# Seconds before a container is restarted.
_BACK_OFF = 1.0
_TICK = 0.05


class Fault(Enum):
    """How a pod can fail before it runs."""

    UNSCHEDULABLE = "unschedulable"
    IMAGE_PULL = "image pull"
    NEVER_REPORTS = "never reports"


@dataclass(frozen=True)
class ForcedExit:
    """Why something other than the container itself ended it."""

    # Reason of the container's state, in place of Completed or Error.
    reason: str = ""
    pod_reason: str = ""
    pod_message: str = ""
    # Reason of the pod's DisruptionTarget condition.
    disruption: str = ""
    # Seconds after SIGTERM; None: the pod's own grace period.
    grace: float | None = None


@dataclass
class Life:
    """Runs one pod. `deleted` is set once the API server shows its deletion."""

    node: Node
    pod: Json
    folder: Path
    claims: Path
    fault: Fault | None
    deleted: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)
    exit: ForcedExit | None = None
    container: sandbox.Sandbox | None = None
    # Grace period of the deletion in seconds; None: that of the spec.
    grace: float | None = None
    ready: bool = False
    restarts: int = 0
    # How the container ended before its restart.
    last: Json | None = None
    # Pods share this machine's network, so each serves its probes on its own port.
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.spec = self.pod["spec"]
        self.line = Reporting(self.node, self.pod, statuses.now())
        self._files = threading.Lock()

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def running(self) -> bool:
        return self.container is not None and self.container.poll() is None

    def run(self) -> None:
        """Run the pod to its end. A refusal by the API server, because the pod is being deleted,
        ends it.
        """
        try:
            self.folder.mkdir(parents=True)
            self._live()
        except ApiError as error:
            if error.status not in (404, 409) and "is being terminated" not in error.message:
                raise
        except Stopped:
            pass
        finally:
            if self.container is not None:
                self.container.kill()
            self.gone.set()

    def change(self, pod: Json) -> None:
        """Take over a changed pod: its annotations are written to its files."""
        with self._files:
            self.pod = pod
            self._supplies.refresh()

    @property
    def _supplies(self) -> Supplies:
        return Supplies(self.node.cluster, self.pod, self.folder, self.claims)

    # ended from outside

    def kill_for_memory(self) -> None:
        """End it as the kernel's OOM killer does."""
        self.exit = ForcedExit("OOMKilled", grace=0)

    def evict_for_storage(
        self,
        message: str = "Pod ephemeral local storage usage exceeds "
        "the total limit of containers 1Gi. ",
    ) -> None:
        """Evict it because it used more than its own limit: it fails and is not deleted.

        This is no disruption: the kubelet's eviction manager sets no such condition for it
        (pkg/kubelet/eviction, evictPod without a condition).
        """
        self.exit = ForcedExit("", "Evicted", message, "", _EVICTION_GRACE)
        self.line.event("Evicted", message)

    def evict_for_pressure(
        self, message: str = "The node was low on resource: ephemeral-storage. "
    ) -> None:
        """Evict it because the node ran short: it fails as DisruptionTarget and is not deleted."""
        self.exit = ForcedExit("", "Evicted", message, "TerminationByKubelet", _EVICTION_GRACE)
        self.line.event("Evicted", message)

    # the phases of a pod

    def _live(self) -> None:
        if self.fault is Fault.UNSCHEDULABLE:
            self._stay_unschedulable()
            return
        self.line.bind()
        if self.fault is Fault.NEVER_REPORTS:
            self.deleted.wait()
            return
        if self.fault is Fault.IMAGE_PULL:
            self._stay_without_image()
            return
        for container in self.spec.get("initContainers", ()):
            if not self._run_init(container):
                return
        self._run_main(self.spec["containers"][0])

    def _stay_unschedulable(self) -> None:
        message = "0/1 nodes are available: 1 Insufficient memory."
        why = statuses.condition(
            "PodScheduled", holds=False, reason="Unschedulable", message=message
        )
        self.line.report(phase="Pending", conditions=[why])
        self.line.event("FailedScheduling", message, source="default-scheduler")

    def _stay_without_image(self) -> None:
        image = self.spec["containers"][0]["image"]
        self._pending(
            "ImagePullBackOff",
            f'Back-off pulling image "{image}": ErrImagePull: {image}: not found',
        )
        self.line.event("Failed", f'Failed to pull image "{image}": {image}: not found')
        self.line.event("Failed", "Error: ErrImagePull")
        self.line.event("BackOff", f'Back-off pulling image "{image}"', kind="Normal")
        self.line.event("Failed", "Error: ImagePullBackOff")
        self._wait_for_deletion()
        self._remove_unstarted(self.spec["containers"][0])

    def _run_init(self, container: Json) -> bool:
        while (started := self._start(container)) is not None:
            code = self._wait(started)
            if self.deleted.is_set():
                self.line.remove()
                return False
            if code == 0:
                return True
            self._pending(
                "PodInitializing",
                f"init container {container['name']} failed with exit code {code}",
            )
            self.deleted.wait(_BACK_OFF)
        return False

    def _run_main(self, container: Json) -> None:
        while (started := self._start(container)) is not None:
            since = statuses.now()
            health = Health(container, self.port, time.monotonic())
            self._report_running(container, since, ready=health.ready)
            code = self._wait(started, health, container, since)
            end = self._end(container, since, code)
            if not self._starts_again(code):
                self._report_end(end, code)
                break
            self.restarts += 1
            self.last, self.exit = end["state"], None
            why = f"back-off {_BACK_OFF:.0f}s restarting failed container={container['name']}"
            self._pending("CrashLoopBackOff", why, phase="Running")
            self.deleted.wait(_BACK_OFF)
        else:
            return
        if self.deleted.is_set():
            self.line.remove()

    def _starts_again(self, code: int) -> bool:
        policy = self.spec["restartPolicy"]
        wanted = policy == "Always" or (policy == "OnFailure" and code != 0)
        over = self.exit is not None and self.exit.pod_reason
        return wanted and not over and not self.deleted.is_set()

    def _start(self, container: Json) -> sandbox.Sandbox | None:
        """Start the container once everything it needs exists.

        Returns None, and removes the pod, if it is deleted before.
        """
        reported = ""
        while not self.deleted.is_set():
            try:
                self.container = sandbox.start(
                    self.node.patiently(lambda: self._sandbox(container))
                )
            except sandbox.StartError as error:
                if self.spec["restartPolicy"] == "Never":
                    self._report_start_error(container, str(error))
                    self._wait_for_deletion()
                    break
                self._say_what_is_missing(error)
                self.deleted.wait(_BACK_OFF)
            except (NotThere, sandbox.NotStarted) as error:
                if str(error) != reported:
                    reported = str(error)
                    self._say_what_is_missing(error)
                self.deleted.wait(0.5)
            else:
                return self.container
        if reported and container is self.spec["containers"][0]:
            self._remove_unstarted(container)
        else:
            self.line.remove()
        return None

    def _sandbox(self, container: Json) -> sandbox.Container:
        supplies = self._supplies
        security = {**self.spec.get("securityContext", {}), **container.get("securityContext", {})}
        mounts = supplies.mounts(container)
        with self._files:  # it may have changed in the meantime
            self._supplies.refresh()
        groups = [
            *security.get("supplementalGroups", ()),
            *([security["fsGroup"]] if "fsGroup" in security else ()),
        ]
        declared = {each["name"] for each in container.get("env", ())}
        variables = self._service_variables | supplies.variables(container)
        command = [*(container.get("command") or ["enrollgate"]), *container.get("args", ())]
        return sandbox.Container(
            command=[expand(word, variables) for word in command],
            variables=variables | ({_PORT: str(self.port)} if _PORT in declared else {}),
            mounts=mounts,
            user=security.get("runAsUser", 0),
            group=security.get("runAsGroup"),
            groups=groups,
            read_only=bool(security.get("readOnlyRootFilesystem")),
            folder=self.folder,
            log=self.log,
            message=self.folder / "termination-log",
            message_path=container.get("terminationMessagePath", "/dev/termination-log"),
            host_name=self.spec.get("hostname") or self.pod["metadata"]["name"],
            directory=container.get("workingDir") or "/tmp",
        )

    @property
    def _service_variables(self) -> dict[str, str]:
        """Return where the API server is, for programs inside the cluster."""
        port = self.node.cluster.url.rpartition(":")[2]
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}

    def _wait(
        self,
        started: sandbox.Sandbox,
        health: Health | None = None,
        container: Json | None = None,
        since: str = "",
    ) -> int:
        """Wait for its end and run its probes; end it if the pod is deleted, evicted, late or
        unhealthy.
        """
        deadline = self.spec.get("activeDeadlineSeconds")
        begun = time.monotonic()
        while (code := started.poll()) is None:
            if self.node.stopped.is_set():
                raise Stopped
            if self._hears_deletion:
                return self._terminate(started, self._grace)
            if deadline is not None and time.monotonic() > begun + deadline:
                why = "Pod was active on the node longer than the specified deadline"
                self.exit = ForcedExit("", "DeadlineExceeded", why)
            if self.exit is not None:
                return self._terminate(
                    started, self.exit.grace if self.exit.grace is not None else self._grace
                )
            if health is not None and container is not None:
                health.ask(time.monotonic())
                if not health.alive:
                    self.line.event("Unhealthy", "Liveness probe failed")
                    return self._terminate(started, self._grace)
                if health.ready != self.ready:
                    self._report_running(container, since, ready=health.ready)
            time.sleep(_TICK)
        return code

    @property
    def _grace(self) -> float:
        return float(
            self.spec.get("terminationGracePeriodSeconds", 30) if self.grace is None else self.grace
        )

    @property
    def _hears_deletion(self) -> bool:
        return self.deleted.is_set() and not self.node.lost.is_set()

    def _wait_for_deletion(self) -> None:
        while not self.deleted.wait(1) and not self.node.stopped.is_set():
            pass

    @staticmethod
    def _terminate(started: sandbox.Sandbox, grace: float) -> int:
        if grace > 0:
            started.terminate()
        until = time.monotonic() + grace
        while started.poll() is None and time.monotonic() < until:
            time.sleep(_TICK)
        started.kill()
        code = started.poll()
        assert code is not None
        return code

    # reports to the API server

    def _report_running(self, container: Json, since: str, *, ready: bool) -> None:
        self.ready = ready
        state = statuses.running(
            container, since, ready=ready, restarts=self.restarts, last=self.last
        )
        self.line.report(
            phase="Running",
            podIP="127.0.0.1",
            podIPs=[{"ip": "127.0.0.1"}],
            hostIP="127.0.0.1",
            containerStatuses=[state],
            conditions=[
                statuses.condition("Initialized", holds=True),
                *statuses.ready_conditions(ready=ready),
            ],
        )

    def _end(self, container: Json, since: str, code: int) -> Json:
        reason = (self.exit.reason if self.exit else "") or ("Completed" if code == 0 else "Error")
        message = self._message(container, code)
        return statuses.terminated(
            container, since, code=code, reason=reason, message=message, restarts=self.restarts
        )

    def _report_end(self, end: Json, code: int) -> None:
        exit_result = self.exit or ForcedExit()
        conditions = statuses.ready_conditions(ready=False)
        if exit_result.disruption:
            why = {"reason": exit_result.disruption, "message": exit_result.pod_message}
            conditions.append(statuses.condition("DisruptionTarget", holds=True, **why))
        more = (
            {"reason": exit_result.pod_reason, "message": exit_result.pod_message}
            if exit_result.pod_reason
            else {}
        )
        phase = "Failed" if code != 0 or exit_result.pod_reason else "Succeeded"
        self.line.report(phase=phase, containerStatuses=[end], conditions=conditions, **more)

    def _message(self, container: Json, code: int) -> str:
        message = (self.folder / "termination-log").read_bytes()[:MESSAGE_LIMIT]
        if (
            not message
            and code != 0
            and container.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        ):
            message = self.log.read_bytes()[-_LOG_FALLBACK:]
        return message.decode(errors="replace")

    def _say_what_is_missing(self, error: NotThere | sandbox.NotStarted) -> None:
        if isinstance(error, VolumeNotThere):
            self._pending("ContainerCreating", "")
            self.line.event("FailedMount", str(error))
        elif isinstance(error, NotThere):
            self._pending("CreateContainerConfigError", str(error))
            self.line.event("Failed", f"Error: {error}")
        else:
            self._pending("RunContainerError", str(error))
            self.line.event("Failed", f"Error: {error}")

    def _report_start_error(self, container: Json, message: str) -> None:
        """Report a program that cannot be executed, as a kubelet with containerd does."""
        end = statuses.terminated(
            container,
            "1970-01-01T00:00:00Z",
            code=sandbox.START_ERROR_CODE,
            reason="StartError",
            message=message,
        )
        self.line.event("Failed", f"Error: {message}")
        self._report_end(end, sandbox.START_ERROR_CODE)

    def _remove_unstarted(self, container: Json) -> None:
        """Remove a deleted pod whose container was never there, as a real kubelet does.

        The pod has failed before it is gone: `TerminatePod` in pkg/kubelet/status, seen by
        tests/node.
        """
        why = "The container could not be located when the pod was terminated"
        end = statuses.terminated(
            container, None, code=137, reason="ContainerStatusUnknown", message=why
        )
        self._report_end(end, 137)
        self.line.remove()

    def _pending(self, reason: str, message: str, phase: str = "Pending") -> None:
        container = self.spec["containers"][0]
        state = statuses.waiting(container, reason, message, restarts=self.restarts, last=self.last)
        self.ready = False
        self.line.report(
            phase=phase,
            containerStatuses=[state],
            conditions=statuses.ready_conditions(ready=False),
        )


# The variable that tells the operator where to serve; ours to choose, since pods share a network
# here.
_PORT = "ENROLLGATE_HTTP_PORT"
