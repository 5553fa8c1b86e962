"""`enrollgate logs TASK`: the log of a run, from its folder or from its pods."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import typer

from enrollgate.commands.console import fail, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.commands.explain import parse_task
from enrollgate.common.redaction import printable
from enrollgate.database.queries import RunView, runs_of_task
from enrollgate.domain.run import RunState, parse_run_name
from enrollgate.settings.operator import Settings

# Seconds between two questions whether a run that is followed has begun.
_POLL = 1.0


def print_log(text: str, number: int | None, *, follow: bool) -> None:
    """Print the log of the task's last run, or of run `number`. Ends with 1 if there is none."""
    settings = settings_or_fail()
    task_id = parse_task(text, settings)
    named = parse_run_name(settings.installation, text)
    number = number or (named[1] if named else None)
    with database_or_fail(settings) as database:
        found = runs_of_task(database, task_id)
    run = next((run for run in found if number in (None, run.run_number)), None)
    if run is None:
        which = "" if number is None else f" {number}"
        known = ", ".join(str(run.run_number) for run in found) or "none"
        fail(
            f"task {task_id} has no run{which} (its runs: {known}): `enrollgate explain {task_id}` "
            "says why",
            1,
        )
    if run.launcher is None:
        fail(f"{run.name} was never launched, so it has no log: {run.reason}: {run.message}", 1)
    try:
        for line in _lines(run, settings, follow=follow):
            typer.echo(printable(line.expandtabs()))
    except KeyboardInterrupt:
        pass


def _lines(run: RunView, settings: Settings, *, follow: bool) -> Iterator[str]:
    ended = f" What is known: {run.reason}: {run.message}." if run.reason else ""
    if run.launcher == "kubernetes":
        # The Kubernetes client takes a second to import.
        from enrollgate.launchers.kubernetes.pod_log import NoPodLog, read_pod_logs

        try:
            yield from read_pod_logs(run.place_id or "", run.name, follow=follow)
        except NoPodLog as error:
            fail(
                f"{run.name} in namespace {run.place_id}: {error}.{ended} `enrollgate explain "
                f"{run.task_id}` says more. A Job and its log are kept for ENROLLGATE_RUN_TTL; "
                f"after that, ask your cluster's log store for pods named {run.name}-*",
                1,
            )
        return
    from enrollgate.launchers.local.run_log import find_log, read_log

    work_dir = Path(run.work_dir or settings.work_dir)
    is_unfinished = run.state != RunState.FINISHED.value
    path = find_log(work_dir, run.name)
    while path is None and follow and is_unfinished and run.host == socket.gethostname():
        time.sleep(_POLL)
        path = find_log(work_dir, run.name)
    if path is None:
        where = f"{run.name} ran at {run.where}"
        if run.host and run.host != socket.gethostname():
            fail(f"{where}, which is not this machine: run this command there.{ended}", 1)
        fail(
            f"{where}, and its log is not there (any more): it is deleted ENROLLGATE_RUN_TTL after "
            f"the run's end.{ended}",
            1,
        )
    try:
        yield from read_log(path, follow=follow, sleep=time.sleep)
    except OSError as error:
        fail(f"{path}: {error.strerror}: run this command as the operator's user", 1)
