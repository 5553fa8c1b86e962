"""Delete runs that finished long ago, so that the table does not grow for ever."""

from datetime import timedelta

from sqlalchemy import delete, exists, select

from enrollgate.database.engine import Database
from enrollgate.database.tables import runs, tracked_tasks

# Runs that one call deletes, at most.
PRUNE_LIMIT = 500


def prune(database: Database, history: timedelta) -> int:
    """Delete up to PRUNE_LIMIT runs that finished longer ago than `history`. Return how many.

    Those of waiting and enrolled tasks stay: decisions count them. Raises DatabaseUnavailable or
    DatabaseMisconfigured.
    """
    is_open = exists().where(tracked_tasks.c.task_id == runs.c.task_id).correlate(runs)
    old = (
        select(runs.c.id)
        .where(
            runs.c.finished_at < database.now() - history,
            runs.c.active.is_(None),
            ~is_open,
        )
        .order_by(runs.c.finished_at)
        .limit(PRUNE_LIMIT)
    )
    with database.read_transaction() as connection:
        ids = connection.scalars(old).all()
    if not ids:
        return 0
    # Node.js may have set a task back meanwhile, but no run becomes unfinished again.
    statement = delete(runs).where(runs.c.id.in_(ids), runs.c.active.is_(None))
    return database.run_in_transaction(lambda connection: connection.execute(statement).rowcount)
