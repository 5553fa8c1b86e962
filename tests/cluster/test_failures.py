"""What can go wrong in a cluster, and how the run's row explains it: reason, message, failed
task.
"""

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from tests.cluster.control_plane import Cluster
from tests.cluster.jobs import list_pods
from tests.cluster.pod_runner import Fault, PodRunner
from tests.cluster.steps import running_job, wait_for_log
from tests.cluster.world import ClusterWorld, Run

from enrollgate.control.wiring import utc_now
from enrollgate.launchers.kubernetes import ApiError


def failed_run(world: ClusterWorld, task: int) -> Run:
    world.wait_for_status(task, "failed")
    world.wait_for(lambda: all(run.outcome for run in world.runs(task)), "the run is recorded")
    (run,) = world.runs(task)
    assert run.outcome == "failed"
    return run


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        (
            Fault.IMAGE_PULL,
            "ImagePullBackOff",
            'the image cannot be pulled: Back-off pulling image "enrollgate:test"',
        ),
        (
            Fault.UNSCHEDULABLE,
            "Unschedulable",
            "fits on no node: 0/1 nodes are available: 1 Insufficient memory",
        ),
        (Fault.NEVER_REPORTS, "NeverStarted", "no pod of the Job began to work within 2s"),
    ],
)
def test_a_pod_that_never_starts_fails_its_task_with_kubernetes_reason(
    world: ClusterWorld, pod_runner: PodRunner, fault: Fault, reason: str, words: str
) -> None:
    with pod_runner.fault(fault, lambda pod: pod["metadata"]["namespace"] == world.namespace):
        (task,) = world.add()
        world.start_operator(KUBERNETES__START_TIMEOUT="2", STOP_GRACE="1")
        world.wait_for_status(task, "failed")
        kinds = ["Launched", "Failed"]
        world.wait_for(
            lambda: [kind for kind, _ in world.events("school-1-1")] == kinds, "the Job's Events"
        )
        if fault is Fault.NEVER_REPORTS:  # a dead kubelet never removes its pod
            pod = world.cluster.pods(world.namespace)[0]["metadata"]["name"]
            path = f"/api/v1/namespaces/{world.namespace}/pods/{pod}"
            world.cluster.api.request("DELETE", path, query={"gracePeriodSeconds": "0"})
        run = failed_run(world, task)
    assert run.reason == reason and words in run.message
    assert world.jobs() == {}


def test_a_run_on_a_lost_node_is_explained_and_waits_for_its_end(
    world: ClusterWorld, cluster: Cluster, pod_runner: PodRunner
) -> None:
    """The control plane evicts its pod, and no kubelet confirms that: the worker may still run."""
    (task,) = world.add()
    world.start_operator(KUBERNETES__START_TIMEOUT="3", STOP_GRACE="1")
    first = running_job(world, task)
    with pod_runner.lost_node():
        (pod,) = cluster.pods(world.namespace)
        cluster.api.request(
            "DELETE", f"/api/v1/namespaces/{world.namespace}/pods/{pod['metadata']['name']}"
        )
        world.wait_for(lambda: world.runs(task)[0].reason == "NodeLost", "it is explained")
        (life,) = pod_runner.running(world.namespace)
        assert set(world.jobs()) == {first} and len(cluster.pods(world.namespace)) == 1
        (run,) = world.runs(task)
        assert run.outcome is None and pod["metadata"]["name"] in run.message
        world.wait_for(lambda: "NodeLost" in dict(world.events(first)), "an Event says so")
    world.wait_for(
        lambda: [each for each in pod_runner.running(world.namespace) if each is not life],
        "the node is back, and the same Job goes on",
    )
    world.succeed(first)
    world.wait_for_status(task, "completed")
    assert [(run.name, run.outcome, run.reason) for run in world.runs(task)] == [
        (first, "succeeded", None)
    ]


@pytest.mark.parametrize("setting", ["KUBERNETES__COOKIES_SECRET", "KUBERNETES__DRIVE_SECRET"])
def test_a_missing_secret_is_named(world: ClusterWorld, setting: str) -> None:
    (task,) = world.add()
    world.start_operator(
        KUBERNETES__START_TIMEOUT="3", DESTINATION="drive:0123456789", **{setting: "not-there"}
    )
    run = failed_run(world, task)
    assert run.reason == "CreateContainerConfigError"
    assert "secret 'not-there' does not exist" in run.message


