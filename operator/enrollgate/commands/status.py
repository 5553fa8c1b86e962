"""What `enrollgate status` shows: tasks by status, live runs with their progress, the latest failures and their remedies."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from enrollgate.common.redaction import printable
from enrollgate.database import Database, Tables, queries
from enrollgate.domain.reasons import Reason, explain
from enrollgate.domain.task import TaskState

Progress = Callable[[str], Mapping[str, object] | None]
"""Gives a run's progress by its name, None if it is not known here. May raise OSError: it is another user's file, perhaps."""


@dataclass(frozen=True, slots=True)
class Overview:
    """One look at everything."""

    now: datetime
    tasks: queries.StatusCounts
    runs: list[queries.RunView]
    progress: dict[str, Mapping[str, object]]
    failures: list[queries.RunView]


def look(database: Database, tables: Tables, progress: Progress) -> Overview:
    """Reads it all. Raises DatabaseUnavailable or DatabaseMisconfigured."""
    runs = queries.unfinished_runs(database)
    known = {run.name: found for run in runs if (found := _known(progress, run.name)) is not None}
    return Overview(
        now=database.now(),
        tasks=queries.count_by_status(database, tables),
        runs=runs,
        progress=known,
        failures=queries.latest_failures(database),
    )


def _known(progress: Progress, name: str) -> Mapping[str, object] | None:
    try:
        return progress(name)
    except OSError:
        return None


def as_json(overview: Overview) -> dict[str, Any]:
    """The same as plain data; instants in ISO 8601, UTC."""
    return {
        "now": overview.now.isoformat() + "Z",
        "tasks": [asdict(count) for count in overview.tasks.listed],
        "tasks_of_other_statuses": overview.tasks.tasks_of_others,
        "runs": [
            _run(run) | {"progress": overview.progress.get(run.name)} for run in overview.runs
        ],
        "failures": [_run(run) | {"remedy": _remedy(run.reason)} for run in overview.failures],
    }


def _run(run: queries.RunView) -> dict[str, Any]:
    return {
        key: value.isoformat() + "Z" if isinstance(value, datetime) else value
        for key, value in asdict(run).items()
    }


def _remedy(reason: str | None) -> str:
    """What to do about it; nothing for a word that only another version of Enrollgate knows."""
    return explain(Reason(reason)).remedy if reason in set(Reason) else ""


def _cell(text: str | None) -> Text:
    """What others wrote, as it is: to rich, brackets would be markup."""
    return Text(printable(text or ""))


def render(overview: Overview, tables: Tables) -> RenderableType:
    """The same for people."""
    return Group(_task_table(overview, tables), _run_table(overview), _failure_table(overview))


_MEANINGS = {
    TaskState.WAITING: "waits for its enrollment",
    TaskState.ENROLLED: "runs, or runs next",
    TaskState.COMPLETED: "is at its destination",
    TaskState.FAILED: "is over",
    TaskState.UNKNOWN: "no meaning here: left alone",
}


def _task_table(overview: Overview, tables: Tables) -> Table:
    table = Table(title="Tasks", title_justify="left")
    table.add_column("status")
    table.add_column("tasks", justify="right")
    table.add_column("")
    for count in overview.tasks.listed:
        meaning = _meaning(tables.statuses.state(count.word))
        table.add_row(
            _cell("NULL" if count.status is None else count.status), str(count.tasks), meaning
        )
    if others := overview.tasks.others:
        table.add_row(
            f"{others} other statuses",
            str(overview.tasks.tasks_of_others),
            _meaning(TaskState.UNKNOWN),
        )
    return table


def _meaning(state: TaskState) -> Text:
    return Text(_MEANINGS[state], style="yellow" if state is TaskState.UNKNOWN else "")


def _run_table(overview: Overview) -> Table:
    table = Table(title="Unfinished runs", title_justify="left")
    for heading in ("run", "task", "run_number", "state", "for", "progress"):
        table.add_column(heading)
    for run in overview.runs:
        age = (overview.now - (run.launched_at or run.claimed_at)).total_seconds()
        how_far = _progress(overview, run.name)
        table.add_row(
            _cell(run.name),
            str(run.task_id),
            str(run.run_number),
            _cell(run.state),
            f"{age:.0f} s",
            _cell(how_far),
        )
    if not overview.runs:
        table.add_row("none", *[""] * 5)
    return table


def _progress(overview: Overview, name: str) -> str:
    found = overview.progress.get(name)
    if found is None:
        return ""
    total = found.get("items_total")
    of = "" if total is None else f" of {total}"
    size = found.get("bytes")
    megabytes = f", {size / 1e6:.1f} MB" if isinstance(size, int) else ""
    return f"{found.get('items_done', 0)}{of} items{megabytes}"


def _failure_table(overview: Overview) -> Table:
    table = Table(title="Latest failures", title_justify="left")
    for heading in ("task", "when (UTC)", "reason", "what happened", "what to do"):
        table.add_column(heading, overflow="fold")
    for run in overview.failures:
        when = f"{run.finished_at:%Y-%m-%d %H:%M:%S}" if run.finished_at else ""
        table.add_row(
            str(run.task_id),
            when,
            _cell(run.reason),
            _cell(run.message),
            _cell(_remedy(run.reason)),
        )
    if not overview.failures:
        table.add_row("none", *[""] * 4)
    return table
