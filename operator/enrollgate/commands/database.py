"""The database as the commands use it: an error of it ends the command with a message."""

from collections.abc import Iterator
from contextlib import contextmanager

from enrollgate.commands.console import fail
from enrollgate.database import Database, DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.database.configured import build_database
from enrollgate.database.engine import require_file
from enrollgate.settings.operator import Settings


@contextmanager
def database_or_fail(settings: Settings, *, creates_file: bool = False) -> Iterator[Database]:
    """Give the database, and close it at the end.

    If it is misconfigured, end the command with exit code 2; if it is away, with 1. A SQLite file
    that is missing is created only with `creates_file`; otherwise it ends the command with 2.
    """
    database = build_database(settings, creates_file=creates_file)
    try:
        if not creates_file:
            require_file(database.engine.url)
        yield database
    except DatabaseMisconfigured as error:
        fail(error)
    except DatabaseUnavailable as error:
        fail(error, 1)
    finally:
        database.close()
