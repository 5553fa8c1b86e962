"""`enrollgate explain TASK`: the whole story of one task, from the database and the cluster.

`task_diagnosis` says why the task is where it is. Here it is read, and printed with the timeline,
the runs, the pod and its Events.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from enrollgate.commands.console import fail, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.commands.layout import instant, paragraph, since
from enrollgate.commands.task_diagnosis import (
    Diagnosis,
    Limits,
    diagnose,
    put_operator_first,
)
from enrollgate.common.redaction import redact
from enrollgate.common.units import duration, size
from enrollgate.database.configured import build_tables
from enrollgate.database.queries import RunView
from enrollgate.database.task_details import TaskDetails, load_task_details
from enrollgate.domain.account import cookies_name, mask_account
from enrollgate.domain.reasons import explain as explain_reason
from enrollgate.domain.run import parse_run_name
from enrollgate.settings.operator import Settings

if TYPE_CHECKING:
    from enrollgate.launchers.kubernetes.run_details import RunDetails


def explain(text: str, *, as_json: bool) -> None:
    """Print the story of a task. Ends with 1 if there is no such task, with 2 if it is no id."""
    settings = settings_or_fail()
    task_id, tables = parse_task(text, settings), build_tables(settings)
    with database_or_fail(settings) as database:
        task = load_task_details(database, tables, task_id, installation=settings.installation)
    if not task.is_known:
        fail(
            f"there is no task {task_id}: {tables.columns.table} has no row with this id, and "
            "Enrollgate has never seen one",
            1,
        )
    operator = task.operator
    limits = Limits(
        (operator and operator.enrollment_timeout) or settings.enrollment_timeout,
        (operator and operator.max_concurrent_runs) or settings.max_concurrent_runs,
        settings.max_runs_per_account,
        settings.max_runs_per_host,
    )
    diagnosis = diagnose(task, tables.statuses, limits)
    cluster = None
    if task.runs and task.runs[0].launcher == "kubernetes":
        # The Kubernetes client takes a second to import.
        from enrollgate.launchers.kubernetes.run_details import read_run_details

        cluster = read_run_details(task.runs[0].place_id or "", task.runs[0].name)
        diagnosis = refine(diagnosis, cluster, task.now.replace(tzinfo=UTC))
    diagnosis = put_operator_first(diagnosis, task)
    if as_json:
        typer.echo(json.dumps(to_json(task, diagnosis, cluster), indent=2, default=_plain))
    else:
        typer.echo("\n".join(render(task, diagnosis, cluster)))


def refine(diagnosis: Diagnosis, cluster: "RunDetails", now: datetime) -> Diagnosis:
    """Say what a live run waits for, as far as its Job and its pods show it."""
    if diagnosis.state not in ("starting", "running", "stopping"):
        return diagnosis
    from enrollgate.launchers.kubernetes.diagnosis import explain_lost_node, explain_not_started

    if lost := explain_lost_node(cluster.pods, now):
        state = "stopping" if diagnosis.state == "stopping" else "running"
        return Diagnosis(
            f"{state}, but its node is away", f"{lost.reason}: {lost.message}.", lost.remedy
        )
    if diagnosis.state == "stopping" or cluster.job is None:
        return diagnosis
    current = [pod for pod in cluster.pods if not pod.is_finished]
    started = next((pod for pod in reversed(current) if pod.has_started), None)
    if started is not None:
        why = f"Its worker runs in pod {started.name}."
        is_known = diagnosis.state == "running"
        return diagnosis if is_known else Diagnosis("running", why, "Nothing.")
    since_when = max([cluster.job.created, *(pod.created for pod in current)])
    waited = int((now - since_when).total_seconds())
    report = explain_not_started(cluster.job, cluster.pods, cluster.events, now, max(0, waited - 1))
    if report is None or report.reason is None:
        return diagnosis
    why = (
        f"{report.reason}: {report.message.rstrip('.')}. If that lasts, the task fails after "
        "ENROLLGATE_KUBERNETES__START_TIMEOUT."
    )
    return Diagnosis("starting", why, explain_reason(report.reason).remedy)


def parse_task(text: str, settings: Settings) -> int:
    """Return the id of a task, given as a number or as the name of one of its runs."""
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal() and len(digits) <= 20:
        return int(text)
    parsed = parse_run_name(settings.installation, text)
    if parsed is None:
        fail(f"{text!r} is no task: give the row's id, or the name of a run or Job")
    return parsed[0]


def to_json(
    task: TaskDetails, diagnosis: Diagnosis, cluster: "RunDetails | None"
) -> dict[str, object]:
    """Return the story as data; instants are in ISO 8601, UTC. The account is masked."""
    row = task.row
    return {
        "task_id": task.task_id,
        "now": task.now,
        **asdict(diagnosis),
        "status": row and row.status and redact(row.status),
        "account": row and row.email and mask_account(row.email),
        "course_url": row and row.course_url and redact(row.course_url),
        "tracked": task.tracked and asdict(task.tracked),
        "runs": [asdict(run) for run in task.runs],
        "total_runs": task.total_runs,
        "result": task.result,
        "operator": task.operator and asdict(task.operator),
        "hold": task.hold and asdict(task.hold),
        "actions": [asdict(action) for action in task.actions],
        "cluster": cluster and asdict(cluster),
    }


def render(task: TaskDetails, diagnosis: Diagnosis, cluster: "RunDetails | None") -> Iterator[str]:
    """Yield the lines of the story, none longer than 80 columns but for a longer word."""
    yield from paragraph(f"Task {task.task_id}", diagnosis.state, indent=0)
    yield from paragraph("why", diagnosis.why, outside=True)
    yield from paragraph("what to do", diagnosis.remedy, outside=True)
    if task.row is not None:
        row = task.row
        yield from paragraph("status", "NULL" if row.status is None else row.status, outside=True)
        yield from paragraph("course", row.course_url or "NULL", outside=True)
        yield from paragraph("account", mask_account(row.email)[:200] if row.email else "NULL")
        if row.email:
            yield from paragraph("cookies", cookies_name(row.email))
    yield from ("", "Timeline (UTC)")
    for at, what in build_timeline(task):
        yield from paragraph(instant(at), what, outside=True, label_width=21)
    if task.runs:
        shown = "" if task.total_runs == len(task.runs) else f" (the last {len(task.runs)})"
        yield from ("", f"Runs: {task.total_runs}{shown}")
        for run in task.runs:
            yield from paragraph(f"run {run.run_number}", describe_run(run, task.now), outside=True)
        yield from _render_result(task)
    if cluster is not None:
        yield from _render_cluster(task, cluster)
    if task.operator is not None and task.operator.last_pass_at is not None:
        operator = task.operator
        ago = since(task.operator.last_pass_at, task.now)
        version = f", version {operator.version}" if operator.version else ""
        yield from ("", f"Operator {operator.installation}: last pass {ago} ago{version}")


def build_timeline(task: TaskDetails) -> list[tuple[datetime, str]]:
    """Return what happened to a task, oldest first. `now` comes last."""
    found = list[tuple[datetime, str]]()
    firsts = {run.first_seen_at for run in task.runs} | {
        task.tracked and task.tracked.first_seen_at
    }
    found += [(at, "first seen by the operator") for at in firsts if at]
    enrolled = {run.enrolled_seen_at for run in task.runs}
    if task.tracked is not None:
        enrolled.add(task.tracked.enrolled_seen_at)
    found += [(at, "seen as enrolled") for at in enrolled if at]
    for run in task.runs:
        name = f"run {run.run_number}"
        if run.launcher is not None:
            found.append((run.claimed_at, f"{name} claimed"))
        if run.launched_at is not None:
            found.append((run.launched_at, f"{name} launched"))
        if run.started_at is not None:
            found.append((run.started_at, f"{name}: its worker began"))
        if run.finished_at is not None:
            because = f": {run.reason}" if run.reason else ""
            found.append((run.finished_at, f"{name} ended, {run.outcome}{because}"))
    for action in task.actions:
        because = f": {action.detail}" if action.detail else ""
        found.append((action.acted_at, f"enrollgate {action.action}, by {action.actor}{because}"))
    if task.hold is not None:
        did = "paused" if task.hold.is_pause else f"on hold: {task.hold.reason}"
        found.append((task.hold.opened_at, f"the {task.hold.scope} is {did}"))
    found.sort(key=lambda each: each[0])
    status = "the row does not exist"
    if task.row is not None:
        status = f"the status is {'NULL' if task.row.status is None else task.row.status}"
    if task.tracked is not None and task.row is not None:
        seen = task.tracked.last_seen_status
        status += f"; the last pass saw {seen}" if seen != task.row.status else ""
    return [*found, (task.now, f"now: {status}")]


def describe_run(run: RunView, now: datetime) -> str:
    """Return a run in one sentence or two."""
    state = run.outcome or run.state
    parts = [f"{run.name}: {state}{f' ({run.reason})' if run.reason else ''}"]
    begun = run.started_at or run.launched_at
    if begun is not None:
        parts.append(duration(((run.finished_at or now) - begun).total_seconds()))
    if run.attempt is not None:
        parts.append(f"attempt {run.attempt}" + (f" of {run.attempts}" if run.attempts else ""))
    if run.items_done is not None:
        total = "" if run.items_total is None else f" of {run.items_total}"
        parts.append(f"items: {run.items_done}{total}")
    if run.bytes_done:
        parts.append(size(run.bytes_done))
    if run.where:
        parts.append(run.where)
    text = ", ".join(parts)
    if run.message:
        text += f". {run.message}"
    return text if run.destination_url is None else f"{text} [{run.destination_url}]"


def _render_result(task: TaskDetails) -> Iterator[str]:
    """Yield the items that the newest run did not deliver, as its worker reported them."""
    result = task.result or {}
    for key, label, why in (
        ("failed_items", "failed", "message"),
        ("left_out_items", "left out", "why"),
    ):
        items = result.get(key)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                reason = f"{item['reason']}: " if "reason" in item else ""
                text = f"{item.get('item', '')}: {reason}{item.get(why, '')}"
                yield from paragraph(label, text, outside=True)


def _render_cluster(task: TaskDetails, cluster: "RunDetails") -> Iterator[str]:
    """Yield the Job of the newest run, its pods and Events."""
    run = task.runs[0]
    yield from ("", f"Cluster: namespace {run.place_id}, Job {run.name}")
    if cluster.problem:
        yield from paragraph("not asked", cluster.problem, outside=True)
        return
    now = task.now.replace(tzinfo=UTC)
    job = cluster.job
    if job is None:
        yield from paragraph("Job", "there is none in this cluster (any more)")
    else:
        ended = job.result and (
            "complete" if job.result.succeeded else f"failed, {job.result.reason}"
        )
        state = ended or ("being deleted" if job.is_deleting else "live")
        counts = f"{job.current_pods} current and {job.failed_pods} failed pods"
        suspended = ", suspended" if job.is_suspended else ""
        yield from paragraph(
            "Job", f"created {since(job.created, now)} ago, {state}{suspended}; {counts}"
        )
    for quota in cluster.quotas:
        yield from paragraph("quota", quota, outside=True)
    for pod in cluster.pods:
        ended = ""
        if pod.termination is not None:
            ended = f"worker ended with exit code {pod.termination.exit_code}"
        waiting = ": ".join(filter(None, (pod.waiting_reason, pod.waiting_message)))
        because = ": ".join(filter(None, (pod.reason, pod.message)))
        parts = filter(None, (pod.phase, ended, waiting, pod.unscheduled, pod.disruption, because))
        yield from paragraph("pod", f"{pod.name}: {'; '.join(parts)}", outside=True)
    for event in cluster.events:
        mark = "Warning " if event.is_warning else ""
        text = f"{event.last_seen[:19]} {mark}{event.reason}: {event.message}"
        yield from paragraph("event", text, outside=True)


def _plain(value: object) -> str:
    """Return an instant for JSON."""
    if isinstance(value, datetime):
        return value.isoformat() + ("" if value.tzinfo else "Z")
    raise TypeError(f"not plain data: {type(value).__name__}")
