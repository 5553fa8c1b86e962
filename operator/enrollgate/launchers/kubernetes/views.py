"""Raw Kubernetes objects become typed data, here and nowhere else. Only what decisions need is kept.

Fields as of `batch/v1` Job and `v1` Pod, https://kubernetes.io/docs/reference/kubernetes-api/.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from enrollgate.launchers.kubernetes.api import Json

DOMAIN = "enrollgate.io"
INSTALLATION = f"{DOMAIN}/installation"
"""The label whose value is the installation: what has it is ours."""
TASK = f"{DOMAIN}/task-id"
ATTEMPT = f"{DOMAIN}/run_number"
RECORDED = f"{DOMAIN}/recorded"
"""The label of a Job whose outcome is in the database: it is not listed again."""
WORKER = "worker"
"""The name of the container that does the work."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a Job ended, by its own condition."""

    succeeded: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class JobView:
    """One Job."""

    name: str
    uid: str
    installation: str | None
    """Whose it is; None if it carries no label of ours."""
    recorded: bool
    created: datetime
    started: datetime | None
    """When the Job controller took it up; None while it is suspended."""
    suspended: bool
    deleting: bool
    ready: int
    """Pods that are ready."""
    counted: int
    """Pods that the Job controller knows of and has not done with: active, terminating, or over and not yet accounted for."""
    failed: int
    """Pods that failed and counted."""
    changed: datetime | None
    """When its status last changed, as it does when a pod comes or goes. Unlike an Event, this is never forgotten."""
    result: JobResult | None
    """None while it is unfinished."""


@dataclass(frozen=True, slots=True)
class Stop:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str
    """The termination message, or the last lines of the log."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of a Job."""

    name: str
    phase: str
    reason: str
    message: str
    created: datetime
    deleting_since: datetime | None
    """The moment by which it should be gone."""
    has_started: bool
    """Whether its worker has run, or runs."""
    waiting_reason: str
    """Why its worker does not run yet, in the kubelet's word."""
    waiting_message: str
    unscheduled: str
    """The scheduler's message, empty once it has a node."""
    disruption: str
    """Why it was taken away (drain, eviction, preemption), empty if it was not."""
    stop: Stop | None

    @property
    def is_over(self) -> bool:
        """Whether its containers will never run again."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class EventView:
    """One Kubernetes Event."""

    reason: str
    message: str
    is_warning: bool
    seen: str
    """When it was last seen, as a sortable text."""


def job_view(raw: Json) -> JobView:
    """Reads a Job."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = metadata.get("labels") or {}
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        installation=labels.get(INSTALLATION),
        recorded=RECORDED in labels,
        created=_instant(metadata["creationTimestamp"]),
        started=_instant(status["startTime"]) if status.get("startTime") else None,
        suspended=bool(spec.get("suspend")),
        deleting=bool(metadata.get("deletionTimestamp")),
        ready=int(status.get("ready") or 0),
        counted=_counted(status),
        failed=int(status.get("failed") or 0),
        changed=_changed(metadata),
        result=job_result(status.get("conditions") or ()),
    )


def _counted(status: Json) -> int:
    unaccounted = status.get("uncountedTerminatedPods") or {}
    over = sum(len(unaccounted.get(kind) or ()) for kind in ("succeeded", "failed"))
    return int(status.get("active") or 0) + int(status.get("terminating") or 0) + over


def _changed(metadata: Json) -> datetime | None:
    """From the server-side record of who wrote which fields, https://kubernetes.io/docs/reference/using-api/server-side-apply/."""
    written = [
        each for each in metadata.get("managedFields") or () if each.get("subresource") == "status"
    ]
    return max((_instant(each["time"]) for each in written if each.get("time")), default=None)


def job_result(conditions: Iterable[Any]) -> JobResult | None:
    """A Job is finished by its `Complete` or `Failed` condition, and by nothing else."""
    for condition in conditions:
        if condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True":
            succeeded = condition["type"] == "Complete"
            return JobResult(
                succeeded, str(condition.get("reason") or ""), str(condition.get("message") or "")
            )
    return None


def pod_view(raw: Json) -> PodView:
    """Reads a pod."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    scheduled, disruption = (
        conditions.get("PodScheduled") or {},
        conditions.get("DisruptionTarget") or {},
    )
    worker: Json = next(
        (each for each in status.get("containerStatuses") or () if each.get("name") == WORKER), {}
    )
    state = worker.get("state") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated")
    return PodView(
        name=metadata["name"],
        phase=str(status.get("phase") or "Pending"),
        reason=str(status.get("reason") or ""),
        message=str(status.get("message") or _broken_init(status)),
        created=_instant(metadata["creationTimestamp"]),
        deleting_since=_instant(metadata["deletionTimestamp"])
        if metadata.get("deletionTimestamp")
        else None,
        has_started=bool(state.get("running") or ended),
        waiting_reason=str(waiting.get("reason") or ""),
        waiting_message=str(waiting.get("message") or ""),
        unscheduled=str(scheduled.get("message") or "no node yet")
        if scheduled.get("status") == "False"
        else "",
        disruption=str(disruption.get("message") or disruption.get("reason") or "")
        if disruption.get("status") == "True"
        else "",
        stop=Stop(
            int(ended.get("exitCode", -1)),
            str(ended.get("reason") or ""),
            str(ended.get("message") or ""),
        )
        if ended
        else None,
    )


def _broken_init(status: Json) -> str:
    """How an init container (of a job template's) failed: then the worker never began."""
    for each in status.get("initContainerStatuses") or ():
        ended = (each.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return f"init container {each['name']} ended with exit code {ended['exitCode']}: {ended.get('message') or ''}"
    return ""


def event_view(raw: Json) -> EventView:
    """Reads an Event."""
    series = raw.get("series") or {}
    seen = series.get("lastObservedTime") or raw.get("lastTimestamp") or raw.get("eventTime") or ""
    return EventView(
        str(raw.get("reason") or ""),
        str(raw.get("message") or ""),
        raw.get("type") == "Warning",
        seen,
    )


def selector_of(installation: str) -> str:
    """Selects the Jobs of an installation whose outcome is not in the database yet."""
    return f"{INSTALLATION}={installation},!{RECORDED}"


def changed_run(event: Json) -> str | None:
    """The run that a watch event is news of: its Job has finished, or is gone (or no longer selected). None for all else."""
    job = event.get("object") or {}
    is_over = (
        event.get("type") == "DELETED"
        or job_result((job.get("status") or {}).get("conditions") or ()) is not None
    )
    name: str | None = (job.get("metadata") or {}).get("name")
    return name if is_over else None


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
