"""`enrollgate plan`: what the operator would do if it started now. Nothing is written or launched.

It is meant for the first start on a table that has rows already, so our tables need not exist yet.
"""

import json
from dataclasses import asdict, dataclass

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from enrollgate.commands.console import fail, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.commands.status import task_lines
from enrollgate.common.redaction import printable
from enrollgate.control.policy import build_policy
from enrollgate.database import Database, Tables, hold_views, queries
from enrollgate.database.configured import build_tables
from enrollgate.database.migrate import current
from enrollgate.database.preflight import check_task_table
from enrollgate.domain.check import Severity
from enrollgate.domain.planner import Launch, Record, plan
from enrollgate.domain.policy import Policy
from enrollgate.domain.run import RunPlace, RunState, UnfinishedRun, run_name
from enrollgate.domain.task import TaskState

# Enrolled rows that are looked at one by one.
_LOOKED_AT = 1000
# Ids that are named.
_IDS = 10


@dataclass(frozen=True, slots=True)
class Refusal:
    """An enrolled row that cannot be run: its task fails at once."""

    task_id: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What the operator would do. `enrolled` and `waiting` count rows, `launches` names ids.

    `launches` and `refusals` are about the first enrolled rows, `looked_at` of them. `open_holds`
    counts holds and pauses: their tasks wait before they are launched.
    """

    tasks: queries.StatusCounts
    enrolled: int
    launches: list[int]
    refusals: list[Refusal]
    looked_at: int
    waiting: int
    first_waiting: list[int]
    overdue: int
    open_holds: int


def print_plan(*, as_json: bool) -> None:
    """Print what the first passes would do. Ends with 2 if the task table cannot be used."""
    settings = settings_or_fail()
    tables, policy = build_tables(settings), build_policy(settings)
    with database_or_fail(settings) as database:
        problems = [
            f"{check.detail}: {check.remedy}"
            for check in check_task_table(database, tables)
            if check.severity is Severity.FAILED
        ]
        if problems:
            fail("\n".join(problems))
        preview = load_preview(database, tables, policy, settings.installation)
    if as_json:
        typer.echo(json.dumps(asdict(preview), indent=2))
    else:
        Console(emoji=False).print(render(preview, tables, policy))


def load_preview(database: Database, tables: Tables, policy: Policy, installation: str) -> Preview:
    """Load what the operator would do. Raises DatabaseUnavailable or DatabaseMisconfigured."""
    counts = queries.count_by_status(database, tables)

    def count(*statuses: str) -> int:
        return sum(each.tasks for each in counts.listed if each.configured_status in statuses)

    here = RunPlace("plan", installation)  # nothing is launched, so any place will do
    enrolled = queries.first_open_rows(database, tables, tables.statuses.enrolled, limit=_LOOKED_AT)
    claimed = [
        UnfinishedRun(
            run_id=0,
            task_id=row.task_id,
            run_number=1,
            name=run_name(installation, row.task_id, 1),
            state=RunState.CLAIMED,
            task=TaskState.ENROLLED,
            task_status=row.status,
            email=row.email,
            course_url=row.course_url,
            place=here,
        )
        for row in enrolled
    ]
    actions = plan(claimed, {}, policy, here)
    waiting = queries.first_open_rows(database, tables, *tables.statuses.waiting, limit=_IDS)
    is_first_start = current(database) is None
    holds = (
        [] if is_first_start else hold_views.read_holds(database, tables, installation=installation)
    )
    return Preview(
        tasks=counts,
        enrolled=count(tables.statuses.enrolled),
        launches=[action.run.task_id for action in actions if isinstance(action, Launch)],
        refusals=[
            Refusal(action.run.task_id, action.reason.value, action.message)
            for action in actions
            if isinstance(action, Record) and action.reason is not None
        ],
        looked_at=len(enrolled),
        waiting=count(*tables.statuses.waiting),
        first_waiting=[row.task_id for row in waiting],
        overdue=queries.count_overdue(database, tables, policy.enrollment_timeout),
        open_holds=len(holds),
    )


def render(preview: Preview, tables: Tables, policy: Policy) -> RenderableType:
    """Return the preview as tables for a terminal."""
    timeout = f"{policy.enrollment_timeout:g} s"
    first = f" of the first {preview.looked_at}" if preview.looked_at == _LOOKED_AT else ""
    table = Table(
        "what", "rows", "task ids", title="If the operator starts now", title_justify="left"
    )
    table.add_row(
        f"launch{first}, {policy.max_concurrent_runs} at the same time",
        str(len(preview.launches)),
        _first(preview.launches),
    )
    table.add_row(
        f"fail at once{first}: the row cannot be run",
        str(len(preview.refusals)),
        _first([each.task_id for each in preview.refusals]),
    )
    table.add_row(
        "fail at once: known as waiting for longer than the timeout", str(preview.overdue), ""
    )
    table.add_row(
        f"fail {timeout} after they were first seen, unless Node.js moves them on",
        str(preview.waiting - preview.overdue),
        _first(preview.first_waiting),
    )
    by_status = "\n".join(["Tasks by status", *task_lines(preview.tasks, tables), ""])
    shown: list[RenderableType] = [Text(by_status), table]
    for refusal in preview.refusals[:_IDS]:
        line = f"task {refusal.task_id}: {refusal.reason}: {refusal.message}"
        shown.append(Text(printable(line), style="yellow"))
    if preview.open_holds:
        line = f"On hold or paused: {preview.open_holds}. Tasks wait for it (`enrollgate holds`)."
        shown.append(Text(line, style="yellow"))
    hint = "Nothing was written. "
    if preview.waiting or preview.launches:
        hint += (
            f"Rows that must not run: set them to {tables.statuses.completed!r} or "
            f"{tables.statuses.failed!r} first. Rows that need longer: raise "
            "ENROLLGATE_ENROLLMENT_TIMEOUT."
        )
    shown.append(Text(hint))
    return Group(*shown)


def _first(ids: list[int]) -> str:
    """Return the first ids as text."""
    return ", ".join(map(str, ids[:_IDS])) + (", ..." if len(ids) > _IDS else "")
