"""Faults at the worst moment: an operator killed between two steps, the API server, the watch,
two operators.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from tests.cluster.control_plane import Cluster, ControlPlane
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.jobs import make_job
from tests.cluster.steps import running_job, wait_for_log
from tests.cluster.world import INSTALLATION, ClusterWorld
from tests.job_settings import job_settings
from tests.launching import launch

from enrollgate.control.reconciler import Reconciler
from enrollgate.control.wiring import utc_now
from enrollgate.database import Tables
from enrollgate.domain.observation import LaunchOutcome, LaunchResult, Observation
from enrollgate.domain.order import RunOrder
from enrollgate.domain.planner import Launch
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.domain.task import Statuses, TaskColumns
from enrollgate.launchers.kubernetes import (
    Api,
    ApiError,
    KubernetesLauncher,
    read_template,
)


class Killed(BaseException):
    """The operator's process is gone."""


class KilledWhile(KubernetesLauncher):
    """The real launcher of an operator that dies around a create, or before it labels a Job."""

    moment = ""

    def launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        launches = list(launches)
        if launches and self.moment == "before create":
            raise Killed
        results = list(super().launch(launches))
        if launches and self.moment == "after create":
            raise Killed
        yield from results

    def discard(self, observations: Iterable[Observation]) -> None:
        observations = list(observations)
        if observations and self.moment == "before mark":
            raise Killed
        super().discard(observations)


def in_process_operator(world: ClusterWorld, moment: str) -> Reconciler:
    environment = job_settings(
        world.namespace,
        INSTALLATION,
        world.image,
        template=read_template(world.template),
    )
    api = Cluster.api_for(world.kubeconfig)
    launcher = KilledWhile(api, environment, start_timeout=900, concurrency=4, clock=utc_now)
    launcher.moment = moment
    tables = Tables.named(TaskColumns(), Statuses())
    return Reconciler(world.database, tables, launcher, Policy(), installation=INSTALLATION)


@pytest.mark.parametrize("moment", ["before create", "after create", "before mark"])
def test_an_operator_killed_between_two_steps_leaves_no_second_job(
    world: ClusterWorld, moment: str
) -> None:
    tasks = world.add(count=3)
    operator = in_process_operator(world, moment)
    with pytest.raises(Killed):
        operator.reconcile()
        for task in tasks:
            running_job(world, task)
            world.succeed(f"school-{task}-1")
        world.wait_for(lambda: world.live_jobs() == [], "the Jobs end")
        operator.reconcile()
    assert len(world.jobs()) == (0 if moment == "before create" else 3)
    world.start_operator()
    for task in tasks:
        world.succeed(f"school-{task}-1")
        world.wait_for_status(task, "completed")
    assert world.tasks_of_jobs() == [(task, 1) for task in tasks]
    assert [(run.run_number, run.outcome) for run in world.runs()] == [(1, "succeeded")] * 3


def test_a_row_withdrawn_after_its_claim_gets_no_job(world: ClusterWorld) -> None:
    (task,) = world.add()
    with pytest.raises(Killed):
        in_process_operator(world, "before create").reconcile()
    world.set(task, "processing")
    world.start_operator()
    world.wait_for(
        lambda: [run.reason for run in world.runs(task)] == ["EnrollmentWithdrawn"],
        "the claim is revoked",
    )
    assert world.jobs() == {}


def test_a_restarted_api_server_loses_no_task_and_no_job(
    world: ClusterWorld, plane: ControlPlane
) -> None:
    first, second, third = world.add(count=2) + world.add("processing")
    process = world.start_operator()
    names = [running_job(world, first), running_job(world, second)]
    plane.kill_one("kube-apiserver")
    world.set(third, "enrolled")
    world.succeed(names[0])
    world.set(second, "processing")
    wait_for_log(world, "the pass was aborted")
    assert world.status(first) == "enrolled" and world.status(third) == "enrolled"
    plane.start_api()
    world.wait_for_status(first, "completed")
    world.succeed(running_job(world, third))
    world.wait_for_status(third, "completed")
    world.wait_for(
        lambda: world.runs(second)[0].outcome == "revoked", "the withdrawn run is revoked"
    )
    assert process.poll() is None, "the operator has lived through it"
    assert world.tasks_of_jobs() == [(first, 1), (third, 1)]


