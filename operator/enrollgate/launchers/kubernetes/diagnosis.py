"""Explain why a Job ended or does not start.

Pure functions: a Job, its pods and Events in, a report out.

The worker's own termination message comes first, since it knows most. If it is missing or does not
fit the exit code, the pod's state, the Job's condition and the Events explain it, in words for
somebody who has never seen the pod.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from enrollgate.common.redaction import redact
from enrollgate.domain.reasons import (
    EXIT_SUCCEEDED,
    PERMANENT_EXIT_CODES,
    Reason,
    exit_code,
    explain,
)
from enrollgate.domain.report import MalformedReport, Report
from enrollgate.launchers.kubernetes.views import (
    EventView,
    JobResult,
    JobView,
    PodView,
    Termination,
)

# 128 + SIGKILL: the exit code of a container that was killed.
_SIGKILL_EXIT_CODE = 137
# Seconds after which the Job controller replaces a failed pod, at the latest:
# https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-backoff-failure-policy
_MAX_POD_BACKOFF = 360.0
# A pod that should have ended this long ago has a node that does not answer.
_NODE_LOST_AFTER = timedelta(seconds=60)
# For this long after its start, the status of a Job that gets no pod may still change.
_SETTLE_TIME = timedelta(seconds=10)
_IMAGE_ERRORS = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
    }
)
_CONTAINER_ERRORS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
# The kubelet's word for a container whose program the runtime could not execute:
# https://github.com/containerd/containerd/blob/v2.2.0/internal/cri/server/container_start.go and,
# of other runtimes, https://kubernetes.io/docs/reference/node/
_START_ERRORS = frozenset({"StartError", "ContainerCannotRun"})
# Warnings that say nothing about why a pod does not start:
# https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/events/event.go
_ADVICE = frozenset(
    {"MissingClusterDNS", "DNSConfigForming", "CheckLimitsForResolvConf", "ProbeWarning"}
)
# Warnings that say why a pod does not start, from there and from the scheduler and the Job
# controller.
_FAILURES = frozenset(
    {
        "BackOff",
        "ErrImageNeverPull",
        "Failed",
        "FailedAttachVolume",
        "FailedCreate",
        "FailedCreatePodContainer",
        "FailedCreatePodSandBox",
        "FailedMount",
        "FailedPrepareDynamicResources",
        "FailedScheduling",
        "InspectFailed",
        "NetworkNotReady",
        "UnexpectedAdmissionError",
    }
)
_QUOTA = re.compile(r"exceeded quota|forbidden: .*quota", re.IGNORECASE)
# The kubelet's Events may be ahead of the pod's status, which then still says ContainerCreating.
_IMAGE_EVENT = re.compile(r"^Failed: (Failed to pull image|Error: (ErrImagePull|ImagePullBackOff))")
_KEY_EVENT = re.compile(r"^Failed: Error: couldn't find key ")
_MISSING_OBJECT = re.compile(
    r"(secret|configmap|persistentvolumeclaim) \"([^\"]+)\" not found", re.IGNORECASE
)


def build_report(result: JobResult, pods: Sequence[PodView], events: Sequence[EventView]) -> Report:
    """Build the report of a finished Job."""
    # The youngest finished pod; else the youngest.
    last = max(pods, key=lambda pod: (pod.is_finished, pod.created), default=None)
    if result.succeeded:
        own = _decode(last.termination) if last is not None and last.termination else None
        if own is not None and own.reason is None:
            return own
        return Report(None, "the Job is complete; its pod left no report")
    if result.reason == "DeadlineExceeded":
        return Report(
            Reason.DEADLINE_EXCEEDED, result.message or explain(Reason.DEADLINE_EXCEEDED).means
        )
    if last is None:
        warning = _last_warning(events)
        message = f"the Job failed ({result.reason}: {result.message}) and left no pod to ask"
        return Report(
            Reason.BACKOFF_LIMIT_EXCEEDED, f"{message}; {warning}" if warning else message
        )
    why = redact(": ".join(filter(None, (last.reason, last.message))) or last.phase, 300)
    return explain_pod_failure(last) or Report(
        Reason.BACKOFF_LIMIT_EXCEEDED, f"{result.message or result.reason} (pod {last.name}: {why})"
    )


def explain_pod_failure(pod: PodView) -> Report | None:
    """Explain why a pod failed; None if nothing in it says so."""
    ended = pod.termination
    own = _decode(ended) if ended is not None else None
    if own is not None and ended is not None and own.reason is not None:
        # A report that does not fit the exit code is not the worker's last word. A newer worker's
        # unknown reason is read as WorkerCrashed, whatever the code.
        is_unknown = own.reason is Reason.WORKER_CRASHED and ended.exit_code != EXIT_SUCCEEDED
        fits = is_unknown or ended.exit_code == exit_code(own.reason) != EXIT_SUCCEEDED
        if fits and (pod.reason != "Evicted" or ended.exit_code in PERMANENT_EXIT_CODES):
            return own
    if pod.reason == "Evicted":
        # The kubelet stops an evicted worker by SIGTERM, so it has most often reported what it
        # delivered until then.
        return replace(
            own or Report(None, ""),
            reason=Reason.EVICTED,
            message=f"pod {pod.name} was evicted: {pod.message.strip()}",
            remedy="",
        )
    if ended is not None and ended.reason == "OOMKilled":
        return Report(
            Reason.OOM_KILLED,
            f"the worker of pod {pod.name} used more memory than its limit and was killed",
        )
    if pod.disruption:
        return Report(Reason.EVICTED, f"pod {pod.name} was taken away: {pod.disruption}")
    if ended is None:
        return None
    reason = Reason.WORKER_CRASHED
    message = f"the worker of pod {pod.name} ended with exit code {ended.exit_code}"
    if ended.reason in _START_ERRORS:
        reason = Reason.START_ERROR
        message = f"the container of pod {pod.name} cannot be started"
    elif ended.exit_code == _SIGKILL_EXIT_CODE:
        message = f"the worker of pod {pod.name} was killed"
    log_tail = redact(" ".join(ended.message.split())[-300:])
    return Report(reason, f"{message}: {log_tail}" if log_tail else message)


def explain_not_started(
    job: JobView,
    pods: Sequence[PodView],
    events: Sequence[EventView],
    now: datetime,
    start_timeout: float,
) -> Report | None:
    """Explain why a live Job has had no running pod for `start_timeout` seconds.

    None if it has one or may take longer.

    A waiting pod has its own `start_timeout`, whatever happened to the pods before it. A Job
    without a pod either cannot create its first one, or is between a drained or failed pod and its
    replacement: that gap gets its time, too. A suspended Job (Kueue) is not late: its clock starts
    when it is resumed.
    """
    if not is_overdue(job, now, start_timeout):
        return None
    current = [pod for pod in pods if not pod.is_finished]
    if any(pod.has_started or not _is_late(pod.created, now, start_timeout) for pod in current):
        return None
    late = f"no pod of the Job began to work within {start_timeout:.0f}s"
    if current:
        if job.failed_pods or len(current) < len(pods):
            late = f"a further pod of the Job did not begin to work within {start_timeout:.0f}s"
        return _explain_waiting_pod(max(current, key=lambda pod: pod.created), late, events)
    if _is_between_pods(job, pods, events, now, start_timeout):
        return None
    warning = _last_warning(events)
    reason = Reason.QUOTA_EXCEEDED if _QUOTA.search(warning) else Reason.NEVER_STARTED
    return Report(reason, f"{late}: none could be created: {warning or 'Events: none'}")


def explain_lost_node(pods: Sequence[PodView], now: datetime) -> Report | None:
    """Explain why a deleted pod still counts as live: its node does not confirm that it has ended.

    None if there is no such pod. The control plane cannot know whether its worker still runs, nor
    can we. So it counts until it is gone, or its node is declared to be off:
    https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/
    """
    for pod in pods:
        if pod.is_finished or pod.delete_by is None or now - pod.delete_by <= _NODE_LOST_AFTER:
            continue
        due = pod.delete_by.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        return Report(
            Reason.NODE_LOST,
            f"pod {pod.name} should have ended by {due} (UTC), and its node {pod.node} has not "
            "confirmed it: it may still run, so no other pod is started",
            remedy="Bring the node back: the run then goes on by itself. Only if the node is off: "
            f"`kubectl taint nodes {pod.node} node.kubernetes.io/out-of-service=nodeshutdown:"
            f"NoExecute`, or `kubectl delete node {pod.node}` if it is off for good.",
        )
    return None


def is_overdue(job: JobView, now: datetime, start_timeout: float) -> bool:
    """Whether a live Job has no ready pod though `start_timeout` seconds have passed."""
    may_start = job.result is None and not job.is_deleting and not job.is_suspended
    is_late = _is_late(job.started or job.created, now, start_timeout)
    return may_start and job.ready_pods == 0 and is_late


def _is_late(since: datetime, now: datetime, timeout: float) -> bool:
    return now - since > timedelta(seconds=timeout)


def _is_between_pods(
    job: JobView,
    pods: Sequence[PodView],
    events: Sequence[EventView],
    now: datetime,
    start_timeout: float,
) -> bool:
    """Whether a Job without a current pod had one so recently that the next one may still come."""
    if job.current_pods:
        return True
    since = job.started or job.created
    changed = max(since, job.status_changed or since)
    had_pod = (
        pods
        or job.failed_pods
        or changed - since > _SETTLE_TIME
        or any(event.reason == "SuccessfulCreate" for event in events)
    )
    return not _is_late(changed, now, start_timeout + (_MAX_POD_BACKOFF if had_pod else 0))


def _explain_waiting_pod(pod: PodView, late: str, events: Sequence[EventView]) -> Report:
    if pod.unscheduled:
        return Report(
            Reason.UNSCHEDULABLE, f"{late}: pod {pod.name} fits on no node: {pod.unscheduled}"
        )
    if pod.waiting_reason in _IMAGE_ERRORS:
        return Report(
            Reason.IMAGE_PULL_BACK_OFF, f"{late}: the image cannot be pulled: {pod.waiting_message}"
        )
    if pod.waiting_reason in _CONTAINER_ERRORS:
        return Report(Reason.CREATE_CONTAINER_CONFIG_ERROR, f"{late}: {pod.waiting_message}")
    warning = _last_warning(events)
    reason, why = Reason.CREATE_CONTAINER_CONFIG_ERROR, warning
    if missing := _MISSING_OBJECT.search(warning):
        why = f"{missing[1]} {missing[2]!r} does not exist in the Job's namespace"
    elif _IMAGE_EVENT.match(warning):
        reason = Reason.IMAGE_PULL_BACK_OFF
    elif not _KEY_EVENT.match(warning):
        reason = Reason.NEVER_STARTED
        state = pod.waiting_reason or pod.phase
        why = f"pod {pod.name} is {state}; {warning or 'Events: none'}"
    return Report(reason, f"{late}: {why}")


def _decode(termination: Termination) -> Report | None:
    """Read the worker's report from the termination message; None if it is not one."""
    try:
        return Report.decode(termination.message)
    except MalformedReport:
        return None


def _last_warning(events: Sequence[EventView]) -> str:
    """Format the latest warning about a failure, else the latest other one; empty without any."""
    warnings = [event for event in events if event.is_warning and event.reason not in _ADVICE]
    last = max(
        warnings, key=lambda event: (event.reason in _FAILURES, event.last_seen), default=None
    )
    return redact(f"{last.reason}: {last.message}", 400) if last else ""
