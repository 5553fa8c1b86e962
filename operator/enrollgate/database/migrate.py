"""Creates and upgrades our tables, by Alembic.

A migration only adds. It is harmless to repeat and safe to run twice at once. Alembic is imported
where it is used: commands that only read must start quickly.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pymysql.constants import ER
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from enrollgate.database.engine import Database
from enrollgate.database.errors import DatabaseMisconfigured, DatabaseUnavailable, error_code

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

# Not Alembic's default name, which another program in the same database may use.
VERSION_TABLE = "enrollgate_schema_version"
# Another migration has just made the table, column, key or index that this one was about to make,
# or is making it while this one looks at it (1684: ER_WARN_I_S_SKIPPED_TABLE).
_MADE_MEANWHILE = {
    ER.TABLE_EXISTS_ERROR,
    ER.DUP_FIELDNAME,
    ER.DUP_KEYNAME,
    ER.TABLE_DEF_CHANGED,
    1684,
}


class _Overtaken(DatabaseUnavailable):
    """Another migration runs at the same time: look again at what is left to do."""

    def __init__(self) -> None:
        super().__init__("other migrations run at the same time: try again when they have ended")


def _configuration(connection: Connection | None = None) -> "Config":
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    configuration.attributes["version_table"] = VERSION_TABLE
    return configuration


def migrate(database: Database) -> tuple[str | None, str]:
    """Upgrade our tables. Return the revision before (None on a first run) and after.

    The tables of a newer version are left as they are: it has only added to what this one knows.
    Two migrations may run at the same time. MySQL commits every DDL statement by itself, so no row
    lock keeps them apart, and a cluster or a proxy may refuse GET_LOCK. Instead, every step can be
    repeated: the one that comes second looks again at what is left to do.

    Raises DatabaseUnavailable or DatabaseMisconfigured.
    """
    from alembic import command
    from alembic.util import CommandError

    def upgrade(connection: Connection) -> tuple[str | None, str]:
        before = _revision(connection)
        if before is not None and is_newer(before):
            return before, before
        try:
            command.upgrade(_configuration(connection), "head")
        except CommandError as error:  # the revision is not the one that was read any more
            raise _Overtaken() from error
        except DBAPIError as error:
            if error_code(error) in _MADE_MEANWHILE:
                raise _Overtaken() from error
            raise
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
    return Retrying(
        retry=retry_if_exception_type(_Overtaken),
        stop=stop_after_attempt(20),
        wait=wait_random(max=0.5),
        reraise=True,
    )(lambda: database.run_in_transaction(upgrade))


def _revision(connection: Connection) -> str | None:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()


def _scripts() -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_configuration())


def head() -> str:
    """Return the newest revision that this program knows."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise AssertionError("the package carries no migrations")
    return revision


def is_newer(revision: str) -> bool:
    """Return whether this revision is of a later version of this program.

    That is so after a `helm rollback`, for example.
    """
    known = _scripts().walk_revisions()
    return revision not in {script.revision for script in known}


def current(database: Database) -> str | None:
    """Return the revision of the database, None if `enrollgate migrate` never ran."""
    with database.read_transaction() as connection:
        return _revision(connection)
