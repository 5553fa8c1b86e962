"""Every SQL statement of the project, about Node.js's task table and our own tables.

They are written with SQLAlchemy Core, for PyMySQL and SQLite.

    engine      opens a database, runs transactions, sorts its errors
    errors      what the servers' errors mean, and what to do about them
    tables      describes the tables
    task_status the view of Node.js's tasks, for Node.js and for people
    task_table  asks the database what Node.js's table is like
    backlog     asks whether there is anything to do at the gate
    tasks       the set-based statements about tasks
    claims      claims runs for enrolled tasks
    runs        reads and records the claimed runs
    set_aside   sets tasks aside that are refused
    steering    what people do to tasks and holds
    hold_views  what people see of holds, and of what was done
    queries     what `status` shows
    task_details what `explain` shows
    preflight   what `doctor` checks, and what must be right before the operator starts
    migrate     creates our tables
    configured  builds the database and its tables from the settings

It imports `settings`, `domain` and `common` only.
"""

from enrollgate.database.engine import Database, open_database
from enrollgate.database.errors import (
    DatabaseError,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    RowHeld,
    RowRefused,
    RowTimedOut,
)
from enrollgate.database.migrate import migrate
from enrollgate.database.tables import Tables

__all__ = [
    "Database",
    "DatabaseError",
    "DatabaseMisconfigured",
    "DatabaseUnavailable",
    "RowHeld",
    "RowRefused",
    "RowTimedOut",
    "Tables",
    "migrate",
    "open_database",
]
