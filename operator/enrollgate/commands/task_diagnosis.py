"""Why a task is where it is, and what to do about it: the pure part of `enrollgate explain`.

In comes what the database knows of a task, out come three texts: the state, the cause, the remedy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from enrollgate.commands.hold_text import (
    describe_cause,
    describe_end,
    find_remedy,
    name_scope_of_task,
)
from enrollgate.commands.layout import instant, since
from enrollgate.common.units import duration, size
from enrollgate.database.queries import OperatorView, RunView
from enrollgate.database.task_details import QUEUE_LIMIT, TaskDetails, TaskRow, TrackedTask
from enrollgate.domain.account import cookies_name
from enrollgate.domain.reasons import ABOUT_COOKIES, Reason, explain
from enrollgate.domain.run import Outcome, RunState
from enrollgate.domain.task import Statuses, TaskState

_NOTHING = "Nothing."
# States in which nothing more happens, with or without an operator.
_FINISHED = frozenset({"completed", "failed", "deleted", "left alone"})


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of a task in a few words, why it is so, and what to do."""

    state: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that hold a task back: the operator's own, else those of the settings here.

    The last two are 0 if there is no such limit.
    """

    enrollment_timeout: float
    max_concurrent_runs: int
    max_runs_per_account: int = 0
    max_runs_per_host: int = 0


@dataclass(frozen=True, slots=True)
class _Case:
    """What a diagnosis is made from. `last` is the newest run, `row` is not there if deleted."""

    task: TaskDetails
    statuses: Statuses
    limits: Limits

    @property
    def row(self) -> TaskRow:
        return self.task.row or TaskRow(None, None, None, None, 0)

    @property
    def last(self) -> RunView | None:
        return self.task.runs[0] if self.task.runs else None


def diagnose(task: TaskDetails, statuses: Statuses, limits: Limits) -> Diagnosis:
    """Say why the task is where it is, as far as the database knows."""
    case, tracked = _Case(task, statuses, limits), task.tracked
    run = case.last
    state = TaskState.MISSING if task.row is None else statuses.state(task.row.configured_status)
    if run is not None and run.state in _BY_RUN_STATE:
        return _BY_RUN_STATE[run.state](task, run)
    if case.row.rows > 1:
        return Diagnosis(
            "ambiguous",
            "Several rows have this id, so no run can belong to one of them.",
            "Delete or renumber all rows of this id but one, and add a unique key.",
        )
    if state in (TaskState.WAITING, TaskState.ENROLLED) and tracked is None:
        return Diagnosis(
            "not seen yet",
            f"The status is {case.row.status!r}, and no pass has seen the row yet.",
            "Nothing: the next pass sees it, within ENROLLGATE_CHECK_INTERVAL.",
        )
    if state in (TaskState.WAITING, TaskState.ENROLLED) and tracked and tracked.retry_at:
        return _diagnose_set_aside(tracked)
    return _BY_TASK_STATE[state](case)


def put_operator_first(found: Diagnosis, task: TaskDetails) -> Diagnosis:
    """Say first that the operator is down, if it is and if the task still needs one."""
    problem = find_operator_problem(task.operator, task.now)
    if not problem or found.state in _FINISHED:
        return found
    return Diagnosis(
        found.state,
        f"{problem} Until it works again, nothing happens to this task. {found.why}",
        "Start the operator (`enrollgate run`), or read its log (`kubectl logs` in its namespace). "
        f"`enrollgate doctor` finds what is wrong. {found.remedy}",
    )


def find_operator_problem(operator: OperatorView | None, now: datetime) -> str:
    """Say that the operator is down; empty if it works."""
    if operator is None or operator.last_pass_at is None:
        return "No operator has ever made a pass on this database."
    if not operator.is_late(now):
        return ""
    ago = since(operator.last_pass_at, now)
    return (
        f"The operator {operator.installation!r} made its last pass {ago} ago: it is down, or it "
        "cannot reach the database or the cluster."
    )


def _diagnose_ended(_task: TaskDetails, run: RunView) -> Diagnosis:
    retry = f"at {instant(run.retry_at)} (UTC)" if run.retry_at else "in the next pass"
    return Diagnosis(
        "held",
        f"Its run has ended ({run.outcome}), and the database refuses to write the task's status: "
        f"{run.refusal}",
        f"Let the database accept the status. Enrollgate tries again {retry}, and does not "
        "download the course again.",
    )


def _diagnose_stopping(task: TaskDetails, run: RunView) -> Diagnosis:
    return Diagnosis(
        "stopping", f"Its run is being stopped: {run.reason}: {run.message}", _remedy(task, run)
    )


def _diagnose_claimed(task: TaskDetails, run: RunView) -> Diagnosis:
    if task.tracked is not None and task.tracked.retry_at is not None:
        return _diagnose_set_aside(task.tracked)
    claimed = f"Run {run.run_number} was claimed {since(run.claimed_at, task.now)} ago"
    if run.launcher == "kubernetes":
        why = run.message or (
            "the namespace's ResourceQuota allows no further Job now, or the API server does not "
            "answer"
        )
        return Diagnosis(
            "queued, waiting for quota",
            f"{claimed}, and its Job does not exist yet: {why}.",
            "Nothing: it starts by itself when another Job ends. To see the quota: `kubectl -n "
            f"{run.place_id} describe resourcequota`. To start more, raise it; to claim less, "
            "lower ENROLLGATE_MAX_CONCURRENT_RUNS.",
        )
    return Diagnosis("queued", f"{claimed} and is about to be launched.", _NOTHING)


def _diagnose_launched(task: TaskDetails, run: RunView) -> Diagnosis:
    if run.reason is not None:
        why = f"{run.reason}: {run.message}."
        return Diagnosis("running, but its node is away", why, _remedy(task, run))
    if run.started_at is None and run.progress_at is None and run.launcher == "kubernetes":
        begun = since(run.launched_at or run.claimed_at, task.now)
        return Diagnosis(
            "starting",
            f"Its Job was created {begun} ago, and its worker has not reported yet. The pod and "
            "its Events below say what it waits for.",
            "Nothing, if it is only slow. It fails after ENROLLGATE_KUBERNETES__START_TIMEOUT, "
            "with the cause as its reason.",
        )
    return Diagnosis("running", " ".join(describe_progress(run, task.now)), _NOTHING)


def describe_progress(run: RunView, now: datetime) -> list[str]:
    """Return sentences about how far a run is."""
    begun = run.started_at or run.launched_at or run.claimed_at
    attempt = ""
    if run.attempt is not None and run.attempts is not None:
        attempt = f" (attempt {run.attempt} of {run.attempts})"
    sentences = [f"Run {run.run_number} has worked for {since(begun, now)}{attempt}."]
    if run.progress_at is None:
        return [*sentences, "Its worker has not reported progress yet."]
    if run.items_done is not None:
        total = "" if run.items_total is None else f" of {run.items_total}"
        share = "" if run.percent is None else f", {run.percent} %"
        sentences.append(f"{run.items_done}{total} items are done{share}.")
    if run.bytes_done is not None:
        total = f" of {size(run.bytes_total)}" if run.bytes_total else ""
        rate = f", at {size(run.bytes_per_second)}/s" if run.bytes_per_second else ""
        sentences.append(f"{size(run.bytes_done)}{total}{rate}.")
        if run.bytes_per_second and run.bytes_total and run.bytes_total > run.bytes_done:
            left = (run.bytes_total - run.bytes_done) / run.bytes_per_second
            sentences.append(f"About {duration(left)} left.")
    if run.current_item:
        sentences.append(f"Now: {run.current_item}.")
    return [*sentences, f"Reported {since(run.progress_at, now)} ago."]


def _diagnose_missing(case: _Case) -> Diagnosis:
    last = case.last
    ended = "It was never launched."
    if last is not None:
        ended = f"Its last run: {last.outcome}{f', {last.reason}' if last.reason else ''}."
    return Diagnosis(
        "deleted",
        f"The row does not exist any more. {ended}",
        "Nothing, if you deleted it on purpose. Else insert it again: files that were delivered "
        "are kept, and skipped then.",
    )


def _diagnose_unknown(case: _Case) -> Diagnosis:
    shown = "NULL" if case.row.status is None else repr(case.row.status)
    known = ", ".join(case.statuses.known)
    cause = f"The status {shown} is none of the configured ones ({known})."
    if case.task.tracked is not None:
        return Diagnosis(
            "about to fail",
            f"{cause} The task was {case.task.tracked.last_seen_status} before, so the next pass "
            f"fails it ({Reason.UNEXPECTED_STATUS}).",
            explain(Reason.UNEXPECTED_STATUS).remedy,
        )
    return Diagnosis(
        "left alone",
        f"{cause} Enrollgate has never seen the row as waiting or enrolled, so it ignores it.",
        f"If the task should run, set {case.statuses.enrolled!r}, or a waiting status first. If "
        "the status is one of yours, add it to ENROLLGATE_STATUS_WAITING.",
    )


def _diagnose_waiting(case: _Case) -> Diagnosis:
    now, statuses = case.task.now, case.statuses
    first_seen = case.task.tracked.first_seen_at if case.task.tracked else now
    elapsed = (now - first_seen) / timedelta(seconds=1)
    limit = case.limits.enrollment_timeout
    timing = f"{elapsed:.0f} s of {limit:g} s have passed"
    if elapsed >= limit:
        return Diagnosis(
            "about to fail",
            f"Node.js has not set {statuses.enrolled!r} in time: {timing}. The next pass fails the "
            f"task ({Reason.ENROLLMENT_TIMEOUT}).",
            explain(Reason.ENROLLMENT_TIMEOUT).remedy,
        )
    fails_at = instant(first_seen + timedelta(seconds=limit))
    return Diagnosis(
        "waiting for the enrollment",
        f"The status is {case.row.status!r}: Node.js has not set {statuses.enrolled!r} yet. "
        f"{timing}, {limit - elapsed:.0f} s are left.",
        f"Nothing, if the enrollment is in progress. At {fails_at} (UTC) the task fails "
        f"({Reason.ENROLLMENT_TIMEOUT}). If enrollments need longer, raise "
        "ENROLLGATE_ENROLLMENT_TIMEOUT.",
    )


def _diagnose_queued(case: _Case) -> Diagnosis:
    task, limit = case.task, case.limits.max_concurrent_runs
    if (hold := task.hold) is not None:
        cause, end = describe_cause(hold, task.now), describe_end(hold, task.now)
        return Diagnosis(
            f"held: the {hold.scope} is {'paused' if hold.is_pause else 'on hold'}",
            f"The task is enrolled, and {name_scope_of_task(hold)} is {cause}. {end}",
            find_remedy(hold),
        )
    position, ahead = "", f"more than {QUEUE_LIMIT:,} tasks are enrolled, so its place is not shown"
    if task.ahead is not None:
        position = f", position {task.ahead + 1}"
        ahead = f"{task.ahead} {'task is' if task.ahead == 1 else 'tasks are'} before it"
    if task.unfinished >= limit:
        return Diagnosis(
            f"queued{position}",
            f"The task is enrolled. {task.unfinished} of {limit} runs are unfinished, so no slot "
            f"is free (ENROLLGATE_MAX_CONCURRENT_RUNS); {ahead}.",
            "Nothing: it is launched when a run ends. To run more at the same time, raise "
            "ENROLLGATE_MAX_CONCURRENT_RUNS.",
        )
    for most, live, what in (
        (case.limits.max_runs_per_account, task.of_account, "account"),
        (case.limits.max_runs_per_host, task.of_host, "host"),
    ):
        if 0 < most <= live:
            setting = f"ENROLLGATE_MAX_RUNS_PER_{what.upper()}"
            return Diagnosis(
                f"queued behind its {what}",
                f"The task is enrolled, and slots are free. But {live} of {most} runs of its "
                f"{what} are unfinished ({setting}).",
                f"Nothing: it is launched when one of them ends. To run more of one {what} at the "
                f"same time, raise {setting}.",
            )
    return Diagnosis(
        f"queued{position}",
        f"The task is enrolled, and {task.unfinished} of {limit} slots are taken; {ahead}. The "
        "next pass launches it.",
        _NOTHING,
    )


def _diagnose_set_aside(tracked: TrackedTask) -> Diagnosis:
    retry = instant(tracked.retry_at) if tracked.retry_at else "the next pass"
    return Diagnosis(
        "held",
        f"The task was refused ({tracked.refusals} in a row): {tracked.refusal}",
        f"Fix what the refusal names. Enrollgate tries again at {retry} (UTC), and then with "
        "growing pauses.",
    )


def _diagnose_completed(case: _Case) -> Diagnosis:
    last = case.last
    if last is None or last.outcome != Outcome.SUCCEEDED.value:
        return Diagnosis(
            "completed",
            f"Another program wrote {case.row.status!r}: Enrollgate has no successful run of this "
            "task.",
            "Let only Enrollgate write that status. To download the course, set the task to "
            "`enrolled`.",
        )
    result = case.task.result or {}
    url = last.destination_url or result.get("destination_url")
    where = f" It is at {url}" if url else ""
    return Diagnosis("completed", f"{last.message}.{where}", _NOTHING)


def _diagnose_failed(case: _Case) -> Diagnosis:
    task, last = case.task, case.last
    if last is not None and last.outcome == Outcome.FAILED.value:
        return Diagnosis("failed", f"{last.reason}: {last.message}", _remedy(task, last))
    if last is not None and last.reason == Reason.CANCELLED.value:
        return Diagnosis("failed", f"{last.reason}: {last.message}", _remedy(task, last))
    if last is not None and last.reason == Reason.TASK_FAILED.value:
        return Diagnosis("failed", explain(Reason.TASK_FAILED).means, _remedy(task, last))
    return Diagnosis(
        "failed",
        "Node.js, or a person, wrote this status. Enrollgate did not: no run of it has failed.",
        "Find out why the enrollment failed. Then set the task to a waiting status or to "
        "`enrolled`.",
    )


def _remedy(task: TaskDetails, run: RunView) -> str:
    """Return what to do: the run's own remedy, else its reason's. Name the cookies file."""
    remedy = run.remedy or ""
    if not remedy and run.reason in set(Reason):
        remedy = explain(Reason(run.reason)).remedy
    if run.reason in ABOUT_COOKIES and task.row is not None and task.row.email:
        remedy += f" The account's file is {cookies_name(task.row.email)}."
    return remedy or "Read the run's log: `enrollgate logs`."


_BY_RUN_STATE: Mapping[str, Callable[[TaskDetails, RunView], Diagnosis]] = {
    RunState.CLAIMED: _diagnose_claimed,
    RunState.LAUNCHED: _diagnose_launched,
    RunState.STOPPING: _diagnose_stopping,
    RunState.ENDED: _diagnose_ended,
}
_BY_TASK_STATE: Mapping[TaskState, Callable[[_Case], Diagnosis]] = {
    TaskState.WAITING: _diagnose_waiting,
    TaskState.ENROLLED: _diagnose_queued,
    TaskState.COMPLETED: _diagnose_completed,
    TaskState.FAILED: _diagnose_failed,
    TaskState.UNKNOWN: _diagnose_unknown,
    TaskState.MISSING: _diagnose_missing,
}
