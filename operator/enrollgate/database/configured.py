"""Builds the database and its tables from the settings."""

from collections.abc import Callable

from enrollgate.database.engine import Database, open_database
from enrollgate.database.errors import DatabaseError
from enrollgate.database.tables import Tables
from enrollgate.settings.operator import Settings


def build_database(
    settings: Settings,
    *,
    creates_file: bool = False,
    on_error: Callable[[DatabaseError], None] = lambda _error: None,
) -> Database:
    """Build the database that the settings name. Does not connect yet.

    Only with `creates_file`, a SQLite file that is missing is created. `on_error` is called with
    each error.
    """
    return open_database(
        settings.sqlalchemy_url(),
        tls_ca=settings.database.tls_ca,
        tls_verify_hostname=settings.database.tls_verify_hostname,
        creates_file=creates_file,
        on_error=on_error,
    )


def build_tables(settings: Settings) -> Tables:
    """Build the task table and its statuses as the settings name them."""
    return Tables.named(settings.task_columns(), settings.statuses())
