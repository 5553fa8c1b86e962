"""The launcher against an API server that is a function of the path. No cluster."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
import urllib3
from kubernetes import client
from tests.job_settings import job_settings
from tests.launching import build_launch, launch

from enrollgate.control.wiring import utc_now
from enrollgate.domain.observation import LaunchOutcome, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.reasons import Reason
from enrollgate.domain.run_event import RunEvent, RunEventType
from enrollgate.launchers import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes import Api, KubernetesLauncher
from enrollgate.launchers.kubernetes.api import MAX_ATTEMPTS
from enrollgate.launchers.kubernetes.job_client import JOBS_PER_LISTING, LIST_FROM
from enrollgate.launchers.kubernetes.launcher import LOGS_AT_ONCE

NAMES = [f"school-{number}-1" for number in range(1, 201)]
CREATED = "2026-11-26T07:00:00Z"
CONCURRENCY = 4
POOL = urllib3.HTTPConnectionPool("api.example.com")
Answer = tuple[int, dict[str, str], bytes]
NOT_FOUND: Answer = (404, {}, b'{"reason": "NotFound", "message": "no such Job"}')


class ScriptedApi(Api):
    """Answers each path as the test says, and records the paths."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        super().__init__(
            client.Configuration(), random=Random(1), sleep=lambda _seconds: time.sleep(0.01)
        )
        self.answer = answer
        self.paths: list[str] = []
        self._lock = threading.Lock()

    def _send(self, _method: str, path: str, *_more: Any) -> Any:
        with self._lock:
            self.paths.append(path)
        return self.answer(path)


@contextmanager
def open_launcher(
    api: Api, progress: Callable[[], None] = lambda: None, clock: Callable[[], datetime] = utc_now
) -> Iterator[KubernetesLauncher]:
    made = KubernetesLauncher(
        api,
        job_settings(),
        start_timeout=900,
        concurrency=CONCURRENCY,
        clock=clock,
        progress=progress,
    )
    with closing(made):
        yield made


def test_an_unavailable_server_ends_the_requests_for_many_jobs() -> None:
    def hang(path: str) -> Any:
        raise urllib3.exceptions.ReadTimeoutError(POOL, path, "timed out")

    api = ScriptedApi(hang)
    with open_launcher(api) as launcher, pytest.raises(LauncherUnavailable):
        launcher.observe(NAMES, only=True)
    assert len(api.paths) < len(NAMES) * MAX_ATTEMPTS / 2, (
        "the requests in flight end, the others never start"
    )


def test_progress_is_read_from_each_running_pod_one_request_a_turn() -> None:
    running = [pod(name, "Running") for name in NAMES]
    for each in running:
        each["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": CREATED}}
    slow, silent, dead = (f"{name}-x7k2p" for name in NAMES[:3])
    turns = list[int]()

    def answer(path: str) -> Any:
        if path.endswith("/pods"):
            return listing(running)
        if slow in path:
            raise urllib3.exceptions.ReadTimeoutError(POOL, path, "timed out")
        if dead in path:
            return (502, {}, b"dial tcp: no route to host")
        line = "" if silent in path else RunProgress(1, 3, items_done=2).encode()
        return (200, {}, f"delivered: x\n{line}\nmore\n".encode())

    def wait_for_turn() -> bool:
        turns.append(len(api.paths))
        return True

    api = ScriptedApi(answer)
    with open_launcher(api) as launcher:
        found = dict(launcher.read_progress(NAMES, wait_for_turn))
        assert found == dict.fromkeys(NAMES[3:], RunProgress(1, 3, items_done=2))
        assert len(turns) == len(api.paths) == 204, "4 listings and 200 logs"
        assert all(sent <= turn for turn, sent in enumerate(turns)), "each after its turn"
        assert list(launcher.read_progress(NAMES, lambda: False)) == []
        assert len(api.paths) == 204


