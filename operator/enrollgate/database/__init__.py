"""Every SQL statement of the project: the task table we borrow, the two tables we own, SQLAlchemy Core over PyMySQL or SQLite.

`engine` opens a database and names what is wrong with it; `tables` describes the tables; `survey` asks whether there is anything to
do; `gate` holds the set-based statements about tasks; `runs` those about runs; `reading` what `status` shows; `inspection` what
`doctor` checks; `migrate` creates our tables. May import the domain only.
"""

from enrollgate.database.engine import (
    Database,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    RowHeld,
    open_database,
)
from enrollgate.database.migrate import migrate
from enrollgate.database.tables import Tables

__all__ = [
    "Database",
    "DatabaseMisconfigured",
    "DatabaseUnavailable",
    "RowHeld",
    "Tables",
    "migrate",
    "open_database",
]
