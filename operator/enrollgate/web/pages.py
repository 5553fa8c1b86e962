"""Each page of the site: what it reads from the database, and the template that shows it.

A handler reads in a thread, in a few bounded statements, and renders afterwards.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy import Row

from enrollgate.common.redaction import printable
from enrollgate.common.units import duration, size
from enrollgate.database import Database, Tables, hold_views, queries, statistics
from enrollgate.database.task_details import TaskDetails, load_task_details
from enrollgate.domain.reasons import Reason, explain
from enrollgate.domain.report import MalformedReport, Report
from enrollgate.web import charts, formats
from enrollgate.web.log_tail import LogTail, read_tail

# Threads that read. A database has four connections at most.
_READERS = 4
# Seconds that statistics are kept for everyone who looks: they change slowly.
STATISTICS_TTL = 3.0
# Unfinished runs that are shown on the overview, and on their own page.
_FEW_RUNS, _MOST_RUNS = 20, 200
# Characters of a search, at most.
_LONGEST_SEARCH = 500
_SEEN, _ENROLLED = "first seen in the task table", "first seen as enrolled"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the overview shows of all tasks together, as of `now` (UTC)."""

    now: datetime
    counts: statistics.Counts
    throughput: statistics.Throughput
    columns: charts.Columns
    phases: list[charts.Phase]
    failures: list[statistics.FailureGroup]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a task's timeline. `at` is UTC."""

    at: datetime
    text: str


class Pages:
    """The handlers, and what they share. `monotonic` gives seconds."""

    def __init__(
        self,
        database: Database,
        tables: Tables,
        *,
        installation: str,
        work_dir: Path,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._tables = tables
        self._installation = installation
        self._work_dir = work_dir
        self._monotonic = monotonic
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")
        self._statistics: tuple[float, Statistics] | None = None
        self._loading = asyncio.Lock()
        self._templates = Environment(
            loader=PackageLoader("enrollgate.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "account": formats.account,
            "duration": duration,
            "number": formats.number,
            "safe_link": formats.safe_link,
            "shown": formats.shown,
            "size": size,
        }
        self._templates.globals |= {
            "between": formats.between,
            "charts": charts,
            "explanation": explanation,
            "limits": statistics,
        }

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def overview(self, _request: web.Request) -> web.Response:
        """Show the numbers of tasks, the unfinished runs, plots, and failures by reason."""
        async with self._loading:
            cached = self._statistics
            if cached is None or self._monotonic() - cached[0] > STATISTICS_TTL:
                cached = self._monotonic(), await self._read(self._load_statistics)
                self._statistics = cached

        def load() -> dict[str, Any]:
            return {
                "now": self._database.now(),
                "operators": queries.read_operators(self._database),
                "runs": queries.unfinished_runs(self._database, _FEW_RUNS),
                "set_aside": queries.tasks_set_aside(self._database, _FEW_RUNS),
                "holds": hold_views.read_holds(
                    self._database, self._tables, installation=self._installation
                ),
            }

        return self.render("overview.html", statistics=cached[1], **await self._read(load))

    async def runs(self, _request: web.Request) -> web.Response:
        """Show the unfinished runs with their progress."""

        def load() -> dict[str, Any]:
            found = queries.unfinished_runs(self._database, _MOST_RUNS)
            return {"now": self._database.now(), "runs": found, "most": _MOST_RUNS}

        return self.render("runs.html", **await self._read(load))

    async def failures(self, request: web.Request) -> web.Response:
        """Show the failures by reason; with `reason`, the newest failed runs of that reason."""
        reason = printable(request.query.get("reason", ""))[:64]

        def load() -> dict[str, Any]:
            now = self._database.now()
            groups = statistics.group_failures(self._database, now)
            found = statistics.failed_runs(self._database, now, reason) if reason else []
            return {"now": now, "groups": groups, "reason": reason, "runs": found}

        return self.render("failures.html", **await self._read(load))

    async def search(self, request: web.Request) -> web.Response:
        """Find tasks by id or by a link; a single result is shown at once."""
        # No id or link has a control character, and SQLite would end the text at a NUL.
        text = printable(request.query.get("q", "")).strip()[:_LONGEST_SEARCH]
        digits = text.removeprefix("-")
        is_number = digits.isascii() and digits.isdecimal()
        if is_number and queries.is_possible_id(self._database, int(text)):
            raise web.HTTPSeeOther(f"/tasks/{int(text)}")
        if not text:
            return self.render("search.html", text=text, result=None)
        found = await self._read(
            lambda: statistics.find_by_link(self._database, self._tables, text)
        )
        if len(found.task_ids) == 1:
            raise web.HTTPSeeOther(f"/tasks/{found.task_ids[0]}")
        return self.render("search.html", text=text, result=found)

    async def task(self, request: web.Request) -> web.Response:
        """Show one task: its state, its timeline, its runs, their items, and the log's end."""
        task_id = int(request.match_info["task_id"])
        if not queries.is_possible_id(self._database, task_id):
            raise web.HTTPNotFound

        def load() -> tuple[TaskDetails, Row[Any] | None, LogTail]:
            details = load_task_details(
                self._database, self._tables, task_id, installation=self._installation
            )
            newest, log = next(iter(details.runs), None), LogTail([])
            if newest is not None and newest.launcher == "local":
                log = read_tail(Path(newest.work_dir or self._work_dir), newest.name)
            return details, statistics.read_task_status(self._database, task_id), log

        details, status, log = await self._read(load)
        return self.render(
            "task.html",
            status_code=200 if details.is_known else 404,
            now=details.now,
            task=details,
            status=status,
            report=parse_report(details.result),
            events=build_timeline(details),
            log=log,
            statuses=self._tables.statuses,
        )

    def render(self, template: str, *, status_code: int = 200, **data: object) -> web.Response:
        """Return a page."""
        text = self._templates.get_template(template).render(data, status_code=status_code)
        return web.Response(text=text, status=status_code, content_type="text/html")

    async def _read(self, load: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, load)

    def _load_statistics(self) -> Statistics:
        now = self._database.now()
        throughput = statistics.read_throughput(self._database, now)
        return Statistics(
            now=now,
            counts=statistics.count_by_state(self._database, self._tables, now),
            throughput=throughput,
            columns=charts.build_columns(throughput.hours),
            phases=charts.build_phases(statistics.read_waits(self._database, now)),
            failures=statistics.group_failures(self._database, now),
        )


def build_timeline(task: TaskDetails) -> list[Event]:
    """Return what happened to a task, oldest first."""
    events = []
    if task.tracked is not None:
        events.append(Event(task.tracked.first_seen_at, _SEEN))
        if task.tracked.enrolled_seen_at is not None:
            events.append(Event(task.tracked.enrolled_seen_at, _ENROLLED))
    for run in task.runs:
        name = f"run {run.run_number}"
        for at, text in (
            (run.first_seen_at, _SEEN),
            (run.enrolled_seen_at, _ENROLLED),
            (run.claimed_at if run.launcher else None, f"{name} claimed"),
            (run.launched_at, f"{name} launched"),
            (run.started_at, f"{name}: its worker began"),
            (run.finished_at, f"{name} ended: {run.outcome}"),
            (run.recorded_at, f"{name} recorded"),
        ):
            if at is not None:
                events.append(Event(at, text))
    if task.hold is not None:
        did = "paused" if task.hold.is_pause else "put on hold"
        events.append(Event(task.hold.opened_at, f"the {task.hold.scope} was {did}"))
    events += (
        Event(each.acted_at, f"enrollgate {each.action}, by {each.actor}") for each in task.actions
    )
    return sorted(dict.fromkeys(events), key=lambda event: event.at)


def parse_report(result: object) -> Report | None:
    """Return the report of a run, None if there is none that can be understood."""
    try:
        return None if result is None else Report.from_dict(result)
    except MalformedReport:
        return None


def explanation(reason: str | None) -> tuple[str, str]:
    """Return meaning and remedy of a reason; empty for one that only another version knows."""
    if reason not in set(Reason):
        return "", ""
    found = explain(Reason(reason))
    return found.means, found.remedy