def test_missing_permission_to_read_logs_is_named() -> None:
    running = pod(NAMES[0], "Running")
    running["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": CREATED}}
    message = 'User "operator" cannot get resource "pods/log"'
    body = json.dumps({"reason": "Forbidden", "message": message}).encode()
    refused: Answer = (403, {}, body)
    api = ScriptedApi(lambda path: listing([running]) if path.endswith("/pods") else refused)
    with open_launcher(api) as launcher, pytest.raises(LauncherRefused, match="pods/log.*Role"):
        list(launcher.read_progress(NAMES[:1], lambda: True))


def test_refusal_by_a_kubelet_concerns_its_own_pods_alone() -> None:
    running = [pod(name, "Running") for name in NAMES[:2]]
    for each in running:
        each["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": CREATED}}
    message = "Forbidden (user=kube-apiserver, verb=get, resource=nodes, subresource=proxy)"
    refused: Answer = (403, {}, message.encode())

    def answer(path: str) -> Any:
        if path.endswith("/pods"):
            return listing(running)
        return refused if NAMES[0] in path else (200, {}, RunProgress(1, 3).encode().encode())

    with open_launcher(ScriptedApi(answer)) as launcher:
        found = dict(launcher.read_progress(NAMES[:2], lambda: True))
    assert found == {NAMES[1]: RunProgress(1, 3)}


def test_logs_that_hang_delay_no_other_log() -> None:
    running = [pod(name, "Running") for name in NAMES]
    for each in running:
        each["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": CREATED}}
    answers = threading.Event()

    def answer(path: str) -> Any:
        if path.endswith("/pods"):
            return listing(running)
        if any(f"/{name}-" in path for name in NAMES[: LOGS_AT_ONCE - 1]):
            answers.wait()
        return (200, {}, RunProgress(1, 3).encode().encode())

    with open_launcher(ScriptedApi(answer)) as launcher:
        found = launcher.read_progress(NAMES, lambda: True)
        others = [next(found)[0] for _ in NAMES[LOGS_AT_ONCE - 1 :]]
        assert sorted(others) == sorted(NAMES[LOGS_AT_ONCE - 1 :])
        answers.set()
        assert len(list(found)) == LOGS_AT_ONCE - 1


def test_a_refusal_for_one_job_does_not_end_the_other_requests() -> None:
    refused: Answer = (403, {}, b'{"reason": "Forbidden", "message": "a policy"}')

    def answer(path: str) -> Any:
        if path.endswith("/jobs"):  # by their labels, none is found
            return listing([])
        return refused if path.endswith("/school-1-1") else NOT_FOUND

    api = ScriptedApi(answer)
    with open_launcher(api) as launcher, pytest.raises(LauncherRefused, match="a policy"):
        launcher.observe(NAMES, only=True)
    assert len([path for path in api.paths if not path.endswith("/jobs")]) == len(NAMES)


def test_many_named_jobs_are_listed_together_and_missing_ones_read() -> None:
    """A Job whose labels were edited is not listed. It must not count as gone."""
    edited, absent = NAMES[5], NAMES[6]
    # Runs of the same tasks that nobody asked about are in the listing, too.
    found = [job(name) for name in (*NAMES[:5], *NAMES[7:], "school-1-9")]

    def answer(path: str) -> Any:
        if path.endswith("/jobs"):
            return listing(found)
        if path.endswith(("/pods", "/events")):
            return listing([])
        return (200, {}, json.dumps(job(edited)).encode()) if edited in path else NOT_FOUND

    api = ScriptedApi(answer)
    with open_launcher(api) as launcher:
        seen = launcher.observe(NAMES, only=True)
    assert seen.keys() == {*NAMES} - {absent}
    read = [path.rpartition("/")[2] for path in api.paths if "/jobs/" in path]
    assert sorted(read) == sorted([edited, absent])


def test_few_named_jobs_are_read_one_by_one() -> None:
    api = ScriptedApi(lambda _path: NOT_FOUND)
    with open_launcher(api) as launcher, suppress(LauncherRefused):
        launcher.observe(NAMES[: LIST_FROM - 1], only=True)
    assert not [path for path in api.paths if path.endswith("/jobs")]


