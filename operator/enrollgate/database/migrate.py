"""Creates and upgrades our two tables, by Alembic.

A migration only adds. It is harmless to repeat and safe to run twice at once.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from enrollgate.database.engine import Database, NamedLock
from enrollgate.database.errors import DatabaseMisconfigured

# Not Alembic's default name, which another program in the same database may use.
VERSION_TABLE = "enrollgate_schema_version"
_ONE_AT_A_TIME = NamedLock(
    "enrollgate_migrate",
    60,
    "another `enrollgate migrate` is still running: try again when it has finished",
)


def _configuration(connection: Connection | None = None) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    configuration.attributes["version_table"] = VERSION_TABLE
    return configuration


def migrate(database: Database) -> tuple[str | None, str]:
    """Upgrade our tables. Return the revision before (None on a first run) and after.

    The tables of a newer version are left as they are: it has only added to what this one knows.
    MySQL commits every DDL statement by itself, so a named lock keeps two migrations from running
    at the same time. On SQLite the IMMEDIATE transaction does.

    Raises DatabaseUnavailable or DatabaseMisconfigured.
    """

    def upgrade(connection: Connection) -> tuple[str | None, str]:
        before = _revision(connection)
        if before is not None and is_newer(before):
            return before, before
        command.upgrade(_configuration(connection), "head")
        return before, head()

    if database.is_sqlite:
        folder = Path(database.place).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseMisconfigured(
                f"the folder {folder} of the SQLite file cannot be created ({error.strerror}): "
                "create it, or name another file in ENROLLGATE_DATABASE_URL "
                "(without it, the file is in ENROLLGATE_WORK_DIR)"
            ) from error
    return database.run_in_transaction(upgrade, lock=_ONE_AT_A_TIME)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()


def head() -> str:
    """Return the newest revision that this program knows."""
    revision = ScriptDirectory.from_config(_configuration()).get_current_head()
    if revision is None:
        raise AssertionError("the package carries no migrations")
    return revision


def is_newer(revision: str) -> bool:
    """Return whether this revision is of a later version of this program.

    That is so after a `helm rollback`, for example.
    """
    known = ScriptDirectory.from_config(_configuration()).walk_revisions()
    return revision not in {script.revision for script in known}


def current(database: Database) -> str | None:
    """Return the revision of the database, None if `enrollgate migrate` never ran."""
    with database.read_transaction() as connection:
        return _revision(connection)
