"""`enrollgate status`: tasks by status and set aside, unfinished runs, the latest failures.

The database gives the rows; the progress of a local run comes from its file. Both are loaded into
one `Overview`, which is printed as tables or as JSON.
"""

import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from enrollgate.commands.console import OUT, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.common.redaction import printable, redact
from enrollgate.database import Database, DatabaseUnavailable, Tables, queries
from enrollgate.database.configured import build_tables
from enrollgate.domain.reasons import Reason, explain
from enrollgate.domain.task import TaskState
from enrollgate.launchers.local.run_directory import read_progress

# Seconds between two updates of `status --watch`.
_WATCH_INTERVAL = 2.0

_MEANINGS = {
    TaskState.WAITING: "waiting for the enrollment",
    TaskState.ENROLLED: "running, or will run next",
    TaskState.COMPLETED: "at its destination",
    TaskState.FAILED: "failed",
    TaskState.UNKNOWN: "unknown status: ignored",
}

Progress = Mapping[str, object]
# Returns a run's progress, None if it is not known on this machine. May raise OSError: the file may
# belong to another user.
ProgressReader = Callable[[queries.RunView], Progress | None]


@dataclass(frozen=True, slots=True)
class Overview:
    """What `status` shows, at one moment."""

    now: datetime
    tasks: queries.StatusCounts
    set_aside: list[queries.SetAsideTask]
    runs: list[queries.RunView]
    progress: dict[str, Progress]
    failures: list[queries.RunView]
    incomplete: list[queries.RunView]


def print_status(*, as_json: bool, watch: bool) -> None:
    """Print the overview once, or with `watch` until Ctrl-C."""
    settings = settings_or_fail()
    tables = build_tables(settings)
    with database_or_fail(settings) as database:

        def load() -> Overview:
            return load_overview(
                database,
                tables,
                # The operator's work directory is often not the default one of whoever asks.
                lambda run: read_progress(Path(run.work_dir or settings.work_dir), run.name),
            )

        try:
            if as_json:
                # Not by rich: programs need it without colours and line breaks.
                print(json.dumps(to_json(load()), indent=2))  # noqa: T201 -- see above
            elif watch:
                _watch(lambda: render(load(), tables))
            else:
                OUT.print(render(load(), tables))
        except KeyboardInterrupt:
            pass


def load_overview(database: Database, tables: Tables, read: ProgressReader) -> Overview:
    """Load everything that is shown. Raises DatabaseUnavailable or DatabaseMisconfigured."""
    runs = queries.unfinished_runs(database)
    progress = {}
    for run in runs:
        try:
            found = read(run)
        except OSError:
            continue
        if found is not None:
            progress[run.name] = found
    return Overview(
        now=database.now(),
        tasks=queries.count_by_status(database, tables),
        set_aside=queries.tasks_set_aside(database),
        runs=runs,
        progress=progress,
        failures=queries.latest_failures(database),
        incomplete=queries.latest_incomplete(database),
    )


def to_json(overview: Overview) -> dict[str, Any]:
    """Return the overview as plain data; instants are in ISO 8601, UTC."""

    def plain(row: queries.RunView | queries.SetAsideTask) -> dict[str, Any]:
        where = {"where": row.where} if isinstance(row, queries.RunView) else {}
        return {
            key: value.isoformat() + "Z" if isinstance(value, datetime) else value
            for key, value in (asdict(row) | where).items()
        }

    return {
        "now": overview.now.isoformat() + "Z",
        "tasks": [
            asdict(count) | {"status": count.status and redact(count.status)}
            for count in overview.tasks.listed
        ],
        "tasks_of_other_statuses": overview.tasks.tasks_of_others,
        "set_aside": [plain(task) for task in overview.set_aside],
        "runs": [
            plain(run) | {"progress": overview.progress.get(run.name)} for run in overview.runs
        ],
        "completed_with_items_left_out": [plain(run) for run in overview.incomplete],
        "failures": [plain(run) | {"remedy": _remedy(run.reason)} for run in overview.failures],
    }