@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [
        (
            403,
            'jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create "jobs"',
            "grant the operator",
        ),
        (
            403,
            'jobs.batch "x" is forbidden: unable to create new content in namespace courses '
            "because it is being terminated",
            "grant the operator",
        ),
        (401, "Unauthorized", "service account still exists"),
        (404, 'namespaces "courses" not found', "see that the namespace 'courses' exists"),
    ],
)
def test_a_refusal_that_concerns_all_jobs_raises_with_the_remedy(
    status: int, message: str, remedy: str
) -> None:
    api = ScriptedApi(
        lambda _path: (status, {}, json.dumps({"reason": "Invalid", "message": message}).encode())
    )
    order = RunOrder(NAMES[0], 1, 1, "https://courses.example.com/1", "cookies.txt")
    with open_launcher(api) as launcher, pytest.raises(LauncherRefused, match=remedy):
        launch(launcher, [order])


@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [
        (
            403,
            'admission webhook "guard.example.com" denied the request: no',
            "see the admission policy or webhook",
        ),
        (
            422,
            "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' denied request",
            "see the admission",
        ),
        (
            422,
            'Job.batch "x" is invalid: spec.template.spec.containers: Required value',
            "KUBERNETES__JOB_TEMPLATE",
        ),
        (
            403,
            'jobs.batch "x" is forbidden: failed quota: q: must specify limits.cpu',
            "must specify",
        ),
        (413, "Request entity too large: limit is 3145728", "see what it says"),
        (500, 'failed calling webhook "guard.example.com": EOF', "failed calling webhook"),
    ],
)
def test_a_refusal_of_one_job_lets_the_other_jobs_be_created(
    status: int, message: str, remedy: str
) -> None:
    refusal = json.dumps({"reason": "Invalid", "message": message}).encode()

    class OneRefused(ScriptedApi):
        def _send(self, *arguments: Any) -> Answer:
            body = arguments[3]
            name = body["metadata"]["name"]
            is_refused = name == NAMES[0]
            created = json.dumps({"metadata": {"name": name, "uid": "1"}}).encode()
            return (status, {}, refusal) if is_refused else (201, {}, created)

    launches = [
        build_launch(RunOrder(name, 1, 1, "https://courses.example.com/1", "cookies.txt"))
        for name in NAMES[:3]
    ]
    with open_launcher(OneRefused(lambda _path: NOT_FOUND)) as launcher:
        results = {launch.order.name: result for launch, result in launcher.launch(launches)}
    assert [results[name].outcome for name in NAMES[:3]] == [
        LaunchOutcome.REFUSED,
        LaunchOutcome.LAUNCHED,
        LaunchOutcome.LAUNCHED,
    ]
    assert remedy in results[NAMES[0]].refusal


def test_a_used_up_quota_lets_the_run_wait_and_says_so() -> None:
    text = "exceeded quota: few, requested: count/jobs.batch=1, used: count/jobs.batch=2"
    refusal = {"reason": "Forbidden", "message": f'jobs.batch "{NAMES[0]}" is forbidden: {text}'}
    api = ScriptedApi(lambda _path: (403, {}, json.dumps(refusal).encode()))
    order = RunOrder(NAMES[0], 1, 1, "https://courses.example.com/1", "cookies.txt")
    with open_launcher(api) as launcher:
        ((_, result),) = launcher.launch([build_launch(order)])
    assert result.outcome is LaunchOutcome.WAITS
    assert text in result.refusal and NAMES[0] not in result.refusal


def test_each_served_request_calls_progress() -> None:
    served: list[None] = []
    api = ScriptedApi(lambda _path: (200, {}, b'{"items": []}'))
    with open_launcher(api, progress=lambda: served.append(None)) as launcher:
        assert launcher.observe([]) == {}
    assert len(served) == len(api.paths) == 1


