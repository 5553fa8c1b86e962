"""Builds the database and its tables from the settings."""

from enrollgate.database.engine import Database, open_database
from enrollgate.database.tables import Tables
from enrollgate.settings.operator import Settings


def build_database(settings: Settings) -> Database:
    """Build the database that the settings name. Does not connect yet."""
    return open_database(
        settings.sqlalchemy_url(),
        tls_ca=settings.database.tls_ca,
        tls_verify_hostname=settings.database.tls_verify_hostname,
    )


def build_tables(settings: Settings) -> Tables:
    """Build the task table and its statuses as the settings name them."""
    return Tables.named(settings.task_columns(), settings.statuses())