def test_a_missing_secret_of_a_variable_is_named(world: ClusterWorld) -> None:
    variable = "{name: TOKEN, valueFrom: {secretKeyRef: {name: not-there, key: token}}}"
    world.template.write_text(
        f"spec: {{template: {{spec: {{containers: [{{name: worker, env: [{variable}]}}]}}}}}}"
    )
    (task,) = world.add()
    world.start_operator(KUBERNETES__START_TIMEOUT="3")
    run = failed_run(world, task)
    assert (
        run.reason == "CreateContainerConfigError" and 'secret "not-there" not found' in run.message
    )


def test_a_command_that_is_not_in_the_image_is_named(world: ClusterWorld) -> None:
    world.template.write_text(
        "spec: {template: {spec: {containers: [{name: worker, command: [not-in-the-image]}]}}}"
    )
    (task,) = world.add()
    world.start_operator(MAX_ATTEMPTS="1")
    run = failed_run(world, task)
    assert run.reason == "StartError"
    assert 'exec: "not-in-the-image": executable file not found in $PATH' in run.message


def test_a_quota_on_pods_fails_the_task_after_the_start_timeout(
    world: ClusterWorld, cluster: Cluster
) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    path = f"/api/v1/namespaces/{world.namespace}/resourcequotas"
    cluster.create(path, quota)
    cluster.wait_for(
        lambda: cluster.items(path)[0].get("status", {}).get("hard"), what="the quota is in force"
    )
    (task,) = world.add()
    world.start_operator(KUBERNETES__START_TIMEOUT="3")
    run = failed_run(world, task)
    assert run.reason == "QuotaExceeded" and "exceeded quota: none" in run.message


def test_a_quota_on_jobs_is_waited_for(world: ClusterWorld, cluster: Cluster) -> None:
    path = f"/api/v1/namespaces/{world.namespace}/resourcequotas"
    cluster.create(path, {"metadata": {"name": "few"}, "spec": {"hard": {"count/jobs.batch": "1"}}})
    cluster.wait_for(
        lambda: cluster.items(path)[0].get("status", {}).get("hard"), what="the quota is in force"
    )
    first, second = world.add(count=2)
    world.start_operator()
    wait_for_log(world, "quota does not allow another Job now")
    assert len(world.jobs()) == 1 and world.status(second) == "enrolled"
    cluster.wait_for(
        lambda: "exceeded quota: few" in str(world.runs(second)[0].message),
        what="the run's row says which quota it waits for",
    )
    cluster.api.request("DELETE", f"{path}/few")
    for task in (first, second):
        world.succeed(running_job(world, task))
        world.wait_for_status(task, "completed")
    assert world.tasks_of_jobs() == [(first, 1), (second, 1)]


def test_a_worker_killed_for_memory_fails_as_oom_killed(
    world: ClusterWorld, pod_runner: PodRunner
) -> None:
    (task,) = world.add()
    world.start_operator(MAX_ATTEMPTS="1")
    name = running_job(world, task)
    pod_runner.running(world.namespace, name)[0].kill_for_memory()
    run = failed_run(world, task)
    assert run.reason == "OOMKilled" and "more memory than its limit" in run.message


def test_a_task_whose_pods_exceed_their_storage_fails_as_evicted(
    world: ClusterWorld, pod_runner: PodRunner
) -> None:
    """The kubelet does not call this a disruption: it counts as an attempt and is retried."""
    (task,) = world.add()
    world.start_operator(MAX_ATTEMPTS="2")
    name = running_job(world, task)
    evicted = set[str]()

    def evict_all() -> bool:
        for life in pod_runner.running(world.namespace, name):
            pod = life.pod["metadata"]["name"]
            if pod not in evicted:
                evicted.add(pod)
                life.evict_for_storage(
                    "Pod ephemeral local storage usage exceeds the total limit of containers 11Gi. "
                )
        return world.status(task) == "failed"

    world.wait_for(evict_all, "the task fails")
    run = failed_run(world, task)
    assert (
        run.reason == "Evicted"
        and "storage usage exceeds the total limit of containers 11Gi" in run.message
    )
    assert len(evicted) == 2 and world.tasks_of_jobs() == [(task, 1)]