def render(overview: Overview, tables: Tables) -> RenderableType:
    """Return the overview as tables for a terminal."""
    shown = [task_table(overview.tasks, tables), _run_table(overview), _failure_table(overview)]
    if overview.set_aside:
        title = "Set aside: refused by the database or the launcher, to be tried again"
        headings = ("task", "tries", "next try (UTC)", "refusal")
        table = Table(*headings, title=title, title_justify="left")
        for task in overview.set_aside:
            retry_at = f"{task.retry_at:%Y-%m-%d %H:%M:%S}"
            table.add_row(str(task.task_id), str(task.refusals), retry_at, _cell(task.message))
        shown.insert(1, table)
    if overview.incomplete:
        title = "Completed, with items left out (ENROLLGATE_INCOMPLETE)"
        table = Table("task", "finished at (UTC)", "result", title=title, title_justify="left")
        for run in overview.incomplete:
            result = _cell(f"completed: {run.message}")
            table.add_row(str(run.task_id), _finished_at(run), result)
        shown.append(table)
    return Group(*shown)


def _watch(load: Callable[[], RenderableType]) -> NoReturn:
    """Show the overview again and again. While the database is away, say so above the last one.

    Always ends with KeyboardInterrupt, after Ctrl-C.
    """
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    last: RenderableType = ""
    with Live(console=OUT, auto_refresh=False) as live:
        # Python drops the exception if it is raised within a finalizer, so look at the flag, too.
        # https://docs.python.org/3/library/signal.html#handlers-and-exceptions
        while not interrupted:
            try:
                shown = last = load()
            except DatabaseUnavailable as error:
                problem = f"the database is unavailable, trying again: {error}"
                shown = Group(last, Text(problem, style="red"))
            if OUT.is_terminal:
                live.update(shown, refresh=True)
            else:
                OUT.print(shown)
            time.sleep(_WATCH_INTERVAL)
    raise KeyboardInterrupt


def _remedy(reason: str | None) -> str:
    """Return what to do; empty for a reason that only another version of Enrollgate knows."""
    return explain(Reason(reason)).remedy if reason in set(Reason) else ""


def _finished_at(run: queries.RunView) -> str:
    return f"{run.finished_at:%Y-%m-%d %H:%M:%S}" if run.finished_at else ""


def _cell(text: str | None) -> Text:
    """Return the text as it is. In a plain string, rich would read brackets as markup."""
    return Text(printable(text or ""))


def task_table(counts: queries.StatusCounts, tables: Tables) -> Table:
    """Return the numbers of tasks by status as a table."""
    table = Table("status", title="Tasks by status", title_justify="left")
    table.add_column("tasks", justify="right")
    table.add_column("meaning")
    unknown = Text(_MEANINGS[TaskState.UNKNOWN], style="yellow")
    for count in counts.listed:
        state = tables.statuses.state(count.configured_status)
        table.add_row(
            _cell("NULL" if count.status is None else redact(count.status)),
            str(count.tasks),
            unknown if state is TaskState.UNKNOWN else _MEANINGS[state],
        )
    if counts.others:
        table.add_row(f"{counts.others} other statuses", str(counts.tasks_of_others), unknown)
    return table


def _run_table(overview: Overview) -> Table:
    headings = ("run", "task", "number", "state", "waited", "age", "progress", "where")
    table = Table(*headings, title="Unfinished runs", title_justify="left")
    table.caption = "waited: from `enrolled` to the launch; age: since the launch"
    table.caption_justify = "left"
    for run in overview.runs:
        enrolled, launched = run.enrolled_seen_at or run.claimed_at, run.launched_at or overview.now
        waited = (launched - enrolled).total_seconds()
        age = (overview.now - (run.launched_at or run.claimed_at)).total_seconds()
        described = ""
        if (progress := overview.progress.get(run.name)) is not None:
            total, size = progress.get("items_total"), progress.get("bytes")
            described = f"{progress.get('items_done', 0)}"
            described += " items" if total is None else f" of {total} items"
            described += f", {size / 1e6:.1f} MB" if isinstance(size, int) else ""
        table.add_row(
            _cell(run.name),
            str(run.task_id),
            str(run.run_number),
            _cell(run.state),
            f"{waited:.0f} s",
            f"{age:.0f} s",
            _cell(described),
            _cell(run.where),
        )
    if not overview.runs:
        table.add_row("none", *[""] * 7)
    return table


def _failure_table(overview: Overview) -> Table:
    table = Table(title="Latest failures", title_justify="left")
    for heading in ("task", "finished at (UTC)", "reason", "message", "remedy"):
        table.add_column(heading, overflow="fold")
    for run in overview.failures:
        table.add_row(
            str(run.task_id),
            _finished_at(run),
            _cell(run.reason),
            _cell(run.message),
            _cell(_remedy(run.reason)),
        )
    if not overview.failures:
        table.add_row("none", *[""] * 4)
    return table
