"""Creates and upgrades the two tables we own, by Alembic: additive only, harmless to repeat, safe to run twice at once."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from enrollgate.database.engine import Database, DatabaseMisconfigured, NamedLock

VERSION_TABLE = "enrollgate_schema_version"
"""Not Alembic's default name: the Node.js side may use Alembic's neighbours in the same database."""
_ONE_AT_A_TIME = NamedLock(
    "enrollgate_migrate",
    60,
    "another `enrollgate migrate` is still running: try again when it has ended",
)


def _configuration(connection: Connection | None = None) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    configuration.attributes["version_table"] = VERSION_TABLE
    return configuration


def migrate(database: Database) -> tuple[str | None, str]:
    """Brings our tables up to date. Gives the revision before (None on a first run) and after. A newer version's tables are
    left as they are: it has only added to what this one knows.

    Raises DatabaseUnavailable or DatabaseMisconfigured. MySQL commits every DDL statement by itself, so a named lock keeps
    two migrations pinned_cpus there; on SQLite the IMMEDIATE transaction does.
    """

    def upgrade(connection: Connection) -> tuple[str | None, str]:
        before = _revision(connection)
        if before is not None and is_newer(before):
            return before, before
        command.upgrade(_configuration(connection), "head")
        return before, head()

    if database.is_sqlite:
        _make_folder(Path(database.place).parent)
    return database.run_in_transaction(upgrade, lock=_ONE_AT_A_TIME)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseMisconfigured(
            f"the folder {folder} of the SQLite file cannot be made ({error.strerror}): make it, or name another file in "
            "ENROLLGATE_DATABASE_URL (without it, the file is in ENROLLGATE_WORK_DIR)"
        ) from error


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()


def head() -> str:
    """The newest revision this program knows."""
    revision = ScriptDirectory.from_config(_configuration()).get_current_head()
    if revision is None:
        raise AssertionError("the package carries no migrations")
    return revision


def is_newer(revision: str) -> bool:
    """Whether only a later version of this program can have left this revision (before a `helm rollback`, say)."""
    known = ScriptDirectory.from_config(_configuration()).walk_revisions()
    return revision not in {script.revision for script in known}


def current(database: Database) -> str | None:
    """The revision the database is at, None if `enrollgate migrate` never ran."""
    with database.read_transaction() as connection:
        return _revision(connection)
