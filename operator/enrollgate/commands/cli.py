"""The command `enrollgate`. Each command is a few lines: read the settings, call the part that does the work, say how it went.

Exit codes: 0 all well; 1 an error, or a check failed; 2 the command line, a setting or the database is wrong. `work` has its
own, in docs/reasons.md.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from enrollgate import version as installed_version
from enrollgate.common.redaction import printable
from enrollgate.common.signals import obey_signals
from enrollgate.settings.loading import SettingsError, load_settings, load_worker_settings
from enrollgate.settings.operator import Settings

app = typer.Typer(
    name="enrollgate",
    help="Turns enrolled task rows into downloaded courses: one run per task, and only after the database shows `enrolled`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
drive_app = typer.Typer(help="Google Drive as destination.", no_args_is_help=True)
app.add_typer(drive_app, name="drive")
_OUT = Console(emoji=False)
_ERR = Console(stderr=True, emoji=False)
_WATCH_INTERVAL = 2.0
"""Seconds between two looks of `status --watch`."""
_STOP_SHARE = 0.9
"""Of the time until it would be killed, what a worker that has been asked to stop may use. Then it leaves, with a report."""
_MARKS = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "failed": "[red]failed [/]"}


def main() -> None:
    """The entry point."""
    app()


def _give_up(problem: object, code: int = 2) -> NoReturn:
    _ERR.print(f"[red]enrollgate:[/] {escape(str(problem))}", soft_wrap=True)
    raise typer.Exit(code)


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        _give_up(error)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Say the version."""
    if show:
        _OUT.print(f"enrollgate {installed_version()}")
        raise typer.Exit


@app.command()
def run() -> None:
    """Run the operator until it is told to stop (SIGTERM, Ctrl-C)."""
    from enrollgate.control.wiring import Misconfigured, run_operator
    from enrollgate.database import DatabaseMisconfigured
    from enrollgate.telemetry.http import PortUnavailable
    from enrollgate.telemetry.logging import configure_logging

    settings = _settings()
    configure_logging(settings.log_format, settings.log_level)
    try:
        if settings.launcher == "kubernetes":
            from enrollgate.control.kopf_controller import Crashed, run_in_cluster

            try:
                run_in_cluster(settings)
            except Crashed as error:
                _give_up(error, 1)
        else:
            run_operator(settings)
    except (DatabaseMisconfigured, Misconfigured, PortUnavailable) as error:
        _give_up(error)


@app.command()
def migrate() -> None:
    """Create or upgrade the two tables that Enrollgate owns. Additive, and harmless to repeat."""
    from enrollgate.control.wiring import build_database
    from enrollgate.database import DatabaseMisconfigured, DatabaseUnavailable
    from enrollgate.database import migrate as migrate_database

    database = build_database(_settings())
    try:
        before, after = migrate_database(database)
    except DatabaseMisconfigured as error:
        _give_up(error)
    except DatabaseUnavailable as error:
        _give_up(error, 1)
    finally:
        database.close()
    done = f"already at revision {after}" if before == after else f"migrated to revision {after}"
    _OUT.print(f"{database.place}: {done}", markup=False, soft_wrap=True)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing it, every two seconds.")
    ] = False,
) -> None:
    """Show tasks by status, unfinished runs with their progress, and the latest failures with their remedies."""
    from enrollgate.commands import status as view
    from enrollgate.control.wiring import build_database, build_tables
    from enrollgate.database import DatabaseMisconfigured, DatabaseUnavailable
    from enrollgate.launchers.local.run_directory import read_progress

    settings = _settings()
    database, tables = build_database(settings), build_tables(settings)

    def look() -> view.Overview:
        return view.look(database, tables, lambda name: read_progress(settings.work_dir, name))

    try:
        if as_json:
            print(json.dumps(view.as_json(look()), indent=2))  # noqa: T201 -- for programs: no colours, no wrapping
        elif watch:
            _watch(lambda: view.render(look(), tables))
        else:
            _OUT.print(view.render(look(), tables))
    except KeyboardInterrupt:
        pass
    except DatabaseMisconfigured as error:
        _give_up(error)
    except DatabaseUnavailable as error:
        _give_up(error, 1)
    finally:
        database.close()


