"""A burst of enrolled rows: claimed in one statement, launched in batches."""

import structlog
from sqlalchemy import event
from tests.world import MemoryLauncher

from benchmarks.backlog import fill, opened, operator, timed


def measure_burst(name: str, url: str, tasks: int) -> list[dict[str, object]]:
    structlog.configure(processors=[_drop])
    with opened(url) as database:
        fill(database, tasks * 10, tasks, index=True, status="enrolled")
        claims: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if (
                statement.startswith("INSERT")
                and "enrollgate_runs" in statement.split("(", maxsplit=1)[0]
            ):
                claims.append(statement)

        event.listen(database.engine, "before_cursor_execute", note)
        launcher = MemoryLauncher()
        reconciler = operator(database, runs=tasks, launcher=launcher)
        before = database.statements
        milliseconds = timed(reconciler.reconcile)
        return [
            {
                "database": name,
                "enrolled": tasks,
                "launched": len(launcher.orders),
                "claim_statements": len(claims),
                "statements": database.statements - before,
                "pass_ms": milliseconds,
            }
        ]


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent
