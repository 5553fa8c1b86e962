"""`enrollgate status`: tasks by status and set aside, unfinished runs, the latest failures.

Everything comes from the database. It is loaded into one `Overview`, which is printed as text of 80
columns or as JSON.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn

import typer

from enrollgate.commands.console import fail, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.commands.explain import parse_task
from enrollgate.commands.hold_text import describe_cause, describe_end, name_scope
from enrollgate.commands.layout import instant, paragraph, since
from enrollgate.commands.task_diagnosis import describe_progress, find_operator_problem
from enrollgate.common.redaction import redact
from enrollgate.database import Database, DatabaseUnavailable, Tables, hold_views, queries
from enrollgate.database.configured import build_tables
from enrollgate.database.hold_views import HoldView
from enrollgate.database.task_details import load_task_details
from enrollgate.domain.account import mask_account
from enrollgate.domain.reasons import Reason, explain
from enrollgate.domain.task import TaskState

# Seconds between two updates of `status --watch`.
_WATCH_INTERVAL = 2.0
# Failures that are shown, and with `--failed`.
_FAILURES, _ALL_FAILURES = 10, 200

_MEANINGS = {
    TaskState.WAITING: "waiting for the enrollment",
    TaskState.ENROLLED: "running, or will run next",
    TaskState.COMPLETED: "at its destination",
    TaskState.FAILED: "failed",
    TaskState.UNKNOWN: "unknown status: ignored",
}


@dataclass(frozen=True, slots=True)
class Overview:
    """What `status` shows, at one moment.

    `accounts` has the e-mail address of each task that is named, as far as its row exists. `live`
    counts the unfinished runs, of which `runs` has the first ones.
    """

    now: datetime
    operators: list[queries.OperatorView]
    tasks: queries.StatusCounts
    set_aside: list[queries.SetAsideTask]
    live: int
    runs: list[queries.RunView]
    completed: list[queries.RunView]
    incomplete: list[queries.RunView]
    failures: list[queries.RunView]
    accounts: dict[int, str]
    holds: list[HoldView]


def print_status(*, as_json: bool, watch: bool, failed: bool, task: str | None) -> None:
    """Print the overview once, or with `watch` until Ctrl-C.

    With `failed`, print failures only; with `task`, the runs of that task only. Ends with 1 if
    there is no such task, and with 2 if options do not go together.
    """
    if as_json and watch:
        fail("--watch shows text again and again: leave it out, or --json")
    if failed and task is not None:
        fail("--failed is about all tasks: leave it out, or --task")
    settings = settings_or_fail()
    tables, mine = build_tables(settings), settings.installation
    task_id = None if task is None else parse_task(task, settings)
    with database_or_fail(settings) as database:
        if task_id is not None:
            details = load_task_details(database, tables, task_id, installation=mine)
            if not details.is_known:
                fail(f"there is no task {task_id}: {tables.columns.table} has no such row", 1)

        def show() -> list[str]:
            if task_id is not None:
                overview = load_overview(database, tables, mine, task_id=task_id)
                return list(render_task(overview, task_id))
            overview = load_overview(database, tables, mine, failed=failed)
            return list(render_failures(overview) if failed else render(overview, tables))

        try:
            if as_json:
                overview = load_overview(database, tables, mine, task_id=task_id, failed=failed)
                typer.echo(json.dumps(to_json(overview), indent=2))
            elif watch:
                _watch(lambda: "\n".join(show()))
            else:
                typer.echo("\n".join(show()))
        except KeyboardInterrupt:
            pass


def load_overview(
    database: Database,
    tables: Tables,
    installation: str,
    *,
    task_id: int | None = None,
    failed: bool = False,
) -> Overview:
    """Load everything that is shown. Raises DatabaseUnavailable or DatabaseMisconfigured.

    The holds are those of one installation.

    With `task_id`, the runs are those of one task; with `failed`, there are more failures.
    """
    if task_id is None:
        live = queries.unfinished_runs(database)
        count = queries.count_unfinished(database)
        completed = queries.latest_completed(database)
        failures = queries.latest_failures(database, _ALL_FAILURES if failed else _FAILURES)
    else:
        mine = queries.runs_of_task(database, task_id, 20)
        live = [run for run in mine if run.outcome is None]
        count = len(live)
        completed = [run for run in mine if run.outcome == "succeeded"]
        failures = [run for run in mine if run.outcome not in (None, "succeeded")]
    named = {run.task_id for run in [*live, *completed, *failures]}
    return Overview(
        now=database.now(),
        operators=queries.read_operators(database),
        tasks=queries.count_by_status(database, tables),
        set_aside=queries.tasks_set_aside(database),
        live=count,
        runs=live,
        completed=completed,
        incomplete=[] if task_id else queries.latest_incomplete(database),
        failures=failures,
        accounts=queries.find_accounts(database, tables, named),
        holds=hold_views.read_holds(database, tables, installation=installation),
    )


def to_json(overview: Overview) -> dict[str, Any]:
    """Return the overview as plain data; instants are in ISO 8601, UTC. Accounts are masked."""

    def plain(
        row: queries.RunView | queries.SetAsideTask | queries.OperatorView | HoldView,
    ) -> dict[str, Any]:
        more = dict[str, Any]()
        if isinstance(row, queries.RunView):
            account = overview.accounts.get(row.task_id)
            more = {"where": row.where, "account": account and mask_account(account)}
        return {
            key: value.isoformat() + "Z" if isinstance(value, datetime) else value
            for key, value in (asdict(row) | more).items()
        }

    return {
        "now": overview.now.isoformat() + "Z",
        "operators": [
            plain(each) | {"is_down": each.is_late(overview.now)} for each in overview.operators
        ],
        "tasks": [
            asdict(count) | {"status": count.status and redact(count.status)}
            for count in overview.tasks.listed
        ],
        "tasks_of_other_statuses": overview.tasks.tasks_of_others,
        "holds": [plain(hold) for hold in overview.holds],
        "set_aside": [plain(task) for task in overview.set_aside],
        "unfinished_runs": overview.live,
        "runs": [plain(run) for run in overview.runs],
        "completed": [plain(run) for run in overview.completed],
        "completed_with_items_left_out": [plain(run) for run in overview.incomplete],
        "failures": [plain(run) | {"remedy": _remedy(run)} for run in overview.failures],
    }


def render(overview: Overview, tables: Tables) -> Iterator[str]:
    """Yield the overview as lines of 80 columns."""
    yield from _operator_lines(overview)
    yield from ("", "Tasks by status", *task_lines(overview.tasks, tables))
    if overview.holds:
        yield from ("", f"Holds: {len(overview.holds)} open, see `enrollgate holds`")
    for hold in overview.holds:
        waiting = f"{hold.tasks} {'task waits' if hold.tasks == 1 else 'tasks wait'}"
        yield from paragraph(f"hold {hold.hold_id}", f"{name_scope(hold)}: {waiting}")
        cause, end = describe_cause(hold, overview.now), describe_end(hold, overview.now)
        yield from paragraph("", f"{cause}. {end}", outside=True)
    if overview.set_aside:
        yield from ("", "Set aside: refused by the database or the launcher, to be tried again")
        for task in overview.set_aside:
            again = f"try {task.refusals + 1} at {instant(task.retry_at)}: {task.message}"
            yield from paragraph(f"task {task.task_id}", again, outside=True)
    more = f", the oldest {len(overview.runs)}:" if overview.live > len(overview.runs) else ""
    yield from ("", f"Unfinished runs: {overview.live or 'none'}{more}")
    for run in overview.runs:
        yield from run_lines(overview, run)
    if overview.incomplete:
        yield from ("", "Completed, with items left out (ENROLLGATE_INCOMPLETE)")
        for run in overview.incomplete:
            yield from paragraph(f"task {run.task_id}", f"completed: {run.message}", outside=True)
    if overview.completed:
        yield from ("", "Completed last")
        for run in overview.completed:
            yield from run_lines(overview, run)
    yield from ("", *render_failures(overview))


def render_failures(overview: Overview) -> Iterator[str]:
    """Yield the failures as lines of 80 columns, newest first."""
    yield f"Latest failures: {len(overview.failures) or 'none'}"
    for run in overview.failures:
        yield from run_lines(overview, run)


def render_task(overview: Overview, task_id: int) -> Iterator[str]:
    """Yield the runs of one task, newest first."""
    yield from _operator_lines(overview)
    found = sorted(
        [*overview.runs, *overview.completed, *overview.failures],
        key=lambda run: run.run_number,
        reverse=True,
    )
    yield from ("", f"Runs of task {task_id}: {len(found) or 'none'}")
    for run in found:
        yield from run_lines(overview, run)
    yield f"Why it is where it is: enrollgate explain {task_id}"


def task_lines(counts: queries.StatusCounts, tables: Tables) -> Iterator[str]:
    """Yield the numbers of tasks by status."""
    rows = [
        (
            "NULL" if count.status is None else redact(count.status, 40),
            count.tasks,
            _MEANINGS[tables.statuses.state(count.configured_status)],
        )
        for count in counts.listed
    ]
    if counts.others:
        unknown = _MEANINGS[TaskState.UNKNOWN]
        rows.append((f"{counts.others} other statuses", counts.tasks_of_others, unknown))
    width = max([12, *(len(status) for status, *_ in rows)])
    for status, tasks, meaning in rows:
        yield from paragraph(f"{status:{width}} {tasks:9} ", meaning, label_width=width + 12)
    if not rows:
        yield "  none"


def run_lines(overview: Overview, run: queries.RunView) -> Iterator[str]:
    """Yield one run: its state, account, progress or result, and what to do."""
    account = overview.accounts.get(run.task_id)
    parts = [run.name, run.outcome or run.state, run.reason or ""]
    if run.outcome is None and run.percent is not None:
        parts.append(f"{run.percent} %")
    if run.finished_at is not None:
        parts.append(f"{instant(run.finished_at)} UTC")
    parts.append(mask_account(account) if account else "")
    yield from paragraph(f"task {run.task_id}", ", ".join(filter(None, parts)))
    if run.outcome is None:
        if run.launched_at is not None:
            yield from paragraph("", " ".join(describe_progress(run, overview.now)), outside=True)
        enrolled = run.enrolled_seen_at or run.claimed_at
        waited = since(enrolled, run.launched_at or overview.now)
        yield from paragraph(
            "", f"It waited {waited} from `enrolled` to its launch, at {run.where}"
        )
    if run.destination_url:
        yield from paragraph("", run.destination_url, outside=True)
    if run.message:
        yield from paragraph("", run.message, outside=True)
    if remedy := _remedy(run):
        yield from paragraph("", f"-> {remedy}", outside=True)


def _operator_lines(overview: Overview) -> Iterator[str]:
    """Yield when each operator made its last pass, and that it is down."""
    if not overview.operators:
        yield from paragraph("Operator", find_operator_problem(None, overview.now), indent=0)
    for each in overview.operators:
        problem = find_operator_problem(each, overview.now)
        text = f"{problem} See `enrollgate doctor`."
        if not problem and each.last_pass_at is not None:
            ago = since(each.last_pass_at, overview.now)
            version = f", version {each.version}" if each.version else ""
            text = f"{each.installation}: last pass {ago} ago{version}"
        yield from paragraph("Operator", text, indent=0)


def _watch(load: Callable[[], str]) -> NoReturn:
    """Show the overview again and again. While the database is away, say so below the last one.

    Always ends with KeyboardInterrupt, after Ctrl-C.
    """
    # It takes a tenth of a second to import, and the other forms of `status` do not need it.
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    console, last = Console(emoji=False), Text("")
    with Live(console=console, auto_refresh=False) as live:
        # Python drops the exception if it is raised within a finalizer, so look at the flag, too.
        # https://docs.python.org/3/library/signal.html#handlers-and-exceptions
        while not interrupted:
            try:
                last = Text(load())
                shown = Group(last)
            except DatabaseUnavailable as error:
                problem = f"the database is unavailable, trying again: {error}"
                shown = Group(last, Text(problem, style="red"))
            if console.is_terminal:
                live.update(shown, refresh=True)
            else:
                console.print(shown)
            time.sleep(_WATCH_INTERVAL)
    raise KeyboardInterrupt


def _remedy(run: queries.RunView) -> str:
    """Return what to do: the run's own remedy, else its reason's.

    It is empty for a run that did not fail, and for a reason that only another version knows.
    """
    if run.outcome in (None, "succeeded"):
        return ""
    return run.remedy or (explain(Reason(run.reason)).remedy if run.reason in set(Reason) else "")
