"""Holds: when a failure speaks for more than its own task, the others of its kind wait.

A hold limits the runs in its scope: an account, a host, the destination or the whole installation.
At first none is allowed. After a pause, one *probe* run is let through; the pauses grow. If a probe
fails for the hold's reason, its task stays enrolled: the failure speaks for the scope. Each run
that succeeds doubles what is allowed, until the hold closes. So the held tasks come in growing
steps.

A pause is the same, opened by a person: nothing is allowed until it is closed or over.

All functions here are pure; `control.holding` carries out what they decide.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from enrollgate.domain.hold import Ended, Hold, HoldKind, Scope
from enrollgate.domain.planner import Action, Record, Stop
from enrollgate.domain.policy import HoldPolicy
from enrollgate.domain.reasons import Reason, explain
from enrollgate.domain.run import Outcome, UnfinishedRun

# The reason of a pause.
PAUSED = "Paused"
# How a remedy ends that tells what to do with a failed task.
_SET_BACK = " Then set `enrolled` again."
# What each reason speaks for.
SCOPES = {
    Reason.COOKIES_EXPIRED: Scope.ACCOUNT,
    Reason.COOKIES_MISSING: Scope.ACCOUNT,
    Reason.COOKIES_UNREADABLE: Scope.ACCOUNT,
    Reason.ACCESS_DENIED: Scope.ACCOUNT,
    Reason.RATE_LIMITED: Scope.HOST,
    Reason.BOT_CHECK: Scope.HOST,
    Reason.SITE_ERROR: Scope.HOST,
    Reason.NETWORK_ERROR: Scope.HOST,
    Reason.DESTINATION_QUOTA: Scope.DESTINATION,
    Reason.DESTINATION_AUTH: Scope.DESTINATION,
    Reason.DESTINATION_NOT_FOUND: Scope.DESTINATION,
    Reason.DESTINATION_RATE_LIMITED: Scope.DESTINATION,
    Reason.IMAGE_PULL_BACK_OFF: Scope.INSTALLATION,
    Reason.CREATE_CONTAINER_CONFIG_ERROR: Scope.INSTALLATION,
    Reason.DISK_FULL: Scope.INSTALLATION,
}
# These may also concern one course alone: several tasks in a row must fail so.
REPEATED = frozenset(
    {
        Reason.ACCESS_DENIED,
        Reason.RATE_LIMITED,
        Reason.BOT_CHECK,
        Reason.SITE_ERROR,
        Reason.NETWORK_ERROR,
        Reason.DISK_FULL,
    }
)


def find_subject(scope: Scope, run: UnfinishedRun) -> str | None:
    """Return the subject of a hold of this scope that covers the run; None if it has none."""
    match scope:
        case Scope.ACCOUNT:
            return run.account or None
        case Scope.HOST:
            return run.course_host or None
    return ""


def count_in_a_row(ended: Iterable[Ended], reason: Reason, task_id: int) -> int:
    """Return how many tasks have failed for this reason in a row, this one included.

    `ended` are the last runs of the scope, the last one first. Runs that were revoked or lost say
    nothing.
    """
    tasks = {task_id}
    for run in ended:
        if run.outcome in (Outcome.REVOKED, Outcome.LOST):
            continue
        if run.outcome is not Outcome.FAILED or run.reason != reason.value:
            break
        tasks.add(run.task_id)
    return len(tasks)


def failure(action: Action) -> Reason | None:
    """Return why the run of this action has failed; None if it has not, or its task is over."""
    if isinstance(action, Record):
        is_failure = action.outcome is Outcome.FAILED and action.move_task
        return action.reason if is_failure else None
    return action.reason if isinstance(action, Stop) and action.fail_task else None


def find_hold(holds: Iterable[Hold], run: UnfinishedRun, reason: Reason) -> Hold | None:
    """Return the open hold that this failure belongs to: of its reason and scope."""
    for hold in holds:
        is_of_reason = hold.kind is HoldKind.HOLD and hold.reason == reason.value
        if is_of_reason and hold.covers(run.account, run.course_host):
            return hold
    return None


def open_hold(
    action: Record | Stop, in_a_row: int, policy: HoldPolicy, now: datetime
) -> Hold | None:
    """Return the hold that this failure opens; None if it opens none.

    `in_a_row` is how many tasks of the scope have failed so in a row, this one included.
    """
    run, reason = action.run, action.reason
    if reason is None or reason not in SCOPES or not policy.is_on:
        return None
    if reason in REPEATED and in_a_row < policy.threshold:
        return None
    scope = SCOPES[reason]
    if (subject := find_subject(scope, run)) is None:
        return None
    return Hold(
        kind=HoldKind.HOLD,
        scope=scope,
        subject=subject,
        reason=reason.value,
        opened_at=now,
        message=action.message,
        # The tasks that read it here are `enrolled` still.
        remedy=(action.remedy or explain(reason).remedy).removesuffix(_SET_BACK),
        run_name=run.name,
        probe_at=now + _pause(policy, 0, reason, _retry_after(action), now),
        ends_at=now + timedelta(seconds=policy.limit),
    )


def after_failure(hold: Hold, action: Record | Stop, policy: HoldPolicy, now: datetime) -> Hold:
    """Return the hold after another run in its scope has failed for its reason.

    Runs that were claimed before it say nothing new.
    """
    if action.run.claimed_at is None or action.run.claimed_at <= hold.opened_at:
        return hold
    probes = hold.probes + 1
    pause = _pause(policy, probes, Reason(hold.reason), _retry_after(action), now)
    return replace(hold, allowed=0, probes=probes, probe_at=now + pause)


def after_other_failure(hold: Hold, run: UnfinishedRun, policy: HoldPolicy, now: datetime) -> Hold:
    """Return the hold after a run in its scope has failed for another reason: the next probe."""
    if hold.allowed or run.claimed_at is None or run.claimed_at <= hold.opened_at:
        return hold
    return replace(hold, probe_at=now + timedelta(seconds=policy.pause))


def after_success(hold: Hold, run: UnfinishedRun) -> Hold:
    """Return the hold after a run in its scope has succeeded: twice as many are allowed."""
    if run.claimed_at is None or run.claimed_at <= hold.opened_at:
        return hold
    return replace(hold, allowed=2 * max(1, hold.allowed))


def keep_enrolled(action: Record | Stop) -> Record | Stop:
    """Return the action without the failure of its task."""
    if isinstance(action, Stop):
        return replace(action, fail_task=False)
    return replace(action, move_task=False)


def _retry_after(action: Record | Stop) -> float:
    report = action.report if isinstance(action, Record) else action.observation.report
    return (report.retry_after if report else None) or 0.0


def _pause(
    policy: HoldPolicy, probes: int, reason: Reason, retry_after: float, now: datetime
) -> timedelta:
    """Return the time until the next probe."""
    seconds = min(policy.longest_pause, policy.pause * 2.0 ** min(probes, 64))
    if reason is Reason.DESTINATION_RATE_LIMITED and not probes:
        # Google Drive counts what a user uploads by the day:
        # https://support.google.com/a/answer/172541
        tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        seconds = max(seconds, (tomorrow - now).total_seconds())
    return timedelta(seconds=max(seconds, min(retry_after, policy.limit)))
