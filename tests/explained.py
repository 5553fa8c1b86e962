"""Tasks in every situation that `enrollgate explain` explains, each on a real database.

Each situation prepares one task; its transcript is what the command prints for it. docs/explain.md
is made of these transcripts: `python -m tests.explained > docs/explain.md`.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path

from sqlalchemy import insert, update
from tests.world import EPOCH, World

from enrollgate.commands.explain import refine, render
from enrollgate.commands.task_diagnosis import Limits, diagnose, put_operator_first
from enrollgate.database import steering
from enrollgate.database.steering import Steering
from enrollgate.database.tables import operators, runs
from enrollgate.database.task_details import load_task_details
from enrollgate.domain.hold import Scope
from enrollgate.domain.observation import Phase
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import FailedItem, Report
from enrollgate.domain.run import RunPlace
from enrollgate.launchers.kubernetes.job_client import parse_event, parse_job, parse_pod
from enrollgate.launchers.kubernetes.run_details import RunDetails
from enrollgate.launchers.kubernetes.views import JobView
from enrollgate.telemetry.logging import configure_logging

PAGE = Path("docs/explain.md")
EMAIL = "ada@example.com"
POLICY = Policy(enrollment_timeout=300, max_concurrent_runs=2)
_CLUSTER = RunPlace("kubernetes", "courses")
# Prepares a task and returns its id, and what the cluster says of it.
Situation = Callable[[World], tuple[int, RunDetails | None]]

_HEAD = """# Why is my task where it is?

```sh
enrollgate explain 7          # the row's id, or the name of a run or Job
enrollgate explain 7 --json   # the same for programs
```

It answers from the database alone, and needs no running operator. If the task's run is a Kubernetes
Job, it also asks the cluster for the Job, its pods and their Events: in a pod with the pod's
service account, elsewhere with your kubeconfig. Without a cluster it says so, and shows the rest.
It ends with exit code 1 if there is no such task.

`enrollgate logs 7` shows the log of its last run, and `enrollgate status` all tasks.

These transcripts are real: a test runs each situation on a database and compares the output with
this page.
"""


def waiting(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("processing", EMAIL)
    world.reconcile()
    world.clock.advance(120)
    return task, None


def queued(world: World) -> tuple[int, RunDetails | None]:
    tasks = [world.add("enrolled", EMAIL) for _ in range(4)]
    world.reconcile()
    world.clock.advance(45)
    world.reconcile()
    return tasks[-1], None


def queued_behind_its_account(world: World) -> tuple[int, RunDetails | None]:
    world.policy = replace(world.policy, max_runs_per_account=1)
    world.restart()
    world.add("enrolled", EMAIL)
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.clock.advance(45)
    world.reconcile()
    return task, None


def waiting_for_quota(world: World) -> tuple[int, RunDetails | None]:
    world.launcher.place = _CLUSTER
    world.launcher.waits = (
        "the namespace's ResourceQuota allows no further Job now (exceeded quota: jobs, requested: "
        "count/jobs.batch=1, used: count/jobs.batch=5, limited: count/jobs.batch=5)"
    )
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.clock.advance(70)
    return task, RunDetails(quotas=["jobs: count/jobs.batch: 5 of 5 used"])


def running(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.clock.advance(95)
    report_progress(world, task)
    world.clock.advance(2)
    return task, None


def report_progress(world: World, task: int) -> None:
    """Store what the worker reports of a live run: progress as of now."""
    progress = {
        "attempt": 1,
        "attempts": 3,
        "percent": 41,
        "items_done": 12,
        "items_total": 30,
        "bytes_done": 1_240_000_000,
        "bytes_total": 3_000_000_000,
        "bytes_per_second": 14_200_000,
        "current_item": "03 - Glazing",
        "progress_at": world.clock.now,
        "started_at": EPOCH,
    }
    world.database.run_in_transaction(
        lambda connection: connection.execute(
            update(runs).where(runs.c.task_id == task).values(progress)
        )
    )


def failed_by_cookies(world: World) -> tuple[int, RunDetails | None]:
    task = expire_cookies(world)
    world.clock.advance(3600)
    return task, None


def expire_cookies(world: World) -> int:
    """Let a task fail, because its account's cookies have expired. Return it."""
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.clock.advance(20)
    (name,) = world.launcher.live
    message = "the site asked for a login at lecture 2 (HTTP 401); 1 of 2 items failed"
    world.launcher.end(
        name,
        Phase.FAILED,
        Report(
            Reason.COOKIES_EXPIRED,
            message,
            items_delivered=1,
            items_failed=1,
            failed_items=(FailedItem("Glazing", Reason.COOKIES_EXPIRED, "HTTP 401"),),
        ),
    )
    world.reconcile()
    return task


