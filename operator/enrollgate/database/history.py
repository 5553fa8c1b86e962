"""Delete what ended long ago, so that no table of ours grows for ever."""

from datetime import timedelta

from sqlalchemy import Connection, delete, exists, select

from enrollgate.database.engine import Database
from enrollgate.database.tables import actions, holds, runs, tracked_tasks

# Runs that one call deletes, at most; and as many holds and actions.
PRUNE_LIMIT = 500


def prune(database: Database, history: timedelta) -> int:
    """Delete up to PRUNE_LIMIT runs that finished longer ago than `history`. Return how many.

    Those of waiting and enrolled tasks stay: decisions count them. As many holds that were closed,
    and actions, are deleted as well. Raises DatabaseUnavailable or DatabaseMisconfigured.
    """
    is_open = exists().where(tracked_tasks.c.task_id == runs.c.task_id).correlate(runs)
    oldest = database.now() - history
    old_runs = select(runs.c.id).where(
        runs.c.finished_at < oldest, runs.c.active.is_(None), ~is_open
    )
    old_holds = select(holds.c.id).where(holds.c.closed_at < oldest)
    old_actions = select(actions.c.id).where(actions.c.acted_at < oldest)
    with database.read_transaction() as connection:
        run_ids, hold_ids, action_ids = (
            connection.scalars(statement.limit(PRUNE_LIMIT)).all()
            for statement in (old_runs.order_by(runs.c.finished_at), old_holds, old_actions)
        )

    def remove(connection: Connection) -> int:
        connection.execute(delete(holds).where(holds.c.id.in_(hold_ids)))
        connection.execute(delete(actions).where(actions.c.id.in_(action_ids)))
        # Node.js may have set a task back meanwhile, but no run becomes unfinished again.
        finished = delete(runs).where(runs.c.id.in_(run_ids), runs.c.active.is_(None))
        return connection.execute(finished).rowcount

    if not (run_ids or hold_ids or action_ids):
        return 0
    return database.run_in_transaction(remove)
