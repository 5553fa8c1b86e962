"""`enrollgate migrate`: create or upgrade the tables and the view that Enrollgate owns."""

import typer

from enrollgate.commands.console import settings_or_fail
from enrollgate.commands.database import database_or_fail
from enrollgate.common.redaction import printable
from enrollgate.database import migrate as migrate_database
from enrollgate.database.configured import build_tables
from enrollgate.database.task_status import VIEW, ensure_view


def migrate() -> None:
    """Migrate the tables and the view, and print the revision before or after.

    Without the view, a line says what is missing: the operator works all the same.
    """
    settings = settings_or_fail()
    with database_or_fail(settings, creates_file=True) as database:
        before, after = migrate_database(database)
        problem = ensure_view(database, build_tables(settings), settings.installation)
    done = f"already at revision {after}" if before == after else f"migrated to revision {after}"
    typer.echo(f"{printable(database.place)}: {done}")
    if problem:
        without = f"without {VIEW}: {problem.problem}: {problem.remedy}"
        typer.echo(printable(without))
