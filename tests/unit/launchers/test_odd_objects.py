"""Jobs, pods, Events, Leases and listings with odd fields: they never stop the others."""

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import client
from tests.odd_json import TEXTS, VALUES, mutated
from tests.unit.launchers.test_kubernetes_launcher import (
    CREATED,
    NAMES,
    ScriptedApi,
    job,
    listing,
    open_launcher,
    pod,
)

from enrollgate.control.leader_election import LeaderElector
from enrollgate.domain.observation import Phase
from enrollgate.domain.reasons import Reason, exit_code
from enrollgate.domain.report import REPORT_LIMIT, Report
from enrollgate.launchers import LauncherUnavailable
from enrollgate.launchers.kubernetes.api import Api, ApiError
from enrollgate.launchers.kubernetes.diagnosis import (
    build_report,
    explain_not_started,
    explain_pod_failure,
    is_overdue,
)
from enrollgate.launchers.kubernetes.job_client import (
    changed_run,
    parse_event,
    parse_job,
    parse_pod,
)

NOW = datetime.fromisoformat(CREATED) + timedelta(hours=1)
# As an API server of Kubernetes 1.37 returns them, without what is not read.
JOB = {
    "metadata": {
        "name": "school-1-1",
        "uid": "u1",
        "creationTimestamp": CREATED,
        "labels": {"enrollgate.io/installation": "school"},
        "managedFields": [{"manager": "m", "time": CREATED, "subresource": "status"}],
    },
    "spec": {"suspend": False},
    "status": {
        "startTime": CREATED,
        "active": 0,
        "ready": 0,
        "failed": 3,
        "terminating": 0,
        "uncountedTerminatedPods": {"failed": ["a"]},
        "conditions": [
            {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}
        ],
    },
}
POD = {
    "metadata": {
        "name": "school-1-1-x7k2p",
        "creationTimestamp": CREATED,
        "deletionTimestamp": CREATED,
        "ownerReferences": [{"kind": "Job", "name": "school-1-1", "uid": "u1", "controller": True}],
        "labels": {"batch.kubernetes.io/job-name": "school-1-1"},
    },
    "status": {
        "phase": "Failed",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/3 nodes"},
            {"type": "DisruptionTarget", "status": "True", "message": "drained"},
        ],
        "initContainerStatuses": [
            {"name": "init", "state": {"terminated": {"exitCode": 1, "message": "m"}}}
        ],
        "containerStatuses": [
            {
                "name": "worker",
                "state": {
                    "waiting": {"reason": "ImagePullBackOff", "message": "m"},
                    "terminated": {
                        "exitCode": 75,
                        "reason": "Error",
                        "message": Report(Reason.SITE_ERROR, "m").encode(),
                    },
                },
            }
        ],
    },
}
EVENT = {
    "type": "Warning",
    "reason": "FailedCreate",
    "message": "exceeded quota",
    "lastTimestamp": CREATED,
    "series": {"lastObservedTime": CREATED},
}
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=3)


@given(
    mutated(JOB) | OBJECTS,
    st.lists(mutated(POD) | OBJECTS, max_size=3),
    st.lists(mutated(EVENT) | OBJECTS, max_size=2),
)
def test_odd_objects_are_read_and_explained(
    raw_job: dict[str, Any], raw_pods: list[dict[str, Any]], raw_events: list[dict[str, Any]]
) -> None:
    found = parse_job(raw_job)
    pods, events = [parse_pod(raw) for raw in raw_pods], [parse_event(raw) for raw in raw_events]
    reports = [explain_pod_failure(each) for each in pods]
    if found.result is not None:
        reports.append(build_report(found.result, pods, events))
    assert is_overdue(found, NOW, 900) in (True, False)
    reports.append(explain_not_started(found, pods, events, NOW, 900))
    for report in reports:
        assert report is None or len(report.encode()) <= REPORT_LIMIT
    name = changed_run({"type": "MODIFIED", "object": raw_job})
    assert name is None or isinstance(name, str)


@given(VALUES)
def test_changed_run_of_any_event_is_a_name_or_none(value: Any) -> None:
    for event in ({"type": value, "object": value}, {"type": "DELETED", "object": value}, {}):
        assert isinstance(changed_run(event), str | None)


@given(st.sampled_from([69, 75, 1, 0, 137]), TEXTS)
def test_odd_termination_message_ends_as_worker_crashed(code: int, message: str) -> None:
    terminated = {"exitCode": code, "reason": "Error", "message": message}
    raw = {
        **POD,
        "status": {
            "phase": "Failed",
            "containerStatuses": [{"name": "worker", "state": {"terminated": terminated}}],
        },
    }
    report = explain_pod_failure(parse_pod(raw))
    assert report is not None and report.reason is not None
    assert report.reason is Reason.WORKER_CRASHED or exit_code(report.reason) == code


def test_unknown_reason_of_a_newer_worker_ends_as_worker_crashed_with_its_words() -> None:
    message = '{"reason": "SiteOnHoliday", "message": "it is closed", "new": 1}'
    terminated = {"exitCode": 69, "reason": "Error", "message": message}
    state = {"name": "worker", "state": {"terminated": terminated}}
    raw = {**POD, "status": {"phase": "Failed", "containerStatuses": [state]}}
    report = explain_pod_failure(parse_pod(raw))
    assert report == Report(Reason.WORKER_CRASHED, "SiteOnHoliday: it is closed")


