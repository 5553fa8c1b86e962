"""A burst of enrolled rows: one statement claims them, then they are launched in batches."""

from sqlalchemy import event
from tests.world import MemoryLauncher

from benchmarks.backlog import build_reconciler, connect, create_backlog, discard_logs, measure_ms


def measure_burst(name: str, url: str, tasks: int) -> list[dict[str, object]]:
    """Measure one full pass over `tasks` enrolled rows, and count its statements."""
    discard_logs()
    with connect(url) as database:
        create_backlog(database, tasks * 10, tasks, index=True, status="enrolled")
        claims: list[str] = []

        def note_claim(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if (
                statement.startswith("INSERT")
                and "enrollgate_runs" in statement.split("(", maxsplit=1)[0]
            ):
                claims.append(statement)

        event.listen(database.engine, "before_cursor_execute", note_claim)
        launcher = MemoryLauncher()
        reconciler = build_reconciler(database, runs=tasks, launcher=launcher)
        before = database.statements
        milliseconds = measure_ms(reconciler.reconcile)
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
