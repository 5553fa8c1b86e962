"""`enrollgate mark-lost`: record the runs of a place that is gone for good as lost.

Without a place, it lists the places that have unfinished runs. An operator never takes a run for
lost that is recorded at another place: only a person can know that the place is gone.
"""

import typer

from enrollgate.commands.console import fail, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.common.redaction import printable
from enrollgate.database import runs
from enrollgate.database.configured import build_tables
from enrollgate.domain.planner import Record
from enrollgate.domain.reasons import Reason
from enrollgate.domain.run import Outcome, RunPlace, RunState, UnfinishedRun
from enrollgate.launchers.local.place import live_runs


def mark_lost(place_id: str | None) -> None:
    """List the places, or record the unfinished runs of one of them as lost."""
    settings = settings_or_fail()
    tables = build_tables(settings)
    with database_or_fail(settings) as database:
        found = runs.unfinished(
            database, tables, database.now(), installation=settings.installation
        )
        # Of a run that has ended, nothing is left at its place.
        unfinished = [run for run in found if run.state is not RunState.ENDED]
        if place_id is None:
            _list(unfinished)
            return
        chosen = [run for run in unfinished if run.place.place_id == place_id]
        if not chosen:
            fail(f"no unfinished run is at {place_id}: `enrollgate mark-lost` lists the places")
        where = chosen[0].place
        if live_runs(where, []) is not None:
            fail(
                f"{where} is not gone, it is this machine: start the operator there with "
                f"ENROLLGATE_WORK_DIR={where.work_dir}"
            )
        for run in chosen:
            message = f"marked as lost by hand: {run.place} is gone"
            action = Record(run, None, Outcome.LOST, Reason.LOST, message)
            if runs.record(database, tables, action) is not runs.Recorded.OVERTAKEN:
                typer.echo(f"{run.name}: marked as lost")
    typer.echo("The next pass of an operator starts new runs for tasks that are still enrolled.")


def _list(unfinished: list[UnfinishedRun]) -> None:
    places = dict[RunPlace, list[str]]()
    for run in unfinished:
        places.setdefault(run.place, []).append(run.name)
    for place, names in places.items():
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        line = f"{place.place_id}  {place}: {len(names)} unfinished ({shown})"
        typer.echo(printable(line))
    typer.echo(
        "Mark the runs of a place as lost only if it is gone for good, and none of them has a "
        "process any more: enrollgate mark-lost PLACE"
    )
