"""Many requests at once: what one that fails means for the others. No cluster: the API server is a function of the path."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
import urllib3
from kubernetes import client
from tests.launching import launch

from enrollgate.control.wiring import utc_now
from enrollgate.domain.observation import Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.reasons import Reason
from enrollgate.domain.run_event import RunEvent, RunEventType
from enrollgate.launchers import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes import Api, JobSettings, KubernetesLauncher
from enrollgate.launchers.kubernetes.api import MAX_ATTEMPTS
from enrollgate.launchers.kubernetes.launcher import PODS_OF

NAMES = [f"school-{number}-1" for number in range(1, 201)]
CREATED = "2026-11-26T07:00:00Z"
CONCURRENCY = 4
NOT_FOUND = (404, {}, b'{"reason": "NotFound", "message": "no such Job"}')


class Scripted(Api):
    """Answers each path as the test says, and counts."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        super().__init__(
            client.Configuration(), random=Random(1), sleep=lambda _seconds: time.sleep(0.01)
        )
        self.answer = answer
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def _send(self, _method: str, path: str, *_more: Any) -> Any:
        with self._lock:
            self.asked.append(path)
        return self.answer(path)


@contextmanager
def launcher_of(
    api: Api, progress: Callable[[], None] = lambda: None, clock: Callable[[], datetime] = utc_now
) -> Iterator[KubernetesLauncher]:
    settings = JobSettings("courses", "school", "enrollgate:1")
    made = KubernetesLauncher(
        api, settings, start_timeout=900, concurrency=CONCURRENCY, clock=clock, progress=progress
    )
    with closing(made):
        yield made


def test_a_server_that_is_away_is_not_asked_for_each_of_many_jobs() -> None:
    def away(path: str) -> Any:
        raise urllib3.exceptions.ReadTimeoutError(None, path, "timed out")  # type: ignore[arg-type]  # no pool here

    api = Scripted(away)
    with launcher_of(api) as launcher, pytest.raises(LauncherUnavailable):
        launcher.observe(NAMES, only=True)
    assert len(api.asked) < len(NAMES) * MAX_ATTEMPTS / 2, (
        "those under way end, the others never begin"
    )


def test_what_is_refused_for_one_job_keeps_no_other_from_being_asked_for() -> None:
    refused = (403, {}, b'{"reason": "Forbidden", "message": "a policy"}')
    api = Scripted(lambda path: refused if path.endswith("/school-1-1") else NOT_FOUND)
    with launcher_of(api) as launcher, pytest.raises(LauncherRefused, match="a policy"):
        launcher.observe(NAMES, only=True)
    assert len(api.asked) == len(NAMES)


@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [
        (
            403,
            'jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create resource "jobs"',
            "grant the operator",
        ),
        (
            403,
            'admission webhook "guard.example.com" denied the request: no',
            "see the admission policy or webhook",
        ),
        (
            422,
            "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request",
            "see the admission",
        ),
        (
            422,
            'Job.batch "x" is invalid: spec.template.spec.containers: Required value',
            "KUBERNETES__JOB_TEMPLATE",
        ),
        (404, 'namespaces "courses" not found', "see that the namespace 'courses' exists"),
    ],
)
def test_a_refused_job_is_told_with_what_mends_it(status: int, message: str, remedy: str) -> None:
    api = Scripted(
        lambda _path: (status, {}, json.dumps({"reason": "Invalid", "message": message}).encode())
    )
    order = RunOrder(NAMES[0], 1, 1, "https://courses.example.com/1", "cookies.txt")
    with launcher_of(api) as launcher, pytest.raises(LauncherRefused, match=remedy):
        launch(launcher, [order])


def test_each_served_request_is_progress() -> None:
    served: list[None] = []
    api = Scripted(lambda _path: (200, {}, b'{"items": []}'))
    with launcher_of(api, progress=lambda: served.append(None)) as launcher:
        assert launcher.observe([]) == {}
    assert len(served) == len(api.asked) == 1


class Finished(Scripted):
    """All Jobs have failed but the last two, which are gone. Each but one of those two has a pod: selectors are honoured."""

    def __init__(self) -> None:
        super().__init__(lambda _path: NOT_FOUND)
        self.selectors: list[str] = []

    def _send(self, _method: str, path: str, *more: Any) -> Any:
        if path.endswith("/jobs"):
            return listing([job(name) for name in NAMES[:-2]])
        assert path.endswith("/pods"), path
        selector = more[0]["labelSelector"]
        self.selectors.append(selector)
        label, _, names = selector.removesuffix(")").partition(" in (")
        assert label == "batch.kubernetes.io/job-name"
        return listing(
            [
                pod(name, "Running" if name == NAMES[-2] else "Failed")
                for name in names.split(",")
                if name != NAMES[-1]
            ]
        )


