"""The one place where raw Kubernetes objects become typed data. Only what decisions need is kept.

In: JSON of a Job, a pod, an Event or a watch event, as the API server sent it. Out: frozen
dataclasses. Fields as of `batch/v1` Job and `v1` Pod,
https://kubernetes.io/docs/reference/kubernetes-api/.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from enrollgate.domain.observation import Phase
from enrollgate.launchers.kubernetes.api import Json

DOMAIN = "enrollgate.io"
# Labels. The value of the first is the installation: a Job that has it is ours.
INSTALLATION = f"{DOMAIN}/installation"
TASK = f"{DOMAIN}/task-id"
RUN = f"{DOMAIN}/run"
# Set on a Job whose outcome is in the database: it is not listed again.
RECORDED = f"{DOMAIN}/recorded"
# The container that does the work.
WORKER = "worker"


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a Job ended, from its `Complete` or `Failed` condition."""

    succeeded: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class JobView:
    """One Job.

    `installation` is None without a label of ours; `started` is None while the Job is suspended;
    `result` is None while it is unfinished. `ready_pods` are ready. `current_pods` are active,
    terminating, or finished and not yet counted by the Job controller. `failed_pods` failed and
    were counted. `status_changed` is when the status last changed, as it does when a pod comes or
    goes; unlike an Event, it is kept.
    """

    name: str
    uid: str
    installation: str | None
    is_recorded: bool
    created: datetime
    started: datetime | None
    is_suspended: bool
    is_deleting: bool
    ready_pods: int
    current_pods: int
    failed_pods: int
    status_changed: datetime | None
    result: JobResult | None

    @property
    def phase(self) -> Phase:
        """The phase of the Job's run: the only place where a Job's result becomes one."""
        if self.result is None:
            return Phase.LIVE
        return Phase.SUCCEEDED if self.result.succeeded else Phase.FAILED


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container ended. `message` is its termination message, or the last lines of its log."""

    exit_code: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of a Job.

    `delete_by` is the time by which a deleted pod should be gone. `has_started` says whether the
    worker runs or has run. `waiting_reason` is the kubelet's word for why it does not run yet.
    `unscheduled` is the scheduler's message, empty once the pod has a node. `disruption` says why
    the pod was removed (drain, eviction, preemption), empty if it was not. `termination` is how the
    worker ended.
    """

    name: str
    phase: str
    reason: str
    message: str
    created: datetime
    delete_by: datetime | None
    has_started: bool
    waiting_reason: str
    waiting_message: str
    unscheduled: str
    disruption: str
    termination: Termination | None

    @property
    def is_finished(self) -> bool:
        """Whether its containers will never run again."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class EventView:
    """One Kubernetes Event. `last_seen` is a timestamp as text, which sorts by time."""

    reason: str
    message: str
    is_warning: bool
    last_seen: str


def parse_job(raw: Json) -> JobView:
    """Read a Job."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = metadata.get("labels") or {}
    uncounted = status.get("uncountedTerminatedPods") or {}
    # Which field was written when:
    # https://kubernetes.io/docs/reference/using-api/server-side-apply/
    status_writes = [
        _time(entry, "time")
        for entry in metadata.get("managedFields") or ()
        if entry.get("subresource") == "status"
    ]
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        installation=labels.get(INSTALLATION),
        is_recorded=RECORDED in labels,
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        started=_time(status, "startTime"),
        is_suspended=bool(spec.get("suspend")),
        is_deleting=bool(metadata.get("deletionTimestamp")),
        ready_pods=int(status.get("ready") or 0),
        current_pods=int(status.get("active") or 0)
        + int(status.get("terminating") or 0)
        + sum(len(uncounted.get(kind) or ()) for kind in ("succeeded", "failed")),
        failed_pods=int(status.get("failed") or 0),
        status_changed=max(filter(None, status_writes), default=None),
        result=parse_job_result(status.get("conditions") or ()),
    )


def parse_job_result(conditions: Iterable[Json]) -> JobResult | None:
    """Read how a Job ended, from `Complete` or `Failed`; None while it is unfinished."""
    for condition in conditions:
        kind = condition.get("type")
        if kind in ("Complete", "Failed") and condition.get("status") == "True":
            return JobResult(
                kind == "Complete", _text(condition, "reason"), _text(condition, "message")
            )
    return None


def parse_pod(raw: Json) -> PodView:
    """Read a pod."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    unscheduled = disruption = ""
    if scheduled.get("status") == "False":
        unscheduled = _text(scheduled, "message") or "no node yet"
    target = conditions.get("DisruptionTarget") or {}
    if target.get("status") == "True":
        disruption = _text(target, "message") or _text(target, "reason")
    containers = status.get("containerStatuses") or ()
    worker: Json = next((each for each in containers if each.get("name") == WORKER), {})
    state = worker.get("state") or {}
    waiting, terminated = state.get("waiting") or {}, state.get("terminated")
    termination = None
    if terminated:
        termination = Termination(
            exit_code=int(terminated.get("exitCode", -1)),
            reason=_text(terminated, "reason"),
            message=_text(terminated, "message"),
        )
    return PodView(
        name=metadata["name"],
        phase=_text(status, "phase") or "Pending",
        reason=_text(status, "reason"),
        message=_text(status, "message") or _failed_init_container(status),
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        delete_by=_time(metadata, "deletionTimestamp"),
        has_started=bool(state.get("running") or terminated),
        waiting_reason=_text(waiting, "reason"),
        waiting_message=_text(waiting, "message"),
        unscheduled=unscheduled,
        disruption=disruption,
        termination=termination,
    )


def _failed_init_container(pod_status: Json) -> str:
    """Say which init container (of a job template) failed, so that the worker never started."""
    for container in pod_status.get("initContainerStatuses") or ():
        terminated = (container.get("state") or {}).get("terminated") or {}
        if terminated.get("exitCode"):
            return (
                f"init container {container['name']} ended with exit code "
                f"{terminated['exitCode']}: {_text(terminated, 'message')}"
            )
    return ""


def parse_event(raw: Json) -> EventView:
    """Read an Event."""
    series = raw.get("series") or {}
    return EventView(
        reason=_text(raw, "reason"),
        message=_text(raw, "message"),
        is_warning=raw.get("type") == "Warning",
        last_seen=_text(series, "lastObservedTime")
        or _text(raw, "lastTimestamp")
        or _text(raw, "eventTime"),
    )


def job_selector(installation: str) -> str:
    """Select the Jobs of an installation whose outcome is not in the database yet."""
    return f"{INSTALLATION}={installation},!{RECORDED}"


def changed_run(event: Json) -> str | None:
    """Return the run whose Job has finished, is gone or is no longer selected; else None.

    `event` is a watch event of Jobs.
    """
    job = event.get("object") or {}
    conditions = (job.get("status") or {}).get("conditions") or ()
    if event.get("type") != "DELETED" and parse_job_result(conditions) is None:
        return None
    name: str | None = (job.get("metadata") or {}).get("name")
    return name


def _text(raw: Json, field: str) -> str:
    return str(raw.get(field) or "")


def _time(raw: Json, field: str) -> datetime | None:
    value = raw.get(field)
    return datetime.fromisoformat(value) if value else None