def test_a_pod_evicted_for_node_pressure_is_replaced_and_not_counted(
    world: ClusterWorld, pod_runner: PodRunner
) -> None:
    (task,) = world.add()
    world.start_operator(MAX_ATTEMPTS="1")
    name = running_job(world, task)
    first = pod_runner.running(world.namespace, name)[0]
    first.evict_for_pressure()
    world.wait_for(
        lambda: [life for life in pod_runner.running(world.namespace, name) if life is not first],
        "a new pod",
    )
    world.succeed(name)
    world.wait_for_status(task, "completed")
    assert world.tasks_of_jobs() == [(task, 1)] and len(world.runs(task)) == 1


def test_a_run_whose_node_is_drained_long_after_its_start_goes_on(
    world: ClusterWorld, cluster: Cluster, pod_runner: PodRunner
) -> None:
    """The eviction deletes its pod. A missing Secret blocks the next pod, which is seconds old."""

    def older_than(seconds: float, born: datetime) -> Callable[[], bool]:
        return lambda: (
            utc_now() - born > timedelta(seconds=seconds) or world.status(task) == "failed"
        )

    cluster.secret(world.namespace, "cookies", **{"cookies.txt": ""})
    (task,) = world.add()
    world.start_operator(
        KUBERNETES__START_TIMEOUT="15",
        KUBERNETES__COOKIES_SECRET="cookies",
        CHECK_INTERVAL="0.1",
        MAX_ATTEMPTS="1",
    )
    name = running_job(world, task)
    (first,) = list_pods(cluster, world.namespace)
    world.wait_for(older_than(17, first.created), "the run is older than a pod may take to start")
    cluster.api.request("DELETE", f"/api/v1/namespaces/{world.namespace}/secrets/cookies")
    pod_runner.drain(world.namespace, name)
    world.wait_for(
        lambda: [pod.name != first.name for pod in list_pods(cluster, world.namespace)] == [True],
        "only a new pod",
    )
    (second,) = list_pods(cluster, world.namespace)
    world.wait_for(older_than(3, second.created), "some passes have seen it")
    cluster.secret(world.namespace, "cookies", **{"cookies.txt": ""})
    world.succeed(name)
    world.wait_for(lambda: world.status(task) in ("completed", "failed"), "the task ends")
    assert world.status(task) == "completed", world.runs(task)
    assert world.tasks_of_jobs() == [(task, 1)] and len(world.runs(task)) == 1


def test_a_second_pod_that_cannot_start_fails_its_task_in_time(
    world: ClusterWorld, pod_runner: PodRunner
) -> None:
    (task,) = world.add()
    world.start_operator(KUBERNETES__START_TIMEOUT="3", STOP_GRACE="1")
    name = running_job(world, task)
    with pod_runner.fault(
        Fault.IMAGE_PULL, lambda pod: pod["metadata"]["namespace"] == world.namespace
    ):
        world.finish(name, code=1)
        run = failed_run(world, task)
    assert (
        run.reason == "ImagePullBackOff"
        and "a further pod of the Job did not begin to work within 3s" in run.message
    )


def test_a_run_that_takes_too_long_ends_as_deadline_exceeded(world: ClusterWorld) -> None:
    (task,) = world.add()
    world.start_operator(RUN_TIMEOUT="3", STOP_GRACE="1")
    run = failed_run(world, task)
    assert (
        run.reason == "DeadlineExceeded" and "active longer than specified deadline" in run.message
    )


def test_a_worker_without_a_report_is_described_by_its_log(world: ClusterWorld) -> None:
    world.template.write_text(
        world.template.read_text().replace("trap ", "echo boom of ada@example.com; exit 3; trap ")
    )
    (task,) = world.add()
    world.start_operator(MAX_ATTEMPTS="1")
    run = failed_run(world, task)
    assert (
        run.reason == "WorkerCrashed"
        and "ended with exit code 3" in run.message
        and "boom of <e-mail>" in run.message
    )


