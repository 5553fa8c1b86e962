"""A Job, its pods and their Events become a report. Pure functions: no cluster."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from enrollgate.domain.reasons import Reason, exit_code
from enrollgate.domain.report import Report
from enrollgate.launchers.kubernetes.diagnosis import (
    build_report,
    explain_not_started,
    explain_pod_failure,
)
from enrollgate.launchers.kubernetes.job_client import parse_event, parse_job, parse_pod

BEGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)
FAILED = {
    "type": "Failed",
    "status": "True",
    "reason": "BackoffLimitExceeded",
    "message": "has reached the limit",
}


def at(minutes: float = 0) -> str:
    return (BEGIN + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def job(*conditions: dict[str, str], **fields: Any) -> Any:
    status = {"startTime": at(), "conditions": list(conditions)} | fields.pop("status", {})
    metadata: dict[str, Any] = {"name": "school-1-1", "uid": "u", "creationTimestamp": at()}
    if (changed := fields.pop("changed", None)) is not None:
        metadata["managedFields"] = [
            {"manager": "enrollgate", "time": at(999)},
            {"manager": "kube-controller-manager", "subresource": "status", "time": at(changed)},
        ]
    return parse_job({"metadata": metadata, "spec": fields, "status": status})


def pod(name: str = "p1", created: float = 0, phase: str = "Failed", **status: Any) -> Any:
    return parse_pod(
        {
            "metadata": {"name": name, "creationTimestamp": at(created)},
            "status": {"phase": phase} | status,
        }
    )


def stopped(code: int, message: str = "", reason: str = "Error") -> list[dict[str, Any]]:
    return [
        {
            "name": "worker",
            "state": {"terminated": {"exitCode": code, "reason": reason, "message": message}},
        }
    ]


def waiting(reason: str, message: str) -> list[dict[str, Any]]:
    return [{"name": "worker", "state": {"waiting": {"reason": reason, "message": message}}}]


def warning(reason: str, message: str, minutes: float = 0) -> Any:
    return parse_event(
        {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": at(minutes)}
    )


def job_result(*conditions: dict[str, str]) -> Any:
    return job(*conditions).result


def test_the_worker_s_own_report_comes_first() -> None:
    own = Report(Reason.DRM_PROTECTED, "lecture 3 is protected")
    found = pod(containerStatuses=stopped(exit_code(own.reason), own.encode()))
    assert build_report(job_result(FAILED), [found], []) == own


@pytest.mark.parametrize("code", [0, 1, 137])
def test_a_report_that_does_not_fit_the_exit_code_is_ignored(code: int) -> None:
    own = Report(Reason.DRM_PROTECTED, "lecture 3 is protected")
    assert exit_code(own.reason) != code
    report = explain_pod_failure(pod(containerStatuses=stopped(code, own.encode())))
    assert report is not None and report.reason is Reason.WORKER_CRASHED


def test_a_failed_pod_that_reports_success_counts_as_crashed() -> None:
    found = pod(containerStatuses=stopped(1, Report(None, "3 items delivered").encode()))
    assert build_report(job_result(FAILED), [found], []).reason is Reason.WORKER_CRASHED


def test_a_complete_job_without_a_report_succeeds_and_says_so() -> None:
    complete = job_result({"type": "Complete", "status": "True"})
    assert build_report(complete, [], []) == Report(
        None, "the Job is complete; its pod left no report"
    )
    torn = pod(phase="Succeeded", containerStatuses=stopped(0, '{"reason": nul'))
    assert build_report(complete, [torn], []).reason is None


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (
            {"containerStatuses": stopped(137, reason="OOMKilled")},
            Reason.OOM_KILLED,
            "more memory than its limit",
        ),
        ({"containerStatuses": stopped(137)}, Reason.WORKER_CRASHED, "was killed"),
        (
            {"containerStatuses": stopped(139, "Segmentation  fault")},
            Reason.WORKER_CRASHED,
            "code 139: Segmentation fault",
        ),
        (
            {"reason": "Evicted", "message": "low on resource: ephemeral-storage"},
            Reason.EVICTED,
            "ephemeral-storage",
        ),
        (
            {
                "conditions": [
                    {"type": "DisruptionTarget", "status": "True", "message": "preempted by p2"}
                ],
                "containerStatuses": stopped(143),
            },
            Reason.EVICTED,
            "taken away: preempted by p2",
        ),
    ],
)
def test_a_pod_without_a_report_is_explained_by_its_state(
    status: dict[str, Any], reason: Reason, words: str
) -> None:
    report = build_report(job_result(FAILED), [pod(**status)], [])
    assert report.reason is reason and words in report.message


# As a kubelet of Kubernetes 1.37 with containerd reports a command that is not in the image.
START_ERROR = [
    {
        "name": "worker",
        "image": "docker.io/library/busybox:1.36",
        "ready": False,
        "started": False,
        "restartCount": 0,
        "state": {
            "terminated": {
                "containerID": "containerd://5f0c",
                "exitCode": 128,
                "reason": "StartError",
                "message": "failed to create containerd task: failed to create shim task: OCI "
                "runtime create failed: runc create failed: unable to start container process: "
                'exec: "work": executable file not found in $PATH: unknown',
                "startedAt": "1970-01-01T00:00:00Z",
                "finishedAt": at(1),
            }
        },
    }
]


def test_a_command_that_is_not_in_the_image_is_a_start_error() -> None:
    pods = [pod(f"p{number}", number, containerStatuses=START_ERROR) for number in range(3)]
    report = build_report(job_result(FAILED), pods, [])
    assert report.reason is Reason.START_ERROR
    assert 'exec: "work": executable file not found in $PATH' in report.message
    assert "pod p2 cannot be started" in report.message


def test_a_container_that_never_started_has_no_start_time() -> None:
    assert pod(containerStatuses=START_ERROR).started_at is None


# As that kubelet reports a pod that exceeded its own limit: no DisruptionTarget condition, and the
# worker has ended by SIGTERM.
STORAGE: dict[str, Any] = {
    "reason": "Evicted",
    "message": "Pod ephemeral local storage usage exceeds the total limit of containers 11Gi. ",
    "conditions": [
        {"type": "PodReadyToStartContainers", "status": "False"},
        {"type": "Initialized", "status": "True"},
        {"type": "Ready", "status": "False", "reason": "PodFailed"},
        {"type": "ContainersReady", "status": "False", "reason": "PodFailed"},
        {"type": "PodScheduled", "status": "True"},
    ],
}


def test_an_evicted_pod_is_explained_and_keeps_what_was_delivered() -> None:
    own = Report(Reason.STOPPED, "asked to stop", items_delivered=3, bytes_delivered=7)
    found = pod(**STORAGE, containerStatuses=stopped(exit_code(own.reason), own.encode()))
    assert build_report(job_result(FAILED), [found], []) == Report(
        Reason.EVICTED,
        "pod p1 was evicted: Pod ephemeral local storage usage exceeds the total limit of "
        "containers 11Gi.",
        items_delivered=3,
        bytes_delivered=7,
    )


def test_a_permanent_failure_of_an_evicted_pod_is_the_reason() -> None:
    own = Report(Reason.DRM_PROTECTED, "lecture 3 is protected")
    found = pod(**STORAGE, containerStatuses=stopped(exit_code(own.reason), own.encode()))
    assert build_report(job_result(FAILED), [found], []) == own


def test_the_youngest_finished_pod_explains_the_job() -> None:
    pods = [
        pod("old", 0, containerStatuses=stopped(139)),
        pod("young", 5, containerStatuses=stopped(137, reason="OOMKilled")),
        pod("still there", 9, phase="Running"),
    ]
    assert "young" in build_report(job_result(FAILED), pods, []).message


def test_an_exceeded_deadline_is_reported_with_the_job_s_message() -> None:
    deadline = {
        "type": "Failed",
        "status": "True",
        "reason": "DeadlineExceeded",
        "message": "was active too long",
    }
    assert build_report(job_result(deadline), [], []) == Report(
        Reason.DEADLINE_EXCEEDED, "was active too long"
    )


def test_a_failed_job_without_pods_is_explained_by_the_last_warning() -> None:
    events = [warning("FailedCreate", "newer", 2), warning("FailedCreate", "older", 1)]
    report = build_report(job_result(FAILED), [], events)
    assert report.reason is Reason.BACKOFF_LIMIT_EXCEEDED and report.message.endswith(
        "no pod to ask; FailedCreate: newer"
    )


def test_an_email_address_in_a_pod_s_message_is_redacted() -> None:
    found = pod(containerStatuses=stopped(1, "login of ada@example.com failed"))
    assert "ada@" not in build_report(job_result(FAILED), [found], []).message


LATE = BEGIN + timedelta(minutes=16)


@pytest.mark.parametrize(
    ("pods", "events", "reason", "words"),
    [
        ([], [], Reason.NEVER_STARTED, "none could be created: Events: none"),
        (
            [],
            [warning("FailedCreate", "pods is forbidden: exceeded quota: q")],
            Reason.QUOTA_EXCEEDED,
            "exceeded quota: q",
        ),
        (
            [
                pod(
                    phase="Pending",
                    conditions=[
                        {"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}
                    ],
                )
            ],
            [],
            Reason.UNSCHEDULABLE,
            "fits on no node: 0/3 nodes",
        ),
        (
            [pod(phase="Pending", containerStatuses=waiting("ErrImagePull", "not found"))],
            [],
            Reason.IMAGE_PULL_BACK_OFF,
            "cannot be pulled: not found",
        ),
        (
            [
                pod(
                    phase="Pending",
                    containerStatuses=waiting("CreateContainerConfigError", 'secret "s" not found'),
                )
            ],
            [],
            Reason.CREATE_CONTAINER_CONFIG_ERROR,
            'secret "s" not found',
        ),
        (
            [pod(phase="Pending")],
            [warning("FailedMount", 'MountVolume failed: secret "cookies" not found')],
            Reason.CREATE_CONTAINER_CONFIG_ERROR,
            "secret 'cookies' does not exist",
        ),
        (
            [pod(phase="Pending", containerStatuses=waiting("ContainerCreating", ""))],
            [warning("Failed", 'Failed to pull image "a/b:c": not found')],
            Reason.IMAGE_PULL_BACK_OFF,
            'Failed to pull image "a/b:c": not found',
        ),
        (
            [pod(phase="Pending", containerStatuses=waiting("ContainerCreating", ""))],
            [warning("Failed", "Error: ImagePullBackOff")],
            Reason.IMAGE_PULL_BACK_OFF,
            "ImagePullBackOff",
        ),
        (
            [pod(phase="Pending", containerStatuses=waiting("ContainerCreating", ""))],
            [warning("Failed", "Error: couldn't find key token in Secret courses/database")],
            Reason.CREATE_CONTAINER_CONFIG_ERROR,
            "couldn't find key token",
        ),
        ([pod(phase="Pending")], [], Reason.NEVER_STARTED, "pod p1 is Pending"),
        (
            [pod(phase="Pending")],
            [warning("MissingClusterDNS", "kubelet does not have ClusterDNS IP configured")],
            Reason.NEVER_STARTED,
            "pod p1 is Pending; Events: none",
        ),
        (
            [pod(phase="Pending")],
            [
                warning("FailedCreatePodSandBox", "no IP address is free", 1),
                warning("TooManyAnnotations", "of something else", 2),
            ],
            Reason.NEVER_STARTED,
            "FailedCreatePodSandBox: no IP address is free",
        ),
        (
            [pod(phase="Pending")],
            [warning("OddNews", "of a newer kubelet")],
            Reason.NEVER_STARTED,
            "OddNews: of a newer kubelet",
        ),
    ],
)
def test_a_job_that_does_not_start_is_explained_after_the_timeout(
    pods: list[Any], events: list[Any], reason: Reason, words: str
) -> None:
    report = explain_not_started(job(), pods, events, LATE, 900)
    assert report is not None and report.reason is reason
    assert "within 900s" in report.message and words in report.message
    assert explain_not_started(job(), pods, events, BEGIN + timedelta(minutes=15), 900) is None, (
        "it has all of its time"
    )


@pytest.mark.parametrize(
    "live",
    [
        job(suspend=True),
        job(status={"ready": 1}),
        job({"type": "Complete", "status": "True"}),
        job(status={"startTime": at(10)}),
    ],
    ids=["held back by Kueue", "ready", "finished", "let go ten minutes later"],
)
def test_a_job_that_started_or_may_not_start_yet_is_not_stuck(live: Any) -> None:
    assert explain_not_started(live, [], [], LATE, 900) is None


RUNNING = [{"name": "worker", "state": {"running": {"startedAt": at()}}}]
PULLING = waiting("ImagePullBackOff", "not found")
CREATED = parse_event(
    {"type": "Normal", "reason": "SuccessfulCreate", "message": "Created pod: p1"}
)


@pytest.mark.parametrize("minutes", [16, 61, 300])
def test_the_replacement_of_a_drained_pod_gets_its_own_timeout(minutes: float) -> None:
    """An eviction deletes the pod, so that nothing of the first is left to see."""
    replacement = [pod("second", minutes, phase="Pending")]
    for wait in (0, 0.1, 15):
        now = BEGIN + timedelta(minutes=minutes + wait)
        assert explain_not_started(job(changed=minutes), replacement, [], now, 900) is None
    report = explain_not_started(
        job(changed=minutes), replacement, [], BEGIN + timedelta(minutes=minutes + 15.1), 900
    )
    assert report is not None and report.reason is Reason.NEVER_STARTED


@pytest.mark.parametrize(
    ("found", "pods", "events"),
    [
        (job(status={"terminating": 1}), [], []),
        (job(status={"active": 1}), [], []),
        (job(status={"uncountedTerminatedPods": {"failed": ["u"]}}), [], []),
        (job(changed=300), [], []),
        (job(status={"failed": 1}, changed=295), [], []),
        (job(changed=295), [pod("first", 0, containerStatuses=stopped(1))], []),
        (job(changed=281), [], [CREATED]),
    ],
    ids=[
        "terminating",
        "active",
        "not accounted for",
        "just gone",
        "failed",
        "its pod is there",
        "once created",
    ],
)
def test_a_job_between_two_pods_is_not_stuck(
    found: Any, pods: list[Any], events: list[Any]
) -> None:
    assert explain_not_started(found, pods, events, BEGIN + timedelta(minutes=301), 900) is None


def test_a_job_between_two_pods_is_given_the_pod_backoff_time() -> None:
    tried = [pod("first", 0, containerStatuses=stopped(1))]
    failed = job(status={"failed": 1}, changed=20)
    assert explain_not_started(failed, tried, [], BEGIN + timedelta(minutes=26), 2) is None
    assert explain_not_started(failed, tried, [], BEGIN + timedelta(minutes=27), 2) is not None


def test_a_retry_pod_that_cannot_start_is_stuck_after_the_timeout() -> None:
    pods = [
        pod("first", containerStatuses=stopped(1)),
        pod("second", 5, phase="Pending", containerStatuses=PULLING),
    ]
    found = job(status={"failed": 1}, changed=5)
    assert explain_not_started(found, pods, [], BEGIN + timedelta(minutes=20), 900) is None
    report = explain_not_started(found, pods, [], BEGIN + timedelta(minutes=21), 900)
    assert report is not None and report.reason is Reason.IMAGE_PULL_BACK_OFF
    assert report.message.startswith("a further pod of the Job did not begin to work within 900s")


def test_a_job_with_a_running_but_uncounted_pod_has_started() -> None:
    assert (
        explain_not_started(job(), [pod(phase="Running", containerStatuses=RUNNING)], [], LATE, 900)
        is None
    )


def test_a_job_whose_status_never_changed_never_had_a_pod() -> None:
    report = explain_not_started(job(changed=0.1), [], [], LATE, 900)
    assert report is not None and report.reason is Reason.NEVER_STARTED


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {
                "reason": "OutOfcpu",
                "message": "Pod was rejected: Node didn't have enough resource: cpu",
            },
            "(pod p1: OutOfcpu: Pod was rejected: Node didn't have enough resource: cpu)",
        ),
        (
            {
                "initContainerStatuses": [
                    {"name": "fetch", "state": {"terminated": {"exitCode": 3, "message": "no CA"}}}
                ]
            },
            "(pod p1: init container fetch ended with exit code 3: no CA)",
        ),
        ({}, "(pod p1: Failed)"),
    ],
)
def test_a_pod_whose_worker_never_started_says_why(status: dict[str, Any], words: str) -> None:
    report = build_report(job_result(FAILED), [pod(**status)], [])
    assert (
        report.reason is Reason.BACKOFF_LIMIT_EXCEEDED
        and report.message == f"has reached the limit {words}"
    )
