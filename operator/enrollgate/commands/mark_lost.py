"""`enrollgate mark-lost`: record the runs of a place that is gone for good as lost.

Without a place, it lists the places that have unfinished runs. An operator never takes a run for
lost that is recorded at another place: only a person can know that the place is gone.
"""

from contextlib import closing
from threading import Event

import typer

from enrollgate.commands.console import fail, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.common.redaction import printable
from enrollgate.database import runs
from enrollgate.database.configured import build_tables
from enrollgate.domain.planner import Record
from enrollgate.domain.reasons import Reason
from enrollgate.domain.run import Outcome, RunPlace, RunState
from enrollgate.launchers import LauncherUnavailable
from enrollgate.launchers.local.place import live_runs
from enrollgate.settings.operator import Settings


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
            places = dict[RunPlace, list[str]]()
            for run in unfinished:
                places.setdefault(run.place, []).append(run.name)
            for place, names in places.items():
                shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                line = f"{place.id}  {place}: {len(names)} unfinished ({shown})"
                typer.echo(printable(line))
            typer.echo(
                "Mark the runs of a place as lost only if it is gone for good, and none of them "
                "has a process any more: enrollgate mark-lost PLACE"
            )
            return
        chosen = [run for run in unfinished if run.place.id == place_id]
        if not chosen:
            fail(f"no unfinished run is at {place_id}: `enrollgate mark-lost` lists the places")
        where = chosen[0].place
        if live_runs(where, []) is not None:
            fail(
                f"{where} is not gone, it is this machine: start the operator there with "
                f"ENROLLGATE_WORK_DIR={where.work_dir}"
            )
        if settings.launcher == where.launcher == "kubernetes":
            _require_gone(settings, where)
        for run in chosen:
            message = f"marked as lost by hand: {run.place} is gone"
            action = Record(run, None, Outcome.LOST, Reason.LOST, message)
            if runs.record(database, tables, action) is not runs.Recorded.OVERTAKEN:
                typer.echo(f"{run.name}: marked as lost")
    typer.echo("The next pass of an operator starts new runs for tasks that are still enrolled.")


def _require_gone(settings: Settings, place: RunPlace) -> None:
    """End the command if this very namespace is in the cluster here, or if that is not known."""
    # The Kubernetes client takes a second to import.
    from enrollgate.control.wiring import (
        Misconfigured,
        NoCluster,
        build_kubernetes_launcher,
        build_random,
    )

    try:
        launcher = build_kubernetes_launcher(settings, random=build_random(), stopped=Event())
        with closing(launcher):
            is_here = launcher.namespace == place.place_id and launcher.place.can_observe(place)
    except NoCluster:
        return
    except (Misconfigured, LauncherUnavailable) as error:
        fail(f"whether {place} is in this cluster cannot be seen now: {error}")
    if is_here:
        fail(
            f"{place} with the UID {place.id} is not gone, it is in this cluster: the operator "
            "here records its runs by itself (`enrollgate explain TASK`)"
        )
