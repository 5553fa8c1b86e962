"""What people do: `enrollgate pause`, `resume`, `release`, `retry` and `cancel`."""

from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from urllib.parse import urlsplit

import typer
from pydantic import TypeAdapter, ValidationError

from enrollgate.commands.console import fail, find_actor, say, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.commands.explain import parse_task
from enrollgate.commands.hold_text import name_scope
from enrollgate.commands.layout import instant
from enrollgate.common.redaction import printable
from enrollgate.database import RowHeld, RowRefused, hold_views, steering
from enrollgate.database.configured import build_tables
from enrollgate.database.hold_views import HoldView
from enrollgate.database.steering import Cancelled, FailedFor, Steering
from enrollgate.domain.account import account_sha256, mask_account
from enrollgate.domain.hold import Scope
from enrollgate.domain.hosts import normal_host
from enrollgate.domain.reasons import Reason
from enrollgate.settings.types import Seconds

# Ids that one line names, at most.
_NAMED = 20


def pause(
    account: str | None, host: str | None, *, time: str | None, why: str, actor: str | None
) -> None:
    """Launch nothing of an account, of a host or at all, until it is resumed or over."""
    (scope, subject), who = parse_scope(account, host), find_actor(actor)
    settings = settings_or_fail()
    seconds = settings.hold_limit if time is None else parse_seconds("--for", time)
    tables = build_tables(settings)
    with database_or_fail(settings) as database:
        by = Steering(database, tables, settings.installation, who)
        found, is_new = steering.pause(by, scope, subject, seconds=seconds, why=why)
        enrolled = steering.count_enrolled(database, tables, scope, subject)
    shown, did = name_scope(_named(found, account)), "is paused" if is_new else "was paused already"
    say(f"{shown} {did}, until {found.ends_at and instant(found.ends_at)} (UTC).")
    say(
        f"{enrolled} enrolled {'task is' if enrolled == 1 else 'tasks are'} in it. Live runs go "
        "on, and no further run is launched."
    )
    option = f" --account {account}" if account else f" --host {subject}" if host else ""
    say(f"To end it: enrollgate resume{option}")


def resume(account: str | None, host: str | None, *, actor: str | None) -> None:
    """End a pause. Ends with 1 if there is none of this scope."""
    (scope, subject), who = parse_scope(account, host), find_actor(actor)
    settings = settings_or_fail()
    tables = build_tables(settings)
    with database_or_fail(settings) as database:
        by = Steering(database, tables, settings.installation, who)
        found = steering.resume(by, scope, subject)
        still = hold_views.read_holds(database, tables, installation=settings.installation)
    if found is None:
        what = {Scope.ACCOUNT: "this account", Scope.HOST: f"the host {subject}"}.get(
            scope, "the installation"
        )
        fail(f"no pause of {what} is open: `enrollgate holds` lists those that are", 1)
    say(f"The pause of {name_scope(_named(found, account))} is over.")
    _say_what_follows(found, still)


def release(hold_id: int, *, actor: str | None) -> None:
    """Close a hold or a pause at once. Ends with 1 if it is not open."""
    who = find_actor(actor)
    settings = settings_or_fail()
    tables, mine = build_tables(settings), settings.installation
    with database_or_fail(settings) as database:
        by = Steering(database, tables, mine, who)
        released = steering.release(by, hold_id)
        found = released or hold_views.read_hold(database, tables, hold_id, installation=mine)
        still = hold_views.read_holds(database, tables, installation=mine)
    if released is not None:
        what = "Pause" if released.is_pause else "Hold"
        say(f"{what} {hold_id} of {name_scope(released)} is closed.")
        _say_what_follows(released, still)
    elif found is None or found.closed_at is None:
        fail(f"there is no hold {hold_id}: `enrollgate holds --all` lists them", 1)
    else:
        fail(
            f"hold {hold_id} was closed at {instant(found.closed_at)} (UTC) by {found.closed_by}", 1
        )


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


def parse_scope(account: str | None, host: str | None) -> tuple[Scope, str]:
    """Return what `--account` and `--host` name, and its subject in the table."""
    if account is not None and host is not None:
        fail("give --account or --host, not both: a pause is about one of them")
    if account is not None:
        if not account.strip():
            fail("--account is empty: write the e-mail address as it is in the row")
        return Scope.ACCOUNT, account_sha256(account)
    if host is None:
        return Scope.INSTALLATION, ""
    try:
        parts = urlsplit(host.strip() if "//" in host else f"//{host.strip()}")
        name = normal_host(parts.hostname or "")
    except ValueError:
        name = ""
    if not name or any(character.isspace() for character in name):
        fail(f"--host {host!r} names no host: write it as in the course URLs, courses.example.com")
    return Scope.HOST, name


def parse_seconds(option: str, text: str) -> float:
    """Return a time such as `90`, `30m`, `2h` or `1d` in seconds."""
    try:
        return TypeAdapter(Seconds).validate_python(text)
    except ValidationError as error:
        fail(f"{option} {text!r}: {error.errors()[0]['msg']}. Write a time such as 90s, 30m or 2h")


def _named(hold: HoldView, account: str | None) -> HoldView:
    """Return the hold with its account masked, also if no task of it is known."""
    return replace(hold, account=mask_account(account)) if account else hold


def _say_what_follows(closed: HoldView, still: list[HoldView]) -> None:
    """Say when the tasks are launched, and what else may hold them back."""
    say("Its tasks are launched as slots become free.")
    if not closed.is_pause:
        say("If the cause is not gone, their failure opens a new hold.")
    if still:
        say(f"Still open: {len(still)}. `enrollgate holds` shows what else waits, and why.")


def _count(ids: list[int]) -> str:
    return f"{len(ids)} {'task' if len(ids) == 1 else 'tasks'}"


def _list(ids: list[int]) -> str:
    """Return the first ids for the end of a sentence."""
    more = ", ..." if len(ids) > _NAMED else ""
    return f": {', '.join(map(str, ids[:_NAMED]))}{more}" if ids else ""