def _watch(look: Callable[[], RenderableType]) -> NoReturn:
    """Shows it again and again. A database that is away for a while is said, and waited for."""
    from enrollgate.database import DatabaseUnavailable

    shown: RenderableType = ""
    with Live(console=_OUT, auto_refresh=False) as live:
        while True:
            try:
                shown = news = look()
            except DatabaseUnavailable as error:
                news = Group(
                    shown, Text(f"the database is away, and is asked again: {error}", style="red")
                )
            if _OUT.is_terminal:
                live.update(news, refresh=True)
            else:
                _OUT.print(news)
            time.sleep(_WATCH_INTERVAL)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check the database, the task table, the destination and the tools: one line each, with the remedy."""
    from dataclasses import asdict

    from enrollgate.commands.doctor import examine

    checks = []
    for check in examine(_settings()):
        checks.append(check)
        if not as_json:
            remedy = (
                f"\n          [dim]→[/] {escape(printable(check.remedy))}" if check.remedy else ""
            )
            detail = escape(printable(check.detail))
            _OUT.print(f"{_MARKS[check.severity]} {check.name}: {detail}{remedy}", soft_wrap=True)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))  # noqa: T201 -- as above
    raise typer.Exit(1 if any(check.severity == "failed" for check in checks) else 0)


@app.command()
def work(  # noqa: PLR0917 -- each is an environment variable that a launcher sets
    task_id: Annotated[int, typer.Option(envvar="ENROLLGATE_TASK_ID", help="The task.")],
    course_url: Annotated[str, typer.Option(envvar="ENROLLGATE_COURSE_URL", help="The course.")],
    scratch_dir: Annotated[
        Path, typer.Option(envvar="ENROLLGATE_SCRATCH_DIR", help="Where files are downloaded to.")
    ],
    report_path: Annotated[
        Path, typer.Option(envvar="ENROLLGATE_REPORT_PATH", help="Where the report goes.")
    ] = Path("/dev/termination-log"),
    run_number: Annotated[
        int, typer.Option(envvar="ENROLLGATE_RUN_NUMBER", help="The run's number.")
    ] = 1,
    cookies_name: Annotated[
        str, typer.Option(envvar="ENROLLGATE_COOKIES_NAME", help="The account's cookies file.")
    ] = "cookies.txt",
    attempt: Annotated[
        int | None,
        typer.Option(
            "--attempt", envvar="ENROLLGATE_ATTEMPT", help="Which attempt this is, counted from 1."
        ),
    ] = None,
    failed_attempts: Annotated[
        int,
        typer.Option(
            envvar="ENROLLGATE_FAILED_ATTEMPTS",
            help="The same, told as how many have failed before.",
        ),
    ] = 0,
    max_attempts: Annotated[
        int, typer.Option(envvar="ENROLLGATE_MAX_ATTEMPTS", help="Of how many.")
    ] = 1,
    progress_path: Annotated[
        Path | None,
        typer.Option(envvar="ENROLLGATE_PROGRESS_PATH", help="Where the progress is kept."),
    ] = None,
) -> None:
    """Download one course and deliver it: what a launcher starts. It never asks whether the task is enrolled."""
    from enrollgate import worker
    from enrollgate.domain.reasons import Reason, exit_code
    from enrollgate.domain.report import Report
    from enrollgate.worker.order import WorkOrder

    try:
        settings = load_worker_settings()
    except SettingsError as error:
        worker.write_report(report_path, Report(Reason.CONFIGURATION_ERROR, str(error)))
        _give_up(error)
    order = WorkOrder(
        task_id=task_id,
        run_number=run_number,
        attempt=failed_attempts + 1 if attempt is None else attempt,
        max_attempts=max_attempts,
        course_url=course_url,
        cookies_name=cookies_name,
        scratch_dir=scratch_dir,
        report_path=report_path,
        progress_path=progress_path,
        settings=settings,
    )
    stop = threading.Event()

    def obey(_signal: str) -> None:
        stop.set()
        time.sleep(settings.stop_grace * _STOP_SHARE)
        # What hangs in a silent connection cannot be asked to stop; its partial file is resumed by the next try.
        try:
            worker.write_report(
                report_path, Report(Reason.STOPPED, "asked to stop; what was begun is resumed")
            )
        finally:
            os._exit(exit_code(Reason.STOPPED))

    obey_signals(obey)
    report = worker.work(order, stop=stop)
    try:
        worker.write_report(report_path, report)
    except OSError as error:  # a full disk: the exit code still says whether a retry can help
        _ERR.print(f"the report could not be written: {error.strerror}", markup=False)
    sys.exit(exit_code(report.reason))


@drive_app.command()
def login(
    client_secrets: Annotated[
        Path, typer.Option(help="The JSON of your OAuth client (type: desktop app).")
    ],
    output: Annotated[
        Path, typer.Option(help="Where the login is written, readable by you only.")
    ] = Path("login.json"),
    port: Annotated[
        int, typer.Option(help="The loopback port that Google's answer comes to; 0: any free one.")
    ] = 0,
) -> None:
    """Log in as a user, and write the file for ENROLLGATE_DRIVE_CREDENTIALS (docs/destinations.md has the steps)."""
    from enrollgate.worker.destinations.drive.login import LoginRefused, log_in

    try:
        log_in(client_secrets, output, port, lambda text: _OUT.print(text, markup=False))
    except OSError as error:
        _give_up(
            f"{error.filename or output}: {error.strerror or error.__class__.__name__}: mend it and log in again",
            1,
        )
    except LoginRefused as error:
        _give_up(error, 1)
    except ValueError:
        _give_up(
            f"{client_secrets} is not the JSON of an OAuth client of the type desktop app: download it again"
        )
    _OUT.print(f"{output} is written: set ENROLLGATE_DRIVE_CREDENTIALS to it", markup=False)
