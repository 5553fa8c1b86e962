"""`enrollgate migrate`: create or upgrade the tables that Enrollgate owns."""

from enrollgate.commands.console import OUT, settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.database import migrate as migrate_database


def migrate() -> None:
    """Migrate the tables, and print the revision before or after."""
    with database_or_fail(settings_or_fail()) as database:
        before, after = migrate_database(database)
    done = f"already at revision {after}" if before == after else f"migrated to revision {after}"
    OUT.print(f"{database.place}: {done}", markup=False, soft_wrap=True)
