"""The contract on a real API server: operators are processes under the chart's account."""

import json
from typing import Any

from tests.cluster.chart import kubectl
from tests.cluster.control_plane import Cluster
from tests.cluster.jobs import list_logs
from tests.cluster.pod_runner import PodRunner
from tests.cluster.steps import running_job, wait_for_log
from tests.cluster.world import ClusterWorld

from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report


def test_quick_and_slow_enrollments_launch_only_when_enrolled(
    world: ClusterWorld,
) -> None:
    quick, slow = world.add("processing") + world.add("pending")
    world.start_operator()
    wait_for_log(world, f"ENROLL CHECK task={slow} status=pending waiting... (0s/300s)")
    assert world.jobs() == {}
    world.set(quick, "enrolled")
    name = running_job(world, quick)
    assert world.tasks_of_jobs() == [(quick, 1)] and world.status(quick) == "enrolled"
    world.set(slow, "paid")
    wait_for_log(world, f"ENROLL CHECK task={slow} status=paid waiting")
    world.set(slow, "enrolled")
    world.succeed(name)
    world.wait_for_status(quick, "completed")
    world.succeed(running_job(world, slow))
    world.wait_for_status(slow, "completed")
    assert world.tasks_of_jobs() == [(quick, 1), (slow, 1)]
    (run,) = world.runs(quick)
    assert (run.outcome, run.reason) == ("succeeded", None)
    assert json.loads(run.result or "")["destination_url"] == "https://drive.test/f"
    world.wait_for(
        lambda: [kind for kind, _ in world.events(name)] == ["Launched", "Completed"],
        "the Job's Events",
    )
    assert "ada@example.com" not in world.log + json.dumps(world.jobs()) + json.dumps(
        world.cluster.pods(world.namespace)
    )


def test_a_failed_enrollment_never_has_a_job(world: ClusterWorld) -> None:
    (task,) = world.add("processing")
    world.start_operator()
    wait_for_log(world, f"ENROLL CHECK task={task}")
    world.set(task, "failed")
    wait_for_log(world, "over: failed")
    assert world.status(task) == "failed" and world.jobs() == {} and world.runs() == []


def test_an_unfinished_enrollment_fails_at_the_timeout_without_a_job(
    world: ClusterWorld,
) -> None:
    (task,) = world.add("processing")
    world.start_operator(ENROLLMENT_TIMEOUT="2")
    world.wait_for_status(task, "failed")
    (run,) = world.runs(task)
    assert (run.reason, run.message) == ("EnrollmentTimeout", "enrollment timeout after 2s")
    assert world.jobs() == {}


def test_the_job_of_a_deleted_row_is_stopped(world: ClusterWorld) -> None:
    (task,) = world.add()
    world.start_operator()
    name = running_job(world, task)
    world.sql("DELETE FROM download_tasks WHERE id = :id", id=task)
    world.wait_for(
        lambda: [run.reason for run in world.runs(task) if run.outcome] == ["TaskNotFound"],
        "it is recorded",
    )
    assert name not in world.jobs() and world.cluster.pods(world.namespace) == []
    world.wait_for(
        lambda: [kind for kind, _ in world.events(name)] == ["Launched", "Revoked"], "its Events"
    )


def test_a_withdrawn_task_is_stopped_and_runs_again_when_enrolled(
    world: ClusterWorld,
) -> None:
    (task,) = world.add()
    world.start_operator()
    running_job(world, task)
    world.set(task, "processing")
    world.wait_for(
        lambda: [run.reason for run in world.runs(task)] == ["EnrollmentWithdrawn"], "it is revoked"
    )
    world.wait_for(lambda: world.live_jobs() == [], "its Job is gone")
    assert world.status(task) == "processing"
    world.set(task, "enrolled")
    world.succeed(running_job(world, task, run_number=2))
    world.wait_for_status(task, "completed")


def test_a_fresh_start_waits_for_the_old_pod_and_is_never_confused_with_it(
    world: ClusterWorld, pod_runner: PodRunner
) -> None:
    """Node.js sets `failed` and then `enrolled` at once, while the old pod is still ending."""
    (task,) = world.add()
    world.template.write_text(
        world.template.read_text().replace("echo stopping; exit 75", "sleep 3; exit 75")
    )
    world.start_operator(STOP_GRACE="30")
    running_job(world, task)
    world.set(task, "failed")
    world.wait_for(lambda: "school-1-1" not in world.jobs(), "the old Job is deleted")
    world.set(task, "enrolled")
    most = 0

    def second_runs() -> bool:
        nonlocal most
        most = max(most, len(pod_runner.running(world.namespace)))
        return any(
            life.pod["metadata"]["name"].startswith("school-1-2")
            for life in pod_runner.running(world.namespace)
        )

    world.wait_for(second_runs, "the second run_number runs")
    assert most == 1, "two workers of one task ran at once"
    world.succeed("school-1-2")
    world.wait_for_status(task, "completed")
    assert [(run.run_number, run.outcome, run.reason) for run in world.runs(task)] == [
        (1, "revoked", "TaskFailed"),
        (2, "succeeded", None),
    ]


