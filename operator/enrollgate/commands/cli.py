"""The command `enrollgate`: every command with its options.

Each command imports what it needs when it runs, so that a worker does not load the operator. Exit
codes: 0 success; 1 an error, or a failed check; 2 the command line, a setting or the database is
wrong. `work` has its own exit codes, in docs/reasons.md.
"""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from enrollgate import version as installed_version

# `-h` as well as `--help`, for every command.
_CONTEXT = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="enrollgate",
    help="Downloads the course of each enrolled task row: one run per task, and only after the "
    "database shows `enrolled`. docs/contract.md lists all promises.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_CONTEXT,
)
drive_app = typer.Typer(
    help="Google Drive as destination.", no_args_is_help=True, context_settings=_CONTEXT
)
app.add_typer(drive_app, name="drive")
Actor = Annotated[
    str | None,
    typer.Option("--as", help="Who does this, for the record. Default: user and machine."),
]


def main() -> None:
    """Run the command that the arguments name."""
    # Else pydantic reads the metadata of every installed package, to look for plug-ins.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    # Typer prepares every option of each command that it has: one command is enough.
    groups = [each for each in app.registered_groups if [each.name] == sys.argv[1:2]]
    commands = [
        each
        for each in app.registered_commands
        if [each.name or getattr(each.callback, "__name__", "")] == sys.argv[1:2]
    ]
    if groups or commands:
        app.registered_groups, app.registered_commands = groups, commands
    try:
        app()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                # The terminal is gone. Python would flush again at its end, and exit with 120:
                # https://docs.python.org/3/library/signal.html#note-on-sigpipe
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Print the version."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal's encoding may lack a title's letters
            stream.reconfigure(errors="backslashreplace")
    # Python's own hook shows an exception's message as it is, with addresses and URLs in it.
    sys.excepthook = _show_crash
    if show:
        typer.echo(f"enrollgate {installed_version()}")
        raise typer.Exit


def _show_crash(_kind: object, error: BaseException, _frames: object) -> None:
    from enrollgate.common.redaction import redacted_traceback

    sys.stderr.write(redacted_traceback(error))


@app.command()
def run() -> None:
    """Run the operator until it is stopped (SIGTERM, Ctrl-C)."""
    from enrollgate.commands.run import run

    run()


@app.command()
def migrate() -> None:
    """Create or upgrade the tables and the view that Enrollgate owns. Safe to repeat."""
    from enrollgate.commands.migrate import migrate

    migrate()


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Show failures only, up to 200 of them.")
    ] = False,
    task: Annotated[
        str | None, typer.Option("--task", help="Show the runs of one task only, by its id.")
    ] = None,
) -> None:
    """Show tasks by status, unfinished runs with their progress, and the latest failures."""
    from enrollgate.commands.status import print_status

    print_status(as_json=as_json, watch=watch, failed=failed, task=task)


