"""`enrollgate pause`, `resume`, `holds` and `release`: which tasks are not launched for now."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from urllib.parse import urlsplit

import typer
from pydantic import TypeAdapter, ValidationError

from enrollgate.commands.console import fail, find_actor, say, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.commands.hold_text import describe_cause, describe_end, find_remedy, name_scope
from enrollgate.commands.layout import instant, paragraph
from enrollgate.database import steering
from enrollgate.database.configured import build_tables
from enrollgate.database.steering import HoldView, Steering
from enrollgate.domain.account import account_sha256, mask_account
from enrollgate.domain.holds import Scope
from enrollgate.domain.hosts import normal_host
from enrollgate.settings.types import Seconds


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
        still = steering.read_holds(database, tables, installation=settings.installation)
    if found is None:
        what = {Scope.ACCOUNT: "this account", Scope.HOST: f"the host {subject}"}.get(
            scope, "the installation"
        )
        fail(f"no pause of {what} is open: `enrollgate holds` lists those that are", 1)
    say(f"The pause of {name_scope(_named(found, account))} is over.")
    _say_what_follows(found, still)


def print_holds(*, closed: bool, as_json: bool) -> None:
    """Print the open holds and pauses; with `closed`, also those that ended."""
    settings = settings_or_fail()
    tables = build_tables(settings)
    with database_or_fail(settings) as database:
        now = database.now()
        found = steering.read_holds(
            database, tables, installation=settings.installation, closed=closed
        )
    if as_json:
        typer.echo(json.dumps([to_json(hold) for hold in found], indent=2))
    else:
        typer.echo("\n".join(render(found, now)))


def release(hold_id: int, *, actor: str | None) -> None:
    """Close a hold or a pause at once. Ends with 1 if it is not open."""
    who = find_actor(actor)
    settings = settings_or_fail()
    tables, mine = build_tables(settings), settings.installation
    with database_or_fail(settings) as database:
        by = Steering(database, tables, mine, who)
        released = steering.release(by, hold_id)
        found = released or steering.read_hold(database, tables, hold_id, installation=mine)
        still = steering.read_holds(database, tables, installation=mine)
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


def render(found: list[HoldView], now: datetime) -> Iterator[str]:
    """Yield the holds as lines of 80 columns, newest first."""
    if not found:
        yield "No hold is open, and nothing is paused."
    for number, hold in enumerate(found):
        yield from ("",) if number else ()
        label = "Pause" if hold.is_pause else "Hold"
        yield from paragraph(f"{label} {hold.hold_id}", name_scope(hold), indent=0)
        yield from paragraph("why", describe_cause(hold, now), outside=True)
        if hold.closed_at is not None:
            closed = f"{instant(hold.closed_at)} (UTC) by {hold.closed_by}"
            yield from paragraph("closed", closed, outside=True)
            continue
        yield from paragraph("next", describe_end(hold, now))
        yield from paragraph("waiting", f"{hold.tasks} {'task' if hold.tasks == 1 else 'tasks'}")
        yield from paragraph("what to do", find_remedy(hold), outside=True)


def to_json(hold: HoldView) -> dict[str, object]:
    """Return a hold as plain data; instants are in ISO 8601, UTC. The account is masked."""
    return {
        key: value.isoformat() + "Z" if isinstance(value, datetime) else value
        for key, value in asdict(hold).items()
    }


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