def test_a_job_deleted_by_hand_is_replaced(world: ClusterWorld, cluster: Cluster) -> None:
    (task,) = world.add()
    world.start_operator(CHECK_INTERVAL="60")  # the watch must wake the operator, not the interval
    name = running_job(world, task)
    kubectl(
        "delete", "job", name, "-n", world.namespace, "--wait=false", kubeconfig=cluster.kubeconfig
    )
    world.succeed(running_job(world, task, run_number=2))
    world.wait_for_status(task, "completed")
    assert [(run.outcome, run.reason) for run in world.runs(task)] == [
        ("lost", "Lost"),
        ("succeeded", None),
    ]


def test_a_job_deleted_by_its_ttl_before_it_was_recorded_is_replaced(
    world: ClusterWorld,
) -> None:
    (task,) = world.add()
    first = world.start_operator(RUN_TTL="1")
    name = running_job(world, task)
    assert world.stop_operator(first) == 0
    world.succeed(name)
    world.wait_for(lambda: name not in world.jobs(), "the TTL controller removes the Job")
    world.start_operator()
    world.succeed(running_job(world, task, run_number=2))
    world.wait_for_status(task, "completed")
    assert [run.outcome for run in world.runs(task)] == ["lost", "succeeded"]


def test_jobs_that_finish_without_an_operator_are_recorded_by_the_next(world: ClusterWorld) -> None:
    good, bad = world.add() + world.add()
    first = world.start_operator()
    names = running_job(world, good), running_job(world, bad)
    first.kill()
    first.wait()
    world.succeed(names[0])
    world.finish(names[1], Report(Reason.ACCESS_DENIED, "Course not accessible"))
    world.wait_for(lambda: world.live_jobs() == [], "both Jobs end")
    world.start_operator()
    world.wait_for_status(good, "completed")
    world.wait_for_status(bad, "failed")
    (run,) = world.runs(bad)
    assert (run.reason, run.message) == ("AccessDenied", "Course not accessible")
    assert world.tasks_of_jobs() == [(good, 1), (bad, 1)]


def test_a_finished_job_completes_its_row_at_once_whatever_the_interval(
    world: ClusterWorld,
) -> None:
    (task,) = world.add()
    world.start_operator(CHECK_INTERVAL="3600")
    world.succeed(running_job(world, task))
    world.wait_for_status(task, "completed")
    world.wait_for(
        lambda: "enrollgate.io/recorded" in world.jobs()["school-1-1"]["metadata"]["labels"],
        "it is marked",
    )


def test_a_failed_attempt_is_retried_and_the_last_failure_fails_the_task(
    world: ClusterWorld,
) -> None:
    (task,) = world.add()
    world.start_operator(MAX_ATTEMPTS="2")
    world.finish(running_job(world, task), Report(Reason.SITE_ERROR, "HTTP 503"))
    world.wait_for_status(task, "failed")
    (run,) = world.runs(task)
    assert (run.reason, run.message) == ("SiteError", "HTTP 503")
    logs = [log.splitlines()[0] for log in list_logs(world.cluster, world.namespace)]
    assert logs == ["attempt 1 of school-1-1", "attempt 2 of school-1-1"]


def test_a_foreign_job_with_our_name_is_kept_and_the_task_fails(
    world: ClusterWorld, cluster: Cluster
) -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "theirs"}]}
    foreign: dict[str, Any] = {
        "metadata": {"name": "school-1-1"},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }
    cluster.create(f"/apis/batch/v1/namespaces/{world.namespace}/jobs", foreign)
    (task,) = world.add()
    world.start_operator()
    world.wait_for_status(task, "failed")
    (run,) = world.runs(task)
    assert run.reason == "NameTaken" and "school-1-1" in run.message
    assert world.tasks_of_jobs() == [] and "school-1-1" in world.jobs()


def test_an_operator_stopped_by_sigterm_leaves_its_jobs_running(
    world: ClusterWorld,
) -> None:
    (task,) = world.add()
    first = world.start_operator()
    name = running_job(world, task)
    assert world.stop_operator(first) == 0
    assert world.live_jobs() == [name]
    world.start_operator()
    world.succeed(name)
    world.wait_for_status(task, "completed")
    assert world.tasks_of_jobs() == [(task, 1)]


def test_a_course_url_with_dollar_signs_reaches_the_worker_unchanged(
    world: ClusterWorld,
) -> None:
    url = "https://courses.example.com/a$$b?t=$(ENROLLGATE_TASK_ID)&u=$$(HOME)"
    world.template.write_text(
        world.template.read_text().replace("trap ", 'echo "<$ENROLLGATE_COURSE_URL>"; trap ')
    )
    (task,) = world.add(url=url)
    world.start_operator()
    running_job(world, task)
    (pod,) = world.cluster.pods(world.namespace)
    world.wait_for(
        lambda: f"<{url}>" in world.cluster.log(world.namespace, pod["metadata"]["name"]),
        "the worker has its address",
    )