class FailedJobsApi(ScriptedApi):
    """All Jobs have failed, but the last two are gone. All but the last one have a pod."""

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
    owner = {"kind": "Job", "name": name, "uid": f"uid-of-{name}", "controller": True}
    ended = {"exitCode": 1, "reason": "OOMKilled"}
    return {
        "metadata": {
            "name": f"{name}-x7k2p",
            "labels": labels,
            "creationTimestamp": CREATED,
            "ownerReferences": [owner],
        },
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": "worker", "state": {"terminated": ended}}],
        },
    }


def test_the_pods_of_many_finished_jobs_are_listed_together() -> None:
    """For one listing per Job, the server would scan all pods each time."""
    api = FailedJobsApi()
    with open_launcher(api) as launcher:
        seen = launcher.observe(NAMES)
    assert len(api.selectors) == len(NAMES) / JOBS_PER_LISTING + 1, (
        "the finished Jobs, then the missing ones"
    )
    for name in NAMES[:-2]:
        report = seen[name].report
        assert (
            seen[name].phase is Phase.FAILED
            and report is not None
            and report.reason is Reason.OOM_KILLED
        )
        assert f"{name}-x7k2p" in report.message, "each report names its own pod"
    assert seen[NAMES[-2]].is_ending and NAMES[-1] not in seen, (
        "a run with a live pod is ending, one without is gone"
    )


class OneJobApi(ScriptedApi):
    """One Job that has run for an hour, and its pod, which should be gone at `due`."""

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
            living["spec"] = {"nodeName": "node-7"}
            return listing([living] if self.is_there else [])
        if path.endswith("/events"):
            return listing([])
        found = job(NAMES[0])
        found["status"] = {"startTime": CREATED, "active": 1}
        if path.endswith("/jobs"):
            return listing([found] if self.is_there else [])
        return (200, {}, json.dumps(found).encode()) if self.is_there else NOT_FOUND


@pytest.mark.parametrize(
    ("seconds", "is_explained"),
    [(None, False), (-5, False), (59, False), (61, True), (100_000, True)],
)
def test_a_job_whose_pod_does_not_end_in_time_lives_and_is_explained(
    seconds: float | None, is_explained: bool
) -> None:
    """Its node is lost, and the worker may still run there."""
    now = datetime.fromisoformat(CREATED) + timedelta(hours=1)
    api = OneJobApi(None if seconds is None else now - timedelta(seconds=seconds))
    with open_launcher(api, clock=lambda: now) as launcher:
        seen = launcher.observe([NAMES[0]])
    assert seen[NAMES[0]].phase is Phase.LIVE
    report = seen[NAMES[0]].report
    assert (report is not None) == is_explained
    if report is not None:
        assert report.reason is Reason.NODE_LOST and "node-7" in report.message + report.remedy


def test_a_failed_job_whose_pod_still_runs_lives_until_that_has_ended() -> None:
    """Before Kubernetes 1.31, a Job fails at its deadline, whatever its pod does."""
    phase = "Running"

    def answer(path: str) -> Answer:
        items = [pod(NAMES[0], phase)] if path.endswith("/pods") else [job(NAMES[0])]
        return 200, {}, json.dumps({"items": items}).encode()

    with open_launcher(ScriptedApi(answer)) as launcher:
        for _ in range(2):
            seen = launcher.observe(NAMES[:1])[NAMES[0]]
            assert seen.phase is Phase.LIVE and seen.is_ending
        phase = "Failed"
        assert launcher.observe(NAMES[:1])[NAMES[0]].phase is Phase.FAILED


@pytest.mark.parametrize("only", [True, False])
def test_no_event_is_written_for_a_job_that_is_gone(only: bool) -> None:
    api = OneJobApi(None)
    with open_launcher(api) as launcher:
        seen = launcher.observe(NAMES[:1])
        launcher.record_event(
            NAMES[0], seen[NAMES[0]].uid, RunEvent(RunEventType.LAUNCHED, "it was launched")
        )
        api.is_there = False
        assert launcher.observe(NAMES[:1], only=only) == {}
        launcher.record_event(NAMES[0], None, RunEvent(RunEventType.LOST, "it is lost"))
    assert api.posted == ["Launched"]
