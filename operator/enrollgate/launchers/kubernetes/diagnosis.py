"""Why a Job ended, or does not begin: pure functions from a Job, its pods and their events to a report in the closed list's words.

The worker's own termination message comes first, since it knows most. Where it is missing or does not fit, the pod's state, the
Job's condition and the Events say what the cluster did, in words that somebody who has never seen the pod can act on.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from enrollgate.common.redaction import redact
from enrollgate.domain.reasons import EXIT_SUCCEEDED, Reason, exit_code, explain
from enrollgate.domain.report import MalformedReport, Report
from enrollgate.launchers.kubernetes.views import EventView, JobResult, JobView, PodView, Stop

_KILLED = 137
"""128 + SIGKILL: what a container that was killed exits with."""
_LONGEST_BACKOFF = 360.0
"""Seconds after which the Job controller replaces a pod that failed, at the latest:
https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-backoff-failure-policy"""
_SETTLED = timedelta(seconds=10)
"""How long after its beginning the status of a Job that gets no pod may still change."""
_IMAGE = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
    }
)
_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_QUOTA = re.compile(r"exceeded quota|forbidden: .*quota", re.IGNORECASE)
_MISSING = re.compile(
    r"(secret|configmap|persistentvolumeclaim) \"([^\"]+)\" not found", re.IGNORECASE
)


def report_of(result: JobResult, pods: Sequence[PodView], events: Sequence[EventView]) -> Report:
    """The report of a finished Job."""
    last = _last(pods)
    if result.succeeded:
        return _success(last)
    if result.reason == "DeadlineExceeded":
        return Report(
            Reason.DEADLINE_EXCEEDED, result.message or explain(Reason.DEADLINE_EXCEEDED).means
        )
    if last is None:
        why = _from_events(events)
        message = f"the Job failed ({result.reason}: {result.message}) and left no pod to ask" + (
            f"; {why}" if why else ""
        )
        return Report(Reason.BACKOFF_LIMIT_EXCEEDED, message)
    why = redact(": ".join(filter(None, (last.reason, last.message))) or last.phase, 300)
    return failure_of(last) or Report(
        Reason.BACKOFF_LIMIT_EXCEEDED, f"{result.message or result.reason} (pod {last.name}: {why})"
    )


def failure_of(pod: PodView) -> Report | None:
    """Why this pod failed; None if it shows nothing."""
    if pod.reason == "Evicted":
        return Report(Reason.EVICTED, f"pod {pod.name} was evicted: {pod.message}")
    if pod.stop is None:
        return (
            Report(Reason.EVICTED, f"pod {pod.name} was taken away: {pod.disruption}")
            if pod.disruption
            else None
        )
    own = _own_report(pod.stop)
    if own is not None:
        return own
    if pod.stop.reason == "OOMKilled":
        return Report(
            Reason.OOM_KILLED,
            f"the worker of pod {pod.name} used more memory than its limit and was killed",
        )
    if pod.disruption:
        return Report(Reason.EVICTED, f"pod {pod.name} was taken away: {pod.disruption}")
    tail = redact(" ".join(pod.stop.message.split())[-300:])
    how = (
        "was killed"
        if pod.stop.exit_code == _KILLED
        else f"ended with exit code {pod.stop.exit_code}"
    )
    return Report(
        Reason.WORKER_CRASHED, f"the worker of pod {pod.name} {how}" + (f": {tail}" if tail else "")
    )


def why_not_begun(
    job: JobView,
    pods: Sequence[PodView],
    events: Sequence[EventView],
    now: datetime,
    start_timeout: float,
) -> Report | None:
    """Why a live Job has had no running pod for `start_timeout` seconds; None if it has one, or may take longer.

    A pod that waits has a clock of its own, whatever became of those before it. Without any pod it is either the Job's first that
    cannot be created, or the gap before a drained or failed one is replaced, which gets its time, too. A suspended Job (Kueue
    holds it back) waits for its turn: its clock starts when it is let go.
    """
    if not is_overdue(job, now, start_timeout):
        return None
    living = [pod for pod in pods if not pod.is_over]
    if any(pod.has_started or not _is_late(pod.created, now, start_timeout) for pod in living):
        return None
    if living:
        first = not job.failed and len(living) == len(pods)
        waited = f"no pod of the Job began to work within {start_timeout:.0f}s"
        again = f"a further pod of the Job did not begin to work within {start_timeout:.0f}s"
        return _of_waiting_pod(
            max(living, key=lambda pod: pod.created), waited if first else again, events
        )
    if _is_between_pods(job, pods, events, now, start_timeout):
        return None
    return _without_pod(f"no pod of the Job began to work within {start_timeout:.0f}s", events)


def is_overdue(job: JobView, now: datetime, start_timeout: float) -> bool:
    """Whether a Job without a ready pod has had its time to begin."""
    since = job.started or job.created
    waits = job.result is None and not job.deleting and not job.suspended and job.ready == 0
    return waits and _is_late(since, now, start_timeout)


def _is_late(since: datetime, now: datetime, start_timeout: float) -> bool:
    return now - since > timedelta(seconds=start_timeout)


def _is_between_pods(
    job: JobView,
    pods: Sequence[PodView],
    events: Sequence[EventView],
    now: datetime,
    start_timeout: float,
) -> bool:
    """Whether a Job without a living pod had one so lately that the next may yet come."""
    if job.counted:
        return True
    since = job.started or job.created
    changed = max(since, job.changed or since)
    had_one = (
        pods
        or job.failed
        or changed - since > _SETTLED
        or any(event.reason == "SuccessfulCreate" for event in events)
    )
    return not _is_late(changed, now, start_timeout + (_LONGEST_BACKOFF if had_one else 0))


def _of_waiting_pod(pod: PodView, waited: str, events: Sequence[EventView]) -> Report:
    if pod.unscheduled:
        return Report(
            Reason.UNSCHEDULABLE, f"{waited}: pod {pod.name} fits on no node: {pod.unscheduled}"
        )
    if pod.waiting_reason in _IMAGE:
        return Report(
            Reason.IMAGE_PULL_BACK_OFF,
            f"{waited}: the image cannot be pulled: {pod.waiting_message}",
        )
    if pod.waiting_reason in _CONTAINER:
        return Report(Reason.CREATE_CONTAINER_CONFIG_ERROR, f"{waited}: {pod.waiting_message}")
    why = _from_events(events)
    if missing := _MISSING.search(why):
        what = f"{missing[1]} {missing[2]!r} does not exist in the Job's namespace"
        return Report(Reason.CREATE_CONTAINER_CONFIG_ERROR, f"{waited}: {what}")
    return Report(
        Reason.NEVER_STARTED,
        f"{waited}: pod {pod.name} is {pod.waiting_reason or pod.phase}; {why or 'Events: none'}",
    )


def _without_pod(waited: str, events: Sequence[EventView]) -> Report:
    why = _from_events(events)
    reason = Reason.QUOTA_EXCEEDED if _QUOTA.search(why) else Reason.NEVER_STARTED
    return Report(reason, f"{waited}: none could be created: {why or 'Events: none'}")


def _success(last: PodView | None) -> Report:
    own = _decoded(last.stop) if last is not None and last.stop is not None else None
    if own is not None and own.reason is None:
        return own
    return Report(None, "the Job is complete; its pod left no report")


def _own_report(stop: Stop) -> Report | None:
    """The worker's report, if it is one and fits the exit code."""
    own = _decoded(stop)
    if own is None or own.reason is None or stop.exit_code == EXIT_SUCCEEDED:
        return None
    return own if stop.exit_code == exit_code(own.reason) else None


def _decoded(stop: Stop) -> Report | None:
    try:
        return Report.decode(stop.message)
    except MalformedReport:
        return None


def _last(pods: Sequence[PodView]) -> PodView | None:
    """The pod that speaks for the Job: one that is over, the youngest; else the youngest of all."""
    return max(pods, key=lambda pod: (pod.is_over, pod.created), default=None)


def _from_events(events: Sequence[EventView]) -> str:
    """What the last warning says."""
    warnings = [event for event in events if event.is_warning]
    last = max(warnings, key=lambda event: event.seen, default=None)
    return redact(f"{last.reason}: {last.message}", 400) if last else ""