def test_a_watch_that_gets_410_lists_again_and_misses_nothing(
    world: ClusterWorld, cluster: Cluster, plane: ControlPlane, fault_proxy: FaultProxy
) -> None:
    """A Job finishes while the watch is cut. The history is compacted, so the watch gets `410
    Gone`.
    """
    (task,) = world.add()
    process = world.start_operator(fault_proxy.kubeconfig(world.kubeconfig), CHECK_INTERVAL="3600")
    name = running_job(world, task)
    world.wait_for(
        lambda: any(each.is_watch and each.lines for each in fault_proxy.exchanges), "it watches"
    )
    with fault_proxy.hold("GET", "watch=true") as hold:
        fault_proxy.cut_watches()
        world.wait_for(lambda: hold.held > 0, "it wants to go on watching")
        world.succeed(name)
        world.wait_for(lambda: world.live_jobs() == [], "the Job ends")
        compact(cluster, plane, name, world.namespace)
        plane.kill_one("kube-apiserver")
        plane.start_api()
        assert world.status(task) == "enrolled", (
            "it knows already: the watch is not put to the test"
        )
    world.wait_for_status(task, "completed")
    assert [each.path for each in fault_proxy.exchanges if each.says_gone], "no watch got 410 Gone"
    assert process.poll() is None and world.tasks_of_jobs() == [(task, 1)]


def compact(cluster: Cluster, plane: ControlPlane, job: str, namespace: str) -> None:
    """Create many revisions and let etcd drop all but the last."""
    for number in range(50):
        body = {"metadata": {"annotations": {"test/number": str(number)}}}
        cluster.api.request("PATCH", f"/apis/batch/v1/namespaces/{namespace}/jobs/{job}", body=body)
    etcd = f"http://127.0.0.1:{plane.etcd_port}/v3/kv"
    key = {"key": "AA==", "range_end": "AA==", "limit": "1"}
    revision = json.load(_post(f"{etcd}/range", key))["header"]["revision"]
    _post(f"{etcd}/compaction", {"revision": revision, "physical": True})


def _post(url: str, body: dict[str, Any]) -> Any:
    return urllib.request.urlopen(
        urllib.request.Request(url, json.dumps(body).encode()), timeout=30
    )


def test_a_custom_resource_called_jobs_is_never_watched(
    world: ClusterWorld, cluster: Cluster
) -> None:
    names = {"plural": "jobs", "singular": "job", "kind": "Job", "listKind": "JobList"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    crd = {
        "metadata": {"name": "jobs.print.example.com"},
        "spec": {
            "group": "print.example.com",
            "names": names,
            "scope": "Namespaced",
            "versions": [version],
        },
    }
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    cluster.create(path, crd)
    try:
        cluster.wait_for(
            lambda: cluster.find("/apis/print.example.com/v1"), what="the resource is served"
        )
        (task,) = world.add()
        world.start_operator(CHECK_INTERVAL="3600")
        world.succeed(running_job(world, task))
        world.wait_for_status(task, "completed")
    finally:
        cluster.api.request("DELETE", f"{path}/jobs.print.example.com")


def test_the_second_replica_takes_over_when_the_leader_is_killed(
    world: ClusterWorld,
) -> None:
    elected = {
        "KUBERNETES__LEADER_ELECTION": "true",
        "KUBERNETES__LEASE_DURATION": "3",
        "MAX_CONCURRENT_RUNS": "30",
    }
    first = world.start_operator(**elected)
    wait_for_log(world, "this replica holds the lease and works now")
    world.start_operator(**elected)
    wait_for_log(world, "standing by")
    before = world.add(count=10)
    for task in before:
        running_job(world, task)
    first.kill()
    after = world.add(count=10)
    for task in before + after:
        world.succeed(f"school-{task}-1")
    world.wait_for(lambda: world.statuses() == {"completed": 20}, "all are completed")
    assert world.tasks_of_jobs() == [(task, 1) for task in before + after]


def test_a_replica_that_may_not_renew_the_lease_exits_with_the_remedy(
    world: ClusterWorld, cluster: Cluster
) -> None:
    process = world.start_operator(
        KUBERNETES__LEADER_ELECTION="true", KUBERNETES__LEASE_DURATION="3"
    )
    wait_for_log(world, "this replica holds the lease and works now")
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}/roles/school"
    rules = cluster.api.request("GET", role)["rules"]
    cluster.api.request(
        "PATCH", role, body={"rules": [rule for rule in rules if rule["resources"] != ["leases"]]}
    )
    assert process.wait(120) == 1
    assert (
        "the Lease school is refused" in world.log
        and "what the Role in the chart grants" in world.log
    )


