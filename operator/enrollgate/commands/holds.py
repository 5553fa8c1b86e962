"""`enrollgate holds`: which tasks are not launched for now, and why."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime

import typer

from enrollgate.commands.console import settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.commands.hold_text import describe_cause, describe_end, find_remedy, name_scope
from enrollgate.commands.layout import instant, paragraph
from enrollgate.database import hold_views
from enrollgate.database.configured import build_tables
from enrollgate.database.hold_views import HoldView


def print_holds(*, closed: bool, as_json: bool) -> None:
    """Print the open holds and pauses; with `closed`, also those that ended."""
    settings = settings_or_fail()
    tables = build_tables(settings)
    with database_or_fail(settings) as database:
        now = database.now()
        found = hold_views.read_holds(
            database, tables, installation=settings.installation, closed=closed
        )
    if as_json:
        typer.echo(json.dumps([to_json(hold) for hold in found], indent=2))
    else:
        typer.echo("\n".join(render(found, now)))


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
