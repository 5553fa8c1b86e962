"""The planner: decides what to do about each unfinished run.

It decides by the run's row, its task and what the launcher observed.

`plan` is a pure function: no I/O, no clock. This is the matrix it implements, task by launcher:

| task is | absent, claimed | absent, launched | live | succeeded | failed |
| --- | --- | --- | --- | --- | --- |
| enrolled | Launch or reject | Record lost or failed | Adopt if claimed | Complete | Fail |
| changed | Record revoked | Record revoked | Stop | Record revoked | Record revoked |
| other | Record revoked | Record revoked | Stop | Record the result | Record the result |
| unknown | Record failed, fail task | the same | Stop, fail task | as if absent | as if absent |

"Changed" is enrolled or unknown, with another e-mail or course URL than was claimed: the row then
gets a run of its own. "Other" is waiting, completed, failed or missing.

A live run that cannot go on now, since its node is lost, is left alone. Only the cause is written
down, and removed once it goes on.

A live run that is *stuck* (it did not start in time) is stopped, and its task fails, if the task is
enrolled.

A run in state `ended` needs only its task moved, if that is still enrolled.

A run in state `stopping` is stopped again while it is live. Once it has ended it is recorded as
revoked (as failed if it never started), whatever its task says by then. A run at the launcher
without an unfinished row is an orphan: it is stopped while live, then discarded. So is a run of an
unfinished row's name that was launched for another claim (the database was restored). Its row is
decided about once the name is free. A run that is ending is never adopted.

A run that is recorded at another place (another work directory, host, launcher or namespace) needs
no action: only an operator there can observe it. That it is not seen here means nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from enrollgate.domain.account import cookies_name
from enrollgate.domain.gate import unexpected_status_message
from enrollgate.domain.hosts import check_url
from enrollgate.domain.observation import Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import START_FAILURES, Failure, Reason, explain
from enrollgate.domain.report import Report
from enrollgate.domain.run import Outcome, RunPlace, RunState, UnfinishedRun
from enrollgate.domain.task import TaskState


@dataclass(frozen=True, slots=True)
class Launch:
    """Start the run under its name, if a last check still finds its task enrolled."""

    run: UnfinishedRun
    order: RunOrder


@dataclass(frozen=True, slots=True)
class Adopt:
    """The run exists already: record that it was launched."""

    run: UnfinishedRun
    observation: Observation


@dataclass(frozen=True, slots=True)
class Stop:
    """Record why, then stop the run.

    `fail_task` moves its task to failed in the same transaction.
    """

    run: UnfinishedRun
    observation: Observation
    reason: Reason
    message: str
    remedy: str = ""
    fail_task: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Finish the run in the database; `move_task` moves its task in the same transaction.

    The task moves only if its status is still the one that the plan saw, and its content the one
    that was claimed. `observation` is what is left of the run at the launcher, if anything is.
    Without a `remedy`, the reason's own applies.
    """

    run: UnfinishedRun
    observation: Observation | None
    outcome: Outcome
    reason: Reason | None
    message: str
    remedy: str = ""
    report: Report | None = None
    move_task: bool = False

    @property
    def task_to(self) -> TaskState | None:
        """Return the state that the task moves to; None if it stays as it is."""
        if not self.move_task:
            return None
        succeeded = self.outcome is Outcome.SUCCEEDED
        return TaskState.COMPLETED if succeeded else TaskState.FAILED


@dataclass(frozen=True, slots=True)
class Finish:
    """Finish a run that has ended. Its task's status was refused before: try to write it again.

    `task_to` is None if the task needs no move any more.
    """

    run: UnfinishedRun
    task_to: TaskState | None


@dataclass(frozen=True, slots=True)
class Explain:
    """Write down why a live run cannot go on now; or, without a report, that it goes on again."""

    run: UnfinishedRun
    observation: Observation


@dataclass(frozen=True, slots=True)
class StopOrphan:
    """Stop a live run that has no unfinished row, or another claim than its row."""

    observation: Observation


