"""The decision: what to do about each unfinished run, given its row, its task and what the launcher sees.

`plan` is a pure function: no I/O, no clock. The matrix it implements, task by launcher:

| task is | nothing there, claimed | nothing there, launched | live | succeeded | failed |
| --- | --- | --- | --- | --- | --- |
| enrolled | Launch, or refuse a bad row | Record lost or failed | Adopt if claimed | Record, complete | Record, fail |
| waiting, over, missing | Record revoked | Record revoked | Stop | Record as it ended | Record as it ended |
| unknown | Record failed, fail task | the same | Stop, fail task | as if nothing were there | the same |

A live run that is *stuck* (it has not begun in its time) is stopped, and its task fails with it, if the task is enrolled.

A run that is already being stopped is recorded as revoked, or as failed if it never began, once it is no longer live, whatever
its task says by then, and stopped again while it is. What the launcher shows and no row accounts for is a stray: stopped while
live, then discarded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from enrollgate.domain.account import cookies_name
from enrollgate.domain.gate import unexpected_status_message
from enrollgate.domain.hosts import check_url
from enrollgate.domain.observation import Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import NOT_BEGUN, Failure, Reason, explain
from enrollgate.domain.report import Report
from enrollgate.domain.run import Outcome, RunState, UnfinishedRun
from enrollgate.domain.task import TaskState


@dataclass(frozen=True, slots=True)
class Launch:
    """Create the run under its name, after a last look that its task is still enrolled."""

    run: UnfinishedRun
    order: RunOrder


@dataclass(frozen=True, slots=True)
class Adopt:
    """The run is there already: note that it was launched."""

    run: UnfinishedRun


@dataclass(frozen=True, slots=True)
class Stop:
    """Note why, then stop the run. `fail_task` moves the task to failed with it."""

    run: UnfinishedRun
    reason: Reason
    message: str
    fail_task: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Finish the run in the database and, if `task_to` is given, move its task there, in one transaction.

    `task_to` is only ever reached from the task state the plan saw: a task that has moved on stays as it is.
    """

    run: UnfinishedRun
    outcome: Outcome
    reason: Reason | None
    message: str
    report: Report | None = None
    task_to: TaskState | None = None


@dataclass(frozen=True, slots=True)
class StopOrphan:
    """Stop a live run that no unfinished row accounts for."""

    name: str


@dataclass(frozen=True, slots=True)
class DiscardOrphan:
    """Clear away a finished run that is recorded already."""

    name: str


Action = Launch | Adopt | Stop | Record | StopOrphan | DiscardOrphan

_WITHDRAWN: dict[TaskState, tuple[Reason, str]] = {
    TaskState.WAITING: (Reason.ENROLLMENT_WITHDRAWN, "the task went back to a waiting status"),
    TaskState.FAILED: (Reason.TASK_FAILED, "the task was set to failed"),
    TaskState.COMPLETED: (Reason.TASK_COMPLETED, "the task was set to completed by someone else"),
    TaskState.MISSING: (Reason.TASK_NOT_FOUND, "the task's row was deleted"),
}


def plan(
    runs: Iterable[UnfinishedRun], observed: Mapping[str, Observation], policy: Policy
) -> tuple[Action, ...]:
    """All actions of one pass, in the order of the runs, strays last. A run with nothing to do has no action.

    `observed` must have been read *after* `runs`: only then does an absent run mean a lost one.
    """
    known = set[str]()
    actions: list[Action] = []
    for run in runs:
        known.add(run.name)
        action = _decide(run, observed.get(run.name), policy)
        if action is not None:
            actions.append(action)
    for name, observation in observed.items():
        if name not in known:
            actions.append(StopOrphan(name) if _is_live(observation) else DiscardOrphan(name))
    return tuple(actions)


def _decide(run: UnfinishedRun, seen: Observation | None, policy: Policy) -> Action | None:
    if run.state is RunState.STOPPING:
        return _decide_stopping(run, seen)
    if run.task is TaskState.ENROLLED:
        return _decide_enrolled(run, seen, policy)
    if run.task is TaskState.UNKNOWN:
        return _decide_unknown(run, seen)
    return _decide_withdrawn(run, seen)