def test_a_broken_job_template_is_logged_and_tasks_wait(world: ClusterWorld) -> None:
    good = world.template.read_text()
    world.template.write_text("spec: {template: {spec: {restartPolicy: Sometimes}}}")
    (task,) = world.add()
    first = world.start_operator()
    wait_for_log(world, "ENROLLGATE_KUBERNETES__JOB_TEMPLATE")
    assert "Sometimes" in world.log and world.status(task) == "enrolled"
    world.stop_operator(first)
    world.template.write_text(good)
    world.start_operator()
    world.succeed(running_job(world, task))
    world.wait_for_status(task, "completed")


def test_a_job_that_a_policy_denies_waits_and_the_others_are_launched(
    world: ClusterWorld, cluster: Cluster
) -> None:
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    name = f"no-first-job.{world.namespace}"
    jobs = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"]}
    label = {"kubernetes.io/metadata.name": world.namespace}
    denial = "object.metadata.name != 'school-1-1'"
    policy = {
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{**jobs, "resources": ["jobs"]}]},
            "validations": [{"expression": denial, "message": "not this course"}],
        },
    }
    binding = {
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": label}},
        },
    }
    container = {"name": "c", "image": "i"}
    pod = {"restartPolicy": "Never", "containers": [container]}
    probe = {"metadata": {"name": "school-1-1"}, "spec": {"template": {"spec": pod}}}

    def is_in_force() -> bool:
        try:
            jobs_path = f"/apis/batch/v1/namespaces/{world.namespace}/jobs"
            cluster.api.request("POST", jobs_path, query={"dryRun": "All"}, body=probe)
        except ApiError as error:
            return "not this course" in error.message
        return False

    try:
        cluster.create(path, policy)
        cluster.create(path.replace("policies", "policybindings"), binding)
        cluster.wait_for(is_in_force, what="the policy is in force")
        denied, other = world.add(count=2)
        world.start_operator()
        world.succeed(running_job(world, other))
        world.wait_for_status(other, "completed")
        assert world.status(denied) == "enrolled" and world.tasks_of_jobs() == [(other, 1)]
        assert world.log.count("the launcher refuses a task; it is set aside") == 1
        assert "not this course" in world.log
    finally:
        cluster.api.request("DELETE", f"{path.replace('policies', 'policybindings')}/{name}")
        cluster.api.request("DELETE", f"{path}/{name}")
    world.succeed(running_job(world, denied))
    world.wait_for_status(denied, "completed")


def test_a_missing_permission_is_logged_and_other_work_goes_on(
    world: ClusterWorld, cluster: Cluster
) -> None:
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}/roles/school"
    rules = cluster.api.request("GET", role)["rules"]
    without = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "patch"]} for rule in rules
    ]
    cluster.api.request("PATCH", role, body={"rules": without})
    (task,) = world.add()
    world.start_operator()
    world.succeed(running_job(world, task))
    world.wait_for_status(task, "completed")  # what does not need the permission goes on
    wait_for_log(world, "grant the operator what the Role in the chart grants")
    cluster.api.request("PATCH", role, body={"rules": rules})
    world.wait_for(
        lambda: "enrollgate.io/recorded" in world.jobs()["school-1-1"]["metadata"]["labels"],
        "it is marked",
    )


def test_the_doctor_names_each_missing_permission(world: ClusterWorld, cluster: Cluster) -> None:
    def doctor() -> str:
        command = [sys.executable, "-m", "enrollgate", "doctor"]
        done = subprocess.run(
            command,
            check=False,
            env=world.environment,
            capture_output=True,
            text=True,
            cwd=world.folder,
        )
        return done.stdout

    assert f"every permission that is needed in namespace {world.namespace}" in doctor()
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}/roles/school"
    rules = cluster.api.request("GET", role)["rules"]
    without = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb not in {"patch", "create"}]}
        for rule in rules
    ]
    cluster.api.request("PATCH", role, body={"rules": [rule for rule in without if rule["verbs"]]})
    world.wait_for(
        lambda: "may not: create jobs, patch jobs, create events" in doctor(), "the doctor finds it"
    )