@dataclass(frozen=True, slots=True)
class DiscardOrphan:
    """Discard a finished run that is recorded already."""

    observation: Observation


Action = Launch | Adopt | Stop | Record | Finish | Explain | StopOrphan | DiscardOrphan

_WITHDRAWN: dict[TaskState, tuple[Reason, str]] = {
    TaskState.WAITING: (Reason.ENROLLMENT_WITHDRAWN, "the task went back to a waiting status"),
    TaskState.FAILED: (Reason.TASK_FAILED, "the task was set to failed"),
    TaskState.COMPLETED: (Reason.TASK_COMPLETED, "the task was set to completed by someone else"),
    TaskState.MISSING: (Reason.TASK_NOT_FOUND, "the task's row was deleted"),
}
_CHANGED = "the row has another e-mail or course URL than when its run was claimed"


def plan(
    runs: Iterable[UnfinishedRun],
    observed: Mapping[str, Observation],
    policy: Policy,
    here: RunPlace,
) -> tuple[Action, ...]:
    """Return all actions of one pass, in the order of the runs, orphans last.

    A run may need no action. `here` is the place that was observed.

    `observed` must have been read *after* `runs`: only then is an absent run a lost one.
    """
    actions = list[Action]()
    orphans = dict(observed)
    for run in runs:
        seen = observed.get(run.name)
        is_orphan = seen is not None and seen.claim_id not in (None, run.claim_id)
        if not is_orphan:
            orphans.pop(run.name, None)
        elif seen is not None and seen.is_live:
            continue
        if not here.can_observe(run.place) and run.state is not RunState.ENDED:
            continue
        action = _decide(run, None if is_orphan else seen, policy, here)
        if action is not None:
            actions.append(action)
    actions += [
        StopOrphan(each) if each.is_live else DiscardOrphan(each) for each in orphans.values()
    ]
    return tuple(actions)


def is_settled(run: UnfinishedRun, seen: Observation | None) -> bool:
    """Return whether `plan` has no action for a run, as it has for most of many: it simply lives.

    This only saves time.
    """
    return (
        seen is not None
        and seen.phase is Phase.LIVE
        and seen.report is None
        and run.state is RunState.LAUNCHED
        and run.stop_reason is None
        and run.task is TaskState.ENROLLED
        and not run.is_changed
        and seen.claim_id in (None, run.claim_id)
    )


def _decide(  # noqa: PLR0911 -- one return for each cell of the matrix
    run: UnfinishedRun, seen: Observation | None, policy: Policy, here: RunPlace
) -> Action | None:
    if run.state is RunState.STOPPING:
        reason = run.stop_reason or Reason.STOPPED
        if seen is not None and seen.is_live:
            return Stop(run, seen, reason, run.stop_message)
        outcome = Outcome.FAILED if reason in START_FAILURES else Outcome.REVOKED
        report = seen.report if seen else None
        # Its task was to fail when it was stopped, and the database refused that.
        is_left = run.refusals > 0 and run.task is TaskState.ENROLLED and not run.is_changed
        return Record(
            run, seen, outcome, reason, run.stop_message, report=report, move_task=is_left
        )
    if run.state is RunState.ENDED:
        task_to = TaskState.COMPLETED if run.outcome is Outcome.SUCCEEDED else TaskState.FAILED
        is_left = run.task is TaskState.ENROLLED and not run.is_changed
        return Finish(run, task_to if is_left else None)
    if run.is_changed and run.task in (TaskState.ENROLLED, TaskState.UNKNOWN):
        reason, report = Reason.TASK_CHANGED, seen.report if seen else None
        if seen is not None and seen.is_live:
            return Stop(run, seen, reason, _CHANGED)
        return Record(run, seen, Outcome.REVOKED, reason, _CHANGED, report=report)
    if run.task is TaskState.ENROLLED:
        return _decide_enrolled(run, seen, policy, here)
    if run.task is TaskState.UNKNOWN:
        reason, message = Reason.UNEXPECTED_STATUS, unexpected_status_message(run.task_status)
        if seen is not None and seen.is_live:
            return Stop(run, seen, reason, message, fail_task=True)
        return Record(run, seen, Outcome.FAILED, reason, message, move_task=True)
    reason, message = _WITHDRAWN[run.task]
    if seen is None:
        return Record(run, None, Outcome.REVOKED, reason, message)
    if seen.is_live:
        return Stop(run, seen, reason, message)
    return _record_result(run, seen, move_task=False)