def on_hold(world: World) -> tuple[int, RunDetails | None]:
    expire_cookies(world)
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.clock.advance(60)
    world.reconcile()
    return task, None


def paused(world: World) -> tuple[int, RunDetails | None]:
    steering.pause(
        Steering(world.database, world.tables, "test", "eve on desk"),
        Scope.INSTALLATION,
        "",
        seconds=7200,
        why="the Drive moves to another company",
    )
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.clock.advance(600)
    world.reconcile()
    return task, None


def cancelled(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.clock.advance(30)
    steering.cancel(Steering(world.database, world.tables, "test", "eve on desk"), task)
    for _ in range(2):
        world.reconcile()
    world.clock.advance(30)
    return task, None


def image_pull(world: World) -> tuple[int, RunDetails | None]:
    world.launcher.place = _CLUSTER
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.clock.advance(130)
    begin, name = f"{EPOCH:%Y-%m-%dT%H:%M:%S}Z", f"test-{task}-1"
    job = parse_job(
        {
            "metadata": {"name": name, "uid": "1", "creationTimestamp": begin},
            "status": {"active": 1, "startTime": begin},
        }
    )
    pull = 'Back-off pulling image "registry.example.com/enrollgate:0.1.O"'
    waits = {"waiting": {"reason": "ImagePullBackOff", "message": pull}}
    pod = parse_pod(
        {
            "metadata": {"name": f"{name}-x7k2p", "creationTimestamp": begin},
            "status": {
                "phase": "Pending",
                "containerStatuses": [{"name": "worker", "state": waits}],
            },
        }
    )
    event = parse_event(
        {
            "type": "Warning",
            "reason": "Failed",
            "message": "Error: ErrImagePull",
            "lastTimestamp": begin,
        }
    )
    return task, RunDetails(job=job, pods=[pod], events=[event])


def drained(world: World) -> tuple[int, RunDetails | None]:
    """A drain has evicted the pod, and the next one waits for a node."""
    task, job, _ = _running_job(world)
    why = (
        "0/1 nodes are available: 1 node(s) were unschedulable. preemption: 0/1 nodes are "
        "available: 1 Preemption is not helpful for scheduling."
    )
    unscheduled = {"type": "PodScheduled", "status": "False", "message": why}
    status = {"phase": "Pending", "conditions": [unscheduled]}
    created = f"{EPOCH + timedelta(seconds=95):%Y-%m-%dT%H:%M:%S}Z"
    metadata = {"name": f"test-{task}-1-0-x7k2p", "creationTimestamp": created}
    pod = parse_pod({"metadata": metadata, "status": status})
    return task, RunDetails(job=job, pods=[pod])


def node_away(world: World) -> tuple[int, RunDetails | None]:
    """The node does not answer: its taint has evicted the pod, and nobody confirms its end."""
    task, job, begin = _running_job(world)
    metadata = {
        "name": f"test-{task}-1-0-x7k2p",
        "creationTimestamp": begin,
        "deletionTimestamp": f"{EPOCH + timedelta(seconds=60):%Y-%m-%dT%H:%M:%S}Z",
    }
    worker = {"name": "worker", "state": {"running": {"startedAt": begin}}}
    status = {"phase": "Running", "containerStatuses": [worker]}
    pod = parse_pod({"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": status})
    return task, RunDetails(job=job, pods=[pod])


def _running_job(world: World) -> tuple[int, JobView, str]:
    """Return a task whose worker has reported, its Job, and when that was created."""
    world.launcher.place = _CLUSTER
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.clock.advance(95)
    report_progress(world, task)
    world.clock.advance(35)
    begin = f"{EPOCH:%Y-%m-%dT%H:%M:%S}Z"
    metadata = {"name": f"test-{task}-1", "uid": "1", "creationTimestamp": begin}
    job = {"metadata": metadata, "status": {"active": 1, "startTime": begin}}
    return task, parse_job(job), begin


def timed_out(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("processing", EMAIL)
    world.reconcile()
    world.clock.advance(300)
    world.reconcile()
    world.clock.advance(60)
    return task, None


def unknown_status(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("paused", EMAIL)
    world.reconcile()
    return task, None


def unexpected_status(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("processing", EMAIL)
    world.reconcile()
    world.set(task, "refunded")
    world.clock.advance(10)
    world.reconcile()
    return task, None


def deleted(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("enrolled", EMAIL)
    world.reconcile()
    world.delete(task)
    world.clock.advance(10)
    for _ in range(2):
        world.reconcile()
    return task, None


def completed(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("processing", EMAIL)
    world.reconcile()
    world.clock.advance(30)
    world.set(task, "enrolled")
    world.reconcile()
    world.clock.advance(240)
    (name,) = world.launcher.live
    report = Report(
        None,
        "30 items delivered, 0 were there already",
        items_delivered=30,
        destination_url="https://drive.google.com/drive/folders/1AbC",
    )
    world.launcher.end(name, Phase.SUCCEEDED, report)
    world.reconcile()
    return task, None


def refused(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("enrolled", EMAIL)
    world.launcher.refused[task] = 'admission webhook "images" denied the request: unsigned image'
    world.reconcile()
    world.clock.advance(1)
    return task, None


def failed_by_node(world: World) -> tuple[int, RunDetails | None]:
    task = world.add("processing", EMAIL)
    world.reconcile()
    world.set(task, "failed")
    world.clock.advance(10)
    world.reconcile()
    return task, None


SITUATIONS: Mapping[str, Situation] = {
    "Waiting for the enrollment": waiting,
    "Queued behind the limit": queued,
    "Queued behind its account": queued_behind_its_account,
    "Waiting for a quota of the namespace": waiting_for_quota,
    "Running": running,
    "Completed": completed,
    "Failed: the cookies have expired": failed_by_cookies,
    "On hold: the account's cookies have expired": on_hold,
    "Paused by a person": paused,
    "Cancelled by a person": cancelled,
    "Starting: the image cannot be pulled": image_pull,
    "Starting again: its node was drained": drained,
    "Running, but its node is away": node_away,
    "Failed: enrollment timeout": timed_out,
    "A status that was never seen otherwise": unknown_status,
    "Failed: an unexpected status": unexpected_status,
    "Deleted": deleted,
    "Refused by the cluster": refused,
    "Failed: Node.js wrote it": failed_by_node,
}


def transcript(world: World, situation: Situation, *, silence: float = 0) -> str:
    """Return what `explain` prints. The operator made its last pass `silence` seconds ago."""
    beat(world)
    task, cluster = situation(world)
    beat(world)
    world.clock.advance(silence)
    details = load_task_details(world.database, world.tables, task, installation="test")
    policy = world.policy
    limits = Limits(
        *(policy.enrollment_timeout, policy.max_concurrent_runs),
        *(policy.max_runs_per_account, policy.max_runs_per_host),
    )
    diagnosis = diagnose(details, world.statuses, limits)
    if cluster is not None:
        diagnosis = refine(diagnosis, cluster, details.now.replace(tzinfo=UTC))
    diagnosis = put_operator_first(diagnosis, details)
    return "\n".join(render(details, diagnosis, cluster)) + "\n"


def beat(world: World) -> None:
    """Record a pass of the operator as of now."""
    mine = operators.c.installation == "test"
    row = {
        "installation": "test",
        "version": "0.1.0",
        "last_pass_at": world.clock.now,
        "pass_seconds": 0.1,
        "check_interval": 10.0,
        "enrollment_timeout": world.policy.enrollment_timeout,
        "max_concurrent_runs": world.policy.max_concurrent_runs,
    }
    changed = world.database.run_in_transaction(
        lambda connection: connection.execute(update(operators).where(mine).values(row)).rowcount
    )
    if not changed:
        world.database.run_in_transaction(
            lambda connection: connection.execute(insert(operators).values(row))
        )


def page() -> str:
    """Return docs/explain.md."""
    parts = [_HEAD]
    for title, situation in SITUATIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            with closing(World(f"sqlite:///{folder}/tasks.db", POLICY)) as world:
                text = transcript(world, situation)
        parts.append(f"\n## {title}\n\n```text\n{text}```\n")
    return "".join(parts)


if __name__ == "__main__":
    configure_logging("text", "error")
    print(page(), end="")