def test_a_replica_that_stops_cleanly_releases_its_lease_at_once(
    world: ClusterWorld, cluster: Cluster
) -> None:
    elected = {"KUBERNETES__LEADER_ELECTION": "true", "KUBERNETES__LEASE_DURATION": "3600"}
    first = world.start_operator(**elected)
    wait_for_log(world, "this replica holds the lease and works now")
    assert world.stop_operator(first) == 0
    lease = cluster.api.request(
        "GET", f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/leases/school"
    )
    assert lease["spec"]["holderIdentity"] == ""
    (task,) = world.add()
    world.start_operator(**elected)
    running_job(world, task)  # otherwise it would wait for an hour


def test_two_operators_without_a_lease_create_each_job_once(world: ClusterWorld) -> None:
    for _ in range(2):
        world.start_operator(MAX_CONCURRENT_RUNS="20", CHECK_INTERVAL="0.1")
    wait_for_log(world, "operator started")
    tasks = world.add(count=40)

    def finish_those_that_run() -> bool:
        for name in world.live_jobs():
            world.succeed(name)
        return world.statuses().get("completed") == len(tasks)

    world.wait_for(finish_those_that_run, "all tasks are completed", timeout=240)
    assert world.tasks_of_jobs() == [(task, 1) for task in tasks]
    assert [(run.run_number, run.outcome) for run in world.runs()] == [(1, "succeeded")] * 40


def test_a_dropped_table_stops_no_operator_but_prevents_a_start(world: ClusterWorld) -> None:
    (task,) = world.add("processing")
    process = world.start_operator()
    wait_for_log(world, f"ENROLL CHECK task={task}")
    world.sql("DROP TABLE enrollgate_runs")
    wait_for_log(world, "the pass was aborted")  # the table may come back
    assert process.poll() is None
    process = world.start_operator()
    assert process.wait(60) == 2
    assert "enrollgate migrate" in world.log


def test_a_forbidden_watch_ends_the_operator_with_the_remedy(
    world: ClusterWorld, cluster: Cluster
) -> None:
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}/roles/school"
    rules = cluster.api.request("GET", role)["rules"]
    without = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "watch"]} for rule in rules
    ]
    cluster.api.request("PATCH", role, body={"rules": without})
    process = world.start_operator()
    assert process.wait(120) == 1
    assert "check that its service account may list and watch batch/v1 Jobs" in world.log


@pytest.mark.parametrize("answer", [429, 500, 503])
def test_an_overloaded_api_server_is_retried_without_a_second_job(
    world: ClusterWorld, cluster: Cluster, answer: int
) -> None:
    waits: list[float] = []
    api = FlakyApi(
        Cluster.api_for(world.kubeconfig).configuration, random=Random(1), sleep=waits.append
    )
    api.answer = answer
    settings = job_settings(world.namespace, INSTALLATION, "enrollgate:test")
    launcher = KubernetesLauncher(api, settings, start_timeout=900, concurrency=4, clock=utc_now)
    orders = [
        RunOrder(f"school-{n}-1", n, 1, "https://courses.example.com/1", "cookies.txt")
        for n in range(1, 21)
    ]
    outcomes = launch(launcher, orders)
    launcher.close()
    assert len(outcomes) == 20 and len(world.jobs()) == 20
    assert len(waits) >= 20 and (answer != 429 or 7.0 in waits)


class FlakyApi(Api):
    """Carries out each request when it is first sent, but replaces the first answer with an
    error.
    """

    answer = 503
    _lock = threading.Lock()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seen: set[str] = set()

    def _send(self, *arguments: Any) -> Any:
        status, headers, data = super()._send(*arguments)
        request = json.dumps(arguments, sort_keys=True)
        with self._lock:
            spoiled = request not in self._seen
            self._seen.add(request)
        if spoiled:
            return self.answer, {"Retry-After": "7"} if self.answer == 429 else {}, b"{}"
        return status, headers, data


def test_a_job_recreated_just_before_a_deletion_is_not_deleted(
    world: ClusterWorld, cluster: Cluster
) -> None:
    """Somebody deletes the Job and creates another of its name, which the operator has not seen."""
    api = Interrupted(
        Cluster.api_for(world.kubeconfig).configuration, random=Random(1), sleep=float
    )
    settings = job_settings(
        world.namespace, INSTALLATION, world.image, template={"spec": {"suspend": True}}
    )
    launcher = KubernetesLauncher(api, settings, start_timeout=900, concurrency=4, clock=utc_now)
    order = RunOrder("school-1-1", 1, 1, "https://courses.example.com/1", "cookies.txt")
    job = f"/apis/batch/v1/namespaces/{world.namespace}/jobs/{order.name}"

    def recreate() -> None:
        cluster.api.request("DELETE", job, body={"propagationPolicy": "Background"})
        launch(launcher, [order])

    assert launch(launcher, [order]) == {order.name: LaunchOutcome.LAUNCHED}
    first = cluster.api.request("GET", job)["metadata"]["uid"]
    api.before_delete = recreate
    launcher.stop(order.name, first)
    second = cluster.api.request("GET", job)["metadata"]
    assert second["uid"] != first and "deletionTimestamp" not in second
    launcher.stop(order.name, second["uid"])  # this Job, now that it has been seen
    assert cluster.find(job) is None
    launcher.close()


