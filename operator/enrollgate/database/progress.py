"""How far the live runs are: read what is stored, and store what has changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    bindparam,
    case,
    func,
    select,
    true,
    update,
)

from enrollgate.database.engine import Database
from enrollgate.database.tables import PROGRESS, runs
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.report import Report
from enrollgate.domain.run import RunPlace, RunState

# Runs that one statement stores, at most.
BATCH = 100
_final_bytes = bindparam("final_bytes", type_=BigInteger)
# The last values of a run's progress. The worker's progress counts the bytes of all attempts, its
# report those of the last one.
_bytes_done = case(
    (_final_bytes > func.coalesce(runs.c.bytes_done, 0), _final_bytes), else_=runs.c.bytes_done
)
_final_percent = bindparam("final_percent", type_=Integer)
FINAL_COLUMNS: Mapping[str, ColumnElement[Any] | None] = {
    "items_done": func.coalesce(bindparam("final_items", type_=Integer), runs.c.items_done),
    "items_total": func.coalesce(bindparam("final_total", type_=Integer), runs.c.items_total),
    "percent": func.coalesce(_final_percent, runs.c.percent),
    "bytes_done": _bytes_done,
    "bytes_total": case((_final_percent == 100, _bytes_done), else_=runs.c.bytes_total),
    "bytes_per_second": None,
    "current_item": None,
    "destination_url": func.coalesce(bindparam("final_url", type_=Text), runs.c.destination_url),
}
_COLUMNS = tuple(PROGRESS)


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A launched run, and its progress as it is stored; None before the first one."""

    run_id: int
    name: str
    progress: RunProgress | None


def load_live(database: Database, installation: str, here: RunPlace) -> list[LiveRun]:
    """Return the launched runs that an operator here can observe, oldest first.

    Raises DatabaseUnavailable or DatabaseMisconfigured.
    """
    columns = (runs.c[column] for column in _COLUMNS)
    statement = (
        select(runs.c.id, runs.c.name, runs.c.progress_at, *columns)
        .where(
            runs.c.active == 1,
            runs.c.installation == installation,
            runs.c.state == RunState.LAUNCHED.value,
            runs.c.launcher == here.launcher,
            runs.c.place_id == here.place_id,
            # A local place may get another machine id, or have none.
            true() if here.launcher == "local" else runs.c.machine_id == here.machine_id,
        )
        .order_by(runs.c.id)
    )
    with database.read_transaction() as connection:
        rows = connection.execute(statement).all()
    return [
        LiveRun(
            row.id,
            row.name,
            None
            if row.progress_at is None
            else RunProgress(**{column: row._mapping[column] for column in _COLUMNS}),
        )
        for row in rows
    ]


def store(database: Database, changed: Mapping[int, RunProgress]) -> None:
    """Store the progress of up to BATCH live runs, by their row's id, in one statement.

    Raises DatabaseUnavailable or DatabaseMisconfigured.
    """

    def chosen(column: str) -> ColumnElement[object]:
        values = {run_id: getattr(progress, column) for run_id, progress in changed.items()}
        return case(values, value=runs.c.id)

    values: dict[str, ColumnElement[object]] = {column: chosen(column) for column in _COLUMNS}
    statement = (
        update(runs)
        .where(runs.c.id.in_(changed), runs.c.active == 1)
        .values(**values, progress_at=database.clock_expression())
    )
    database.run_in_transaction(lambda connection: connection.execute(statement))


def final_values(report: Report | None) -> dict[str, object]:
    """Return the parameters of FINAL_COLUMNS; without a report, the last progress stays."""
    values = dict.fromkeys(("final_items", "final_total", "final_percent", "final_bytes"))
    if report is None:
        return {**values, "final_url": None}
    is_complete = report.reason is None
    done = min(report.items_delivered + report.items_skipped, 2**31 - 1)  # what the column holds
    return {
        "final_items": done,
        "final_total": done if is_complete else None,
        "final_percent": 100 if is_complete else None,
        "final_bytes": report.bytes_delivered,
        "final_url": report.bounded().destination_url or None,
    }