@app.command()
def explain(
    task: Annotated[str, typer.Argument(help="The row's id, or the name of a run or Job.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show why a task is where it is, what happened to it, and what to do."""
    from enrollgate.commands.explain import explain

    explain(task, as_json=as_json)


@app.command()
def logs(
    task: Annotated[str, typer.Argument(help="The row's id, or the name of a run or Job.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more until the run ends, or Ctrl-C.")
    ] = False,
    number: Annotated[
        int | None, typer.Option("--run", min=1, help="The run's number. Default: the last run.")
    ] = None,
) -> None:
    """Show the log of a task's last run: all its attempts, from its folder or its pods."""
    from enrollgate.commands.logs import print_log

    print_log(task, number, follow=follow)


@app.command()
def reasons(
    name: Annotated[
        str | None, typer.Argument(help="One reason, such as AccessDenied. Omit it for all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what each reason means and what to do about it."""
    from enrollgate.commands.reasons import print_reasons

    print_reasons(name, as_json=as_json)


@app.command()
def plan(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what the operator would launch and fail if it started now. Does and writes nothing."""
    from enrollgate.commands.plan import print_plan

    print_plan(as_json=as_json)


@app.command()
def pause(
    account: Annotated[
        str | None, typer.Option("--account", help="Pause this account only, by its e-mail.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Pause the courses on this host only.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--for", help="How long: 90s, 30m, 2h, 1d. Default: ENROLLGATE_HOLD_LIMIT."),
    ] = None,
    why: Annotated[str, typer.Option("--why", help="A reason for people. It is shown.")] = "",
    actor: Actor = None,
) -> None:
    """Launch no further run: of an account, of a host, or at all. Live runs go on."""
    from enrollgate.commands.steering import pause

    pause(account, host, time=time, why=why, actor=actor)


@app.command()
def resume(
    account: Annotated[
        str | None, typer.Option("--account", help="The account that is paused, by its e-mail.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="The host that is paused.")] = None,
    actor: Actor = None,
) -> None:
    """End a pause: of an account, of a host, or of everything."""
    from enrollgate.commands.steering import resume

    resume(account, host, actor=actor)


@app.command()
def holds(
    closed: Annotated[bool, typer.Option("--all", help="Show those that ended, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is on hold or paused, why, until when, and how many tasks wait for it."""
    from enrollgate.commands.holds import print_holds

    print_holds(closed=closed, as_json=as_json)


@app.command()
def release(
    hold: Annotated[int, typer.Argument(help="Its number, as `enrollgate holds` shows it.")],
    actor: Actor = None,
) -> None:
    """Close a hold or a pause at once, and let its tasks go on."""
    from enrollgate.commands.steering import release

    release(hold, actor=actor)


@app.command()
def retry(  # noqa: PLR0917 -- one argument for each option
    tasks: Annotated[
        list[str] | None, typer.Argument(help="Ids of rows, or names of runs or Jobs.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Instead: all tasks that failed for this reason.")
    ] = None,
    since: Annotated[
        str, typer.Option("--since", help="With --reason: those that failed within this time.")
    ] = "1d",
    account: Annotated[
        str | None, typer.Option("--account", help="With --reason: of this account, by its e-mail.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show which tasks it would be.")
    ] = False,
    actor: Actor = None,
) -> None:
    """Set failed tasks back to `enrolled`. Tasks that have not failed are left alone."""
    from enrollgate.commands.steering import retry

    retry(tasks or [], reason=reason, since=since, account=account, dry_run=dry_run, actor=actor)


@app.command()
def cancel(
    tasks: Annotated[list[str], typer.Argument(help="Ids of rows, or names of runs or Jobs.")],
    actor: Actor = None,
) -> None:
    """Fail tasks that wait or run, and stop their runs."""
    from enrollgate.commands.steering import cancel

    cancel(tasks, actor=actor)


@app.command("mark-lost")
def mark_lost(
    place: Annotated[
        str | None, typer.Argument(help="The place's id. Omit it to list the places.")
    ] = None,
) -> None:
    """Record the unfinished runs of a machine, work directory or cluster as lost: it is gone.

    New runs follow. If one of them still runs, its course is downloaded twice.
    """
    from enrollgate.commands.mark_lost import mark_lost

    mark_lost(place)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_worker: Annotated[
        bool, typer.Option("--as-worker", help="Check what a worker needs: no access to the API.")
    ] = False,
) -> None:
    """Check the database, the task table, the destination and the tools; say how to fix them."""
    from enrollgate.commands.doctor import print_checks

    if not print_checks(as_json=as_json, as_worker=as_worker):
        raise typer.Exit(1)


@app.command()
def web() -> None:
    """Serve a read-only page with tasks, progress and failures until it is stopped."""
    from enrollgate.commands.web import serve_page

    serve_page()


@app.command()
def work(  # noqa: PLR0917 -- each is an environment variable that a launcher sets
    task_id: Annotated[int, typer.Option(envvar="ENROLLGATE_TASK_ID", help="The task's id.")],
    course_url: Annotated[
        str, typer.Option(envvar="ENROLLGATE_COURSE_URL", help="The course's URL.")
    ],
    scratch_dir: Annotated[
        Path, typer.Option(envvar="ENROLLGATE_SCRATCH_DIR", help="Where files are downloaded to.")
    ],
    report_path: Annotated[
        Path, typer.Option(envvar="ENROLLGATE_REPORT_PATH", help="Where the report is written.")
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
            "--attempt", envvar="ENROLLGATE_ATTEMPT", help="Number of this attempt, from 1."
        ),
    ] = None,
    failed_attempts: Annotated[
        int,
        typer.Option(
            envvar="ENROLLGATE_FAILED_ATTEMPTS",
            help="Instead of --attempt: how many attempts have failed before.",
        ),
    ] = 0,
    max_attempts: Annotated[
        int, typer.Option(envvar="ENROLLGATE_MAX_ATTEMPTS", help="Maximum number of attempts.")
    ] = 1,
    progress_path: Annotated[
        Path | None,
        typer.Option(envvar="ENROLLGATE_PROGRESS_PATH", help="Where the progress is written."),
    ] = None,
) -> None:
    """Download one course and deliver it: a launcher starts this.

    It does not check whether the task is enrolled.
    """
    from enrollgate.commands.work import work, worker_settings_or_fail
    from enrollgate.worker.order import WorkOrder

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
        settings=worker_settings_or_fail(report_path),
    )
    raise typer.Exit(work(order))


@drive_app.command()
def login(
    client_secrets: Annotated[
        Path, typer.Option(help="The JSON of your OAuth client (type: desktop app).")
    ],
    output: Annotated[
        Path, typer.Option(help="Where the login is written; only you can read the file.")
    ] = Path("login.json"),
    port: Annotated[
        int, typer.Option(help="The loopback port for Google's answer; 0: any free port.")
    ] = 0,
) -> None:
    """Log in as a user, and write the file for ENROLLGATE_DRIVE_CREDENTIALS.

    docs/destinations.md has the steps.
    """
    from enrollgate.commands.drive_login import login

    login(client_secrets, output, port)