class Interrupted(Api):
    """Runs a function just before the next deletion is sent, once."""

    before_delete: Callable[[], None] | None = None

    def _send(self, method: str, *arguments: Any) -> Any:
        if method == "DELETE" and self.before_delete is not None:
            what, self.before_delete = self.before_delete, None
            what()
        return super()._send(method, *arguments)


def test_concurrent_creates_stay_within_the_setting(
    world: ClusterWorld, fault_proxy: FaultProxy
) -> None:
    world.template.write_text("spec: {suspend: true}")
    tasks = world.add(count=40)
    with fault_proxy.hold("POST", r"/jobs$") as hold:
        world.start_operator(
            fault_proxy.kubeconfig(world.kubeconfig),
            MAX_CONCURRENT_RUNS="40",
            KUBERNETES__CREATE_CONCURRENCY="3",
        )
        world.wait_for(lambda: hold.held == 3, "all that are allowed wait")
    world.wait_for(lambda: len(world.jobs()) == len(tasks), "all are created")
    assert fault_proxy.most_creates_at_once == 3


def test_a_job_that_may_not_be_labelled_does_not_block_other_tasks(
    world: ClusterWorld, cluster: Cluster
) -> None:
    with labels_frozen(cluster, world.namespace):
        first, second = world.add(count=2)
        world.start_operator(MAX_CONCURRENT_RUNS="1")
        world.succeed(running_job(world, first))
        world.wait_for_status(first, "completed")
        wait_for_log(world, "labels of Jobs are frozen")
        world.succeed(running_job(world, second))
        world.wait_for_status(second, "completed")
        assert world.tasks_of_jobs() == [(first, 1), (second, 1)]
    world.wait_for(
        lambda: all(
            "enrollgate.io/recorded" in job["metadata"]["labels"] for job in world.jobs().values()
        ),
        "both are marked once the policy is gone",
    )


@contextmanager
def labels_frozen(cluster: Cluster, namespace: str) -> Iterator[None]:
    """Forbid changes of labels of the namespace's Jobs in this block.

    See https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/.
    """
    base, name = (
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic",
        f"frozen-{namespace}",
    )
    rule = {
        "apiGroups": ["batch"],
        "apiVersions": ["v1"],
        "operations": ["UPDATE"],
        "resources": ["jobs"],
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    validation = {
        "expression": "object.metadata.labels == oldObject.metadata.labels",
        "message": "labels of Jobs are frozen",
    }
    spec = {
        "matchConstraints": {"resourceRules": [rule], "namespaceSelector": here},
        "validations": [validation],
        "failurePolicy": "Fail",
    }
    cluster.create(f"{base}ies", {"metadata": {"name": name}, "spec": spec})
    binding = {"policyName": name, "validationActions": ["Deny"]}
    cluster.create(f"{base}ybindings", {"metadata": {"name": name}, "spec": binding})
    try:
        probe = make_job(cluster, namespace, "true", template={"spec": {"suspend": True}})
        cluster.wait_for(lambda: _is_refused(cluster, probe), what="the policy is in force")
        cluster.api.request("DELETE", probe, body={"propagationPolicy": "Background"})
        yield
    finally:
        cluster.api.request("DELETE", f"{base}ybindings/{name}")
        cluster.api.request("DELETE", f"{base}ies/{name}")


def _is_refused(cluster: Cluster, job: str) -> bool:
    try:
        cluster.api.request(
            "PATCH", job, body={"metadata": {"labels": {"probe": str(time.monotonic_ns())}}}
        )
    except ApiError as error:
        return "frozen" in error.message
    return False


def test_reasons_of_reports_reach_the_runs_table(world: ClusterWorld) -> None:
    reasons = [Reason.DRM_PROTECTED, Reason.COOKIES_EXPIRED, Reason.DESTINATION_QUOTA]
    tasks = world.add(count=len(reasons))
    world.start_operator()
    for task, reason in zip(tasks, reasons, strict=True):
        world.finish(running_job(world, task), Report(reason, f"because of {reason}"))
    for task in tasks:
        world.wait_for_status(task, "failed")
    assert [(run.reason, run.message) for run in world.runs()] == [
        (r.value, f"because of {r}") for r in reasons
    ]