def listing(items: list[dict[str, Any]]) -> Any:
    return 200, {}, json.dumps({"items": items}).encode()


def job(name: str) -> dict[str, Any]:
    labels = {"enrollgate.io/installation": "school"}
    metadata = {
        "name": name,
        "uid": f"uid-of-{name}",
        "labels": labels,
        "creationTimestamp": CREATED,
    }
    failed = {
        "type": "Failed",
        "status": "True",
        "reason": "BackoffLimitExceeded",
        "message": "no more tries",
    }
    return {"metadata": metadata, "status": {"conditions": [failed]}}


def pod(name: str, phase: str) -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-name": name}
    ended = {"exitCode": 1, "reason": "OOMKilled"}
    return {
        "metadata": {"name": f"{name}-x7k2p", "labels": labels, "creationTimestamp": CREATED},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": "worker", "state": {"terminated": ended}}],
        },
    }


def test_the_pods_of_many_jobs_that_ended_at_once_are_asked_for_together() -> None:
    """Asked for one by one, the server would look through all pods for each."""
    api = Finished()
    with launcher_of(api) as launcher:
        seen = launcher.observe(NAMES)
    assert len(api.selectors) == len(NAMES) / PODS_OF + 1, (
        "those of the ended, and those of the gone"
    )
    for name in NAMES[:-2]:
        report = seen[name].report
        assert (
            seen[name].phase is Phase.FAILED
            and report is not None
            and report.reason is Reason.OOM_KILLED
        )
        assert f"{name}-x7k2p" in report.message, "each has its own pod's story"
    assert seen[NAMES[-2]].is_ending and NAMES[-1] not in seen, (
        "what is gone is told from what is about to be"
    )


class OneJob(Scripted):
    """One Job that has been at work for an hour, and its pod, asked to go at a moment of the test's. Posts are noted."""

    def __init__(self, due: datetime | None) -> None:
        super().__init__(lambda _path: NOT_FOUND)
        self.due = due
        self.is_there = True
        self.posted: list[str] = []

    def _send(self, method: str, path: str, *more: Any) -> Any:
        if method == "POST":
            self.posted.append(more[1]["reason"])
            return 201, {}, b"{}"
        if path.endswith("/pods"):
            living = pod(NAMES[0], "Running")
            living["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": CREATED}}
            if self.due is not None:
                living["metadata"]["deletionTimestamp"] = self.due.isoformat()
            return listing([living] if self.is_there else [])
        if path.endswith("/events"):
            return listing([])
        found = job(NAMES[0])
        found["status"] = {"startTime": CREATED, "active": 1}
        if path.endswith("/jobs"):
            return listing([found] if self.is_there else [])
        return (200, {}, json.dumps(found).encode()) if self.is_there else NOT_FOUND


@pytest.mark.parametrize(
    ("seconds", "is_live"), [(None, True), (-5, True), (59, True), (61, False)]
)
def test_a_job_whose_only_pod_should_be_gone_for_a_minute_is_as_good_as_gone(
    seconds: float | None, is_live: bool
) -> None:
    """Its node is lost: neither the pod nor the Job would ever end."""
    now = datetime.fromisoformat(CREATED) + timedelta(hours=1)
    api = OneJob(None if seconds is None else now - timedelta(seconds=seconds))
    with launcher_of(api, clock=lambda: now) as launcher:
        seen = launcher.observe([NAMES[0]])
    assert (NAMES[0] in seen) == is_live
    assert not is_live or seen[NAMES[0]].phase is Phase.LIVE


@pytest.mark.parametrize("only", [True, False])
def test_of_a_job_that_is_gone_nothing_is_told(only: bool) -> None:
    api = OneJob(None)
    with launcher_of(api) as launcher:
        seen = launcher.observe(NAMES[:1])
        launcher.record_event(
            NAMES[0], seen[NAMES[0]].uid, RunEvent(RunEventType.LAUNCHED, "it was launched")
        )
        api.is_there = False
        assert launcher.observe(NAMES[:1], only=only) == {}
        launcher.record_event(NAMES[0], None, RunEvent(RunEventType.LOST, "it is lost"))
    assert api.posted == ["Launched"]
