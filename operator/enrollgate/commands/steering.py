"""`enrollgate retry` and `enrollgate cancel`: set failed tasks back, and end tasks by hand."""

from datetime import timedelta
from difflib import get_close_matches

import typer

from enrollgate.commands.console import fail, find_actor, say, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.commands.explain import parse_task
from enrollgate.commands.holds import parse_seconds
from enrollgate.common.redaction import printable
from enrollgate.database import RowHeld, RowRefused, steering
from enrollgate.database.configured import build_tables
from enrollgate.database.steering import Cancelled, FailedFor, Steering
from enrollgate.domain.account import account_sha256
from enrollgate.domain.reasons import Reason

# Ids that one line names, at most.
_NAMED = 20


def retry(
    tasks: list[str],
    *,
    reason: str | None,
    since: str,
    account: str | None,
    dry_run: bool,
    actor: str | None,
) -> None:
    """Set these failed tasks back to `enrolled`, or those that failed for a reason.

    Ends with 1 if the database refuses one of them, or if none of the named ones has failed.
    """
    who = find_actor(actor)
    if bool(tasks) == (reason is not None):
        fail("name the tasks, or give --reason (with --since, --account): which are to be retried?")
    if tasks and account is not None:
        fail("--account goes with --reason: it narrows down which tasks are found")
    wanted = None
    if reason is not None:
        if reason not in set(Reason):
            close = get_close_matches(reason, [each.value for each in Reason], 1)
            hint = f"did you mean {close[0]}?" if close else "`enrollgate reasons` lists them all"
            fail(f"--reason {reason!r} is none: {hint}")
        seconds = timedelta(seconds=parse_seconds("--since", since))
        wanted = FailedFor(Reason(reason), seconds, account_sha256(account) if account else None)
    settings = settings_or_fail()
    tables = build_tables(settings)
    ids = [parse_task(task, settings) for task in tasks]
    enrolled, failed = repr(tables.statuses.enrolled), repr(tables.statuses.failed)
    with database_or_fail(settings) as database:
        by = Steering(database, tables, settings.installation, who)
        if wanted is not None:
            ids = steering.find_failed(database, tables, wanted)
        if dry_run:
            ids = steering.keep_failed(database, tables, ids)
            say(f"{_count(ids)} would be set from {failed} to {enrolled}{_list(ids)}")
            return
        detail = f"{reason} within {since}" if reason else ""
        done = steering.retry(by, ids, detail)
    say(f"{_count(done.enrolled)} set from {failed} to {enrolled}{_list(done.enrolled)}")
    if done.not_failed:
        left = f"{_count(done.not_failed)} left alone, since no row has this id and is {failed}"
        say(f"{left}{_list(done.not_failed)}")
    for task_id, problem in list(done.refused.items())[:_NAMED]:
        say(f"task {task_id}: {printable(problem)}", err=True)
    if done.refused or (tasks and not done.enrolled):
        raise typer.Exit(1)


def cancel(tasks: list[str], *, actor: str | None) -> None:
    """Fail these tasks, and stop their runs. Ends with 1 if one of them is not cancelled."""
    who = find_actor(actor)
    settings = settings_or_fail()
    tables = build_tables(settings)
    ids = dict.fromkeys(parse_task(task, settings) for task in tasks)
    failed, is_all = repr(tables.statuses.failed), True
    said = {
        Cancelled.STOPPING: f"{failed}; the operator stops its run in its next pass",
        Cancelled.FAILED: f"{failed}; it had no live run",
        Cancelled.MISSING: f"not cancelled: {tables.columns.table} has no row with this id",
        Cancelled.FINISHED: "not cancelled: it is completed or failed already",
        Cancelled.UNKNOWN: "not cancelled: its status is none of the configured ones, so it is "
        "ignored anyway",
        Cancelled.ENDED: "not cancelled: its run has ended, and the database refuses its status "
        "(`enrollgate explain`)",
    }
    with database_or_fail(settings) as database:
        by = Steering(database, tables, settings.installation, who)
        for task_id in ids:
            try:
                result = steering.cancel(by, task_id)
            except (RowHeld, RowRefused) as error:
                say(f"task {task_id}: not cancelled: {printable(str(error))}", err=True)
                is_all = False
                continue
            is_all &= result in (Cancelled.STOPPING, Cancelled.FAILED)
            say(f"task {task_id}: {said[result]}")
    if not is_all:
        raise typer.Exit(1)


def _count(ids: list[int]) -> str:
    return f"{len(ids)} {'task' if len(ids) == 1 else 'tasks'}"


def _list(ids: list[int]) -> str:
    """Return the first ids for the end of a sentence."""
    more = ", ..." if len(ids) > _NAMED else ""
    return f": {', '.join(map(str, ids[:_NAMED]))}{more}" if ids else ""