def _decide_enrolled(  # noqa: PLR0911 -- one return for each cell of the matrix
    run: UnfinishedRun, seen: Observation | None, policy: Policy, here: RunPlace
) -> Action | None:
    if seen is None:
        if run.state is RunState.CLAIMED:
            return _launch_or_reject(run, policy)
        reason, message = Reason.LOST, "the run disappeared without a result"
        if here.launcher == "local":
            was_restarted = here.boot_id != run.place.boot_id
            message = (
                "the machine was restarted during the run"
                if was_restarted
                else "the run's processes were killed (by a service manager, a stopped container, "
                "the kernel's out-of-memory killer or a person)"
            )
        if run.lost_before >= policy.max_lost_runs:
            message += f", {run.lost_before + 1} times in a row"
            return Record(run, None, Outcome.FAILED, reason, message, move_task=True)
        return Record(run, None, Outcome.LOST, reason, f"{message}; a new run follows")
    if seen.phase is Phase.LIVE:
        why = seen.report.reason if seen.report else None
        if run.state is RunState.LAUNCHED:
            return Explain(run, seen) if why is not run.stop_reason else None
        return None if seen.is_ending else Adopt(run, seen)
    if seen.phase is Phase.STUCK:
        reason = (seen.report.reason if seen.report else None) or Reason.NEVER_STARTED
        message = seen.report.message if seen.report else explain(reason).means
        remedy = seen.report.remedy if seen.report else ""
        return Stop(run, seen, reason, message, remedy, fail_task=True)
    return _record_result(run, seen, move_task=True)


def _record_result(run: UnfinishedRun, seen: Observation, *, move_task: bool) -> Record:
    """Record how the run itself ended; move its task accordingly if `move_task` is set."""
    report = seen.report
    outcome, reason = Outcome.SUCCEEDED, None
    if seen.phase is Phase.FAILED:
        outcome = Outcome.FAILED
        reason = (report.reason if report else None) or Reason.WORKER_CRASHED
    elif report is not None and (report.reason is not None or report.items_failed):
        # The worker ended well, and says that it did not. In doubt, the course is not complete.
        outcome, reason = Outcome.FAILED, report.reason or Reason.INCOMPLETE_DOWNLOAD
    message = explain(reason).means if reason else ""
    remedy = ""
    if report is not None:
        message, remedy = report.message, report.remedy
    return Record(run, seen, outcome, reason, message, remedy, report, move_task)


def _launch_or_reject(run: UnfinishedRun, policy: Policy) -> Launch | Record:
    """Launch the run, or fail its task if the row cannot be run.

    A row needs an e-mail address and a course URL that is allowed.
    """
    try:
        if run.is_ambiguous:
            message = f"several rows have the id {run.task_id}: give each row its own"
            raise Failure(Reason.INVALID_TASK, message)
        if run.email is None or not run.email.strip():
            message = "the row has no e-mail: write the enrolled account into the e-mail column"
            raise Failure(Reason.INVALID_TASK, message)
        if run.course_url is None or not run.course_url.strip():
            message = "the row has no course URL: write it into the course URL column"
            raise Failure(Reason.INVALID_TASK, message)
        course_url = run.course_url.strip()
        check_url(course_url, policy.allowed_hosts)
    except Failure as failure:
        return Record(
            run,
            None,
            Outcome.FAILED,
            failure.reason,
            failure.message,
            failure.remedy,
            move_task=True,
        )
    cookies = cookies_name(run.email)
    order = RunOrder(run.name, run.task_id, run.run_number, course_url, cookies, run.claim_id)
    return Launch(run, order)