def _is_live(seen: Observation | None) -> bool:
    return seen is not None and seen.phase in (Phase.LIVE, Phase.STUCK)


def _decide_stopping(run: UnfinishedRun, seen: Observation | None) -> Action:
    reason = run.stop_reason or Reason.STOPPED
    if _is_live(seen):
        return Stop(run, reason, run.stop_message)
    outcome = Outcome.FAILED if reason in NOT_BEGUN else Outcome.REVOKED
    return Record(run, outcome, reason, run.stop_message, seen.report if seen else None)


def _decide_unknown(run: UnfinishedRun, seen: Observation | None) -> Action:
    message = unexpected_status_message(run.task_status)
    if _is_live(seen):
        return Stop(run, Reason.UNEXPECTED_STATUS, message, fail_task=True)
    return Record(run, Outcome.FAILED, Reason.UNEXPECTED_STATUS, message, task_to=TaskState.FAILED)


def _decide_withdrawn(run: UnfinishedRun, seen: Observation | None) -> Action:
    reason, message = _WITHDRAWN[run.task]
    if seen is None:
        return Record(run, Outcome.REVOKED, reason, message)
    if _is_live(seen):
        return Stop(run, reason, message)
    return _record_verdict(run, seen, move_task=False)


def _decide_enrolled(run: UnfinishedRun, seen: Observation | None, policy: Policy) -> Action | None:
    if seen is None:
        return _launch(run, policy) if run.state is RunState.CLAIMED else _record_lost(run, policy)
    if seen.phase is Phase.LIVE:
        return Adopt(run) if run.state is RunState.CLAIMED else None
    if seen.phase is Phase.STUCK:
        return _stop_stuck(run, seen)
    return _record_verdict(run, seen, move_task=True)


def _stop_stuck(run: UnfinishedRun, seen: Observation) -> Stop:
    reason = (seen.report.reason if seen.report else None) or Reason.NEVER_STARTED
    message = seen.report.message if seen.report else explain(reason).means
    return Stop(run, reason, message, fail_task=True)


def _record_verdict(run: UnfinishedRun, seen: Observation, *, move_task: bool) -> Record:
    report = seen.report
    if seen.phase is Phase.SUCCEEDED:
        message = report.message if report else ""
        return Record(
            run,
            Outcome.SUCCEEDED,
            None,
            message,
            report,
            TaskState.COMPLETED if move_task else None,
        )
    reason = (report.reason if report else None) or Reason.WORKER_CRASHED
    message = report.message if report else explain(reason).means
    return Record(
        run, Outcome.FAILED, reason, message, report, TaskState.FAILED if move_task else None
    )


def _record_lost(run: UnfinishedRun, policy: Policy) -> Record:
    if run.lost_before >= policy.max_lost_runs:
        message = f"the run vanished without a verdict, {run.lost_before + 1} times in all"
        return Record(run, Outcome.FAILED, Reason.LOST, message, task_to=TaskState.FAILED)
    return Record(
        run,
        Outcome.LOST,
        Reason.LOST,
        "the run vanished without a verdict; a new run_number is made",
    )


def _launch(run: UnfinishedRun, policy: Policy) -> Launch | Record:
    try:
        return Launch(run, order_for(run, policy))
    except Failure as failure:
        return Record(
            run, Outcome.FAILED, failure.reason, failure.message, task_to=TaskState.FAILED
        )


def order_for(run: UnfinishedRun, policy: Policy) -> RunOrder:
    """What the launcher is told of the run. Raises Failure if its row is not fit to run."""
    if run.email is None or not run.email.strip():
        raise Failure(
            Reason.INVALID_TASK,
            "the row has no e-mail: write the enrolled account into the e-mail column",
        )
    if run.course_url is None or not run.course_url.strip():
        raise Failure(
            Reason.INVALID_TASK, "the row has no course URL: write it into the course URL column"
        )
    check_url(run.course_url, policy.allowed_hosts)
    return RunOrder(run.name, run.task_id, run.run_number, run.course_url, cookies_name(run.email))