def observe(jobs: list[Any], pods: list[Any]) -> dict[str, Any]:
    def answer(path: str) -> Any:
        if path.endswith("/jobs"):
            return listing(jobs)
        return listing(pods if path.endswith("/pods") else [])

    with open_launcher(ScriptedApi(answer), clock=lambda: NOW) as launcher:
        return dict(launcher.observe(NAMES[:3]))


def test_one_odd_job_hides_no_other() -> None:
    odd: list[dict[str, Any]] = [
        {},
        {"metadata": 5},
        {"metadata": {"name": ["x"], "uid": {}}},
        {"metadata": {"name": NAMES[1]}, "status": [1], "spec": "x"},
        {"metadata": {"name": NAMES[2], "creationTimestamp": "soon"}, "status": {"active": "many"}},
    ]
    seen = observe([*odd, job(NAMES[0])], [pod(NAMES[0], "Failed")])
    assert seen[NAMES[0]].report.reason is Reason.OOM_KILLED
    assert seen[NAMES[1]].phase is seen[NAMES[2]].phase is Phase.LIVE


@pytest.mark.parametrize(
    "owner",
    [
        None,
        {"kind": "Job", "name": NAMES[0], "uid": "uid-of-an-earlier-job", "controller": True},
        {"kind": "ReplicaSet", "name": NAMES[0], "uid": f"uid-of-{NAMES[0]}", "controller": True},
        {"kind": "Job", "name": NAMES[0], "uid": f"uid-of-{NAMES[0]}", "controller": False},
    ],
)
def test_pod_that_this_very_job_does_not_own_is_not_believed(owner: Any) -> None:
    """Anybody who may create pods can put the Job's label on one."""
    foreign = pod(NAMES[0], "Failed")
    foreign["metadata"]["ownerReferences"] = [owner] if owner else []
    seen = observe([job(NAMES[0])], [foreign])
    assert seen[NAMES[0]].report.reason is Reason.BACKOFF_LIMIT_EXCEEDED
    assert "left no pod" in seen[NAMES[0]].report.message


def test_living_pod_of_a_job_that_is_gone_keeps_its_run_alive() -> None:
    """Also if it was orphaned on purpose: two workers must never run at once."""
    owned, orphaned = pod(NAMES[0], "Running"), pod(NAMES[1], "Running")
    del orphaned["metadata"]["ownerReferences"]
    seen = observe([], [owned, orphaned])
    assert {name for name in seen if seen[name].is_ending} == {NAMES[0], NAMES[1]}


class RawApi(Api):
    """Answers every request with the same bytes."""

    def __init__(self, status: int, data: bytes) -> None:
        super().__init__(client.Configuration(), random=Random(1), sleep=lambda _seconds: None)
        self._answer = status, data

    def _send(self, *_: Any) -> Any:
        status, data = self._answer
        return status, {}, data


@given(
    st.one_of(
        TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
        mutated({"items": [JOB], "metadata": {"continue": ""}}).map(
            lambda v: json.dumps(v).encode()
        ),
    )
)
def test_odd_listing_is_a_list_of_objects_or_gives_up_the_pass(data: bytes) -> None:
    """A listing that lacks Jobs must not pass for a whole one: they would count as gone."""
    try:
        pages = list(RawApi(200, data).pages("/jobs", query={}))
    except LauncherUnavailable:
        return
    assert all(isinstance(each, dict) for page in pages for each in page)
    assert b'"items"' in data


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"kind": "Status"},
        {"items": "none"},
        {"items": [5]},
        {"items": {"a": 1}},
        {"items": [], "metadata": {"continue": 5}},
        {"items": [], "metadata": {"continue": "always the same"}},
    ],
)
def test_answer_that_is_no_listing_gives_up_the_pass(answer: Any) -> None:
    with pytest.raises(LauncherUnavailable):
        list(RawApi(200, json.dumps(answer).encode()).pages("/jobs", query={}))


@given(st.sampled_from([400, 403, 404, 409, 422]), TEXTS)
def test_odd_refusal_is_an_api_error(status: int, text: str) -> None:
    with pytest.raises(ApiError):
        RawApi(status, text.encode("utf-8", "surrogatepass")).request("GET", "/jobs")


LEASE = {
    "metadata": {"name": "school", "resourceVersion": "7"},
    "spec": {
        "holderIdentity": "another",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 3,
        "renewTime": CREATED,
    },
}


@given(mutated(LEASE) | OBJECTS)
def test_odd_lease_never_ends_the_operator(lease: dict[str, Any]) -> None:
    elector = LeaderElector(
        RawApi(200, json.dumps(lease).encode()),
        namespace="courses",
        name="school",
        identity="me",
        duration=15,
        monotonic=lambda: 0.0,
        clock=lambda: datetime.now(UTC),
    )
    assert elector.try_acquire_or_renew() in (True, False)
    elector.release()
