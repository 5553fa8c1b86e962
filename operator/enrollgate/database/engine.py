"""Opens a database, and turns what goes wrong with it into two kinds of news: *try again* and *mend this*.

READ COMMITTED on MySQL and MariaDB, so that no statement holds locks on rows it does not change; on SQLite every writing
transaction begins IMMEDIATE, so that two operators queue up where they would otherwise deadlock.
"""

import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

import stamina
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import ConnectionPoolEntry

from enrollgate.common.redaction import redact

T = TypeVar("T")

CONNECT_TIMEOUT = 10
"""Seconds to open a connection."""
STATEMENT_TIMEOUT = 120
"""Seconds that one statement may be silent; the slowest, a first sighting without an index, takes a few."""
LOCK_TIMEOUT = 3
"""Seconds to wait for a row, or a whole table (LOCK TABLES, ALTER), that another transaction holds."""
_SQLITE_LOCK_TIMEOUT = 10
"""Seconds to wait for another writer: SQLite knows one lock, for the whole file."""

_SESSION = (
    "SET SESSION sql_mode='STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', "
    f"SESSION innodb_lock_wait_timeout={LOCK_TIMEOUT}, SESSION lock_wait_timeout={LOCK_TIMEOUT}"
)
_LOCK_NAME = "CONCAT(:name, '-', LEFT(SHA2(DATABASE(), 256), 12))"
"""Named locks are the server's, and it may have other databases with an installation of the same name. 64 characters at most."""
# https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
_LOCK_WAIT_TIMEOUT, _DEADLOCK = 1205, 1213
_REMEDIES = {
    1044: "grant the user access to this database",
    1045: "check the user name and the password in ENROLLGATE_DATABASE_URL or ENROLLGATE_DATABASE__PASSWORD",
    1049: "create the database, or mend its name in ENROLLGATE_DATABASE_URL or ENROLLGATE_DATABASE__NAME",
    1054: "name the column that exists in ENROLLGATE_ID_COLUMN, _STATUS_COLUMN, _EMAIL_COLUMN or _COURSE_URL_COLUMN",
    1130: "let the user log in from this host: CREATE USER 'name'@'%', and grant it the same",
    1142: "grant the user SELECT and UPDATE on the task table, and ALL on the tables enrollgate_*",
    1143: "grant the user SELECT on the task table's columns and UPDATE on its status column",
    1146: "let Node.js create the task table (or name it in ENROLLGATE_TASK_TABLE), and run `enrollgate migrate`",
    1227: "grant the user the privilege that the message names",
    1265: "the status column cannot hold a status word; if it is an ENUM, add the word to it",
    1290: "the server is read-only: point Enrollgate at the primary",
    1370: "grant the user the privilege that the message names",
    1698: "let the user log in by a password: this one may only through the server's own socket",
    1820: "the user's password is expired: set a new one",
    1836: "the server is read-only: point Enrollgate at the primary",
    1862: "the user's password is expired: set a new one",
    2026: "let the server speak TLS, or remove ENROLLGATE_DATABASE__TLS_CA",
    2059: "let the user log in by a method that PyMySQL knows, such as caching_sha2_password",
    3118: "the user's account is locked: ALTER USER ... ACCOUNT UNLOCK",
    3159: "the server insists on TLS: set ENROLLGATE_DATABASE__TLS_CA",
}


_CERTIFICATES = {
    "mismatch": "name the server in ENROLLGATE_DATABASE__HOST (or _URL) as its certificate does, "
    "or set ENROLLGATE_DATABASE__TLS_VERIFY_HOSTNAME=false",
    "expired": "renew the server's certificate",
    "": "name the CA that signed the server's certificate in ENROLLGATE_DATABASE__TLS_CA",
}


class DatabaseUnavailable(Exception):
    """The database cannot be reached, or lost the connection, or another transaction was in the way: try again."""


class RowHeld(DatabaseUnavailable):
    """Another transaction held a row, or its table, for longer than LOCK_TIMEOUT: other rows may be free all the same."""


class DatabaseMisconfigured(Exception):
    """The database refuses what we do, and will until someone mends what the message names."""


@dataclass(frozen=True, slots=True)
class NamedLock:
    """A lock of the server's, by which transactions follow one another."""

    name: str
    timeout: int
    """Seconds to wait for it; less than STATEMENT_TIMEOUT."""
    refusal: str
    """What is said when it was not to be had."""


class Clock(Protocol):
    """Tells the time, in UTC without a time zone; in production the database's own."""

    def __call__(self, connection: Connection, /) -> datetime:
        """The time now."""
        ...


def database_clock(connection: Connection) -> datetime:
    """The database server's UTC clock: one clock for all operators, whatever their machines think."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC).replace(tzinfo=None)
    now: datetime = connection.execute(text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    return now


class Database:
    """One database: short reading and writing transactions, counted statements, translated errors."""

    def __init__(self, engine: Engine, clock: Clock = database_clock) -> None:
        self.engine = engine
        self.clock = clock
        self.statements = 0
        """Statements sent since the start; a pass over an idle backlog sends a constant number."""
        event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        self.statements += not statement.startswith("BEGIN")

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @property
    def place(self) -> str:
        """Which database this is, as people would name it; no user, no password."""
        url = self.engine.url
        return str(url.database) if self.is_sqlite else f"{url.database} on {url.host}"

    @contextmanager
    def read_transaction(self) -> Iterator[Connection]:
        """A transaction that only reads. Raises DatabaseUnavailable or DatabaseMisconfigured."""
        with translated(), self.engine.begin() as connection:
            yield connection

    def run_in_transaction(
        self, change: Callable[[Connection], T], *, lock: NamedLock | None = None
    ) -> T:
        """Runs `change` in a transaction that writes; once more, up to five times, if another one was in its way.

        With `lock`, the transactions of that lock follow one another, each seeing what the last has committed.

        Raises DatabaseUnavailable (RowHeld, if a row was not to be had) or DatabaseMisconfigured. When the connection breaks
        during the commit nobody knows whether it took place: every change is written so that doing it again is harmless.
        """
        engine = self.engine.execution_options(enrollgate_writes=True)

        def attempt() -> T:
            with engine.connect() as connection, self._locked(connection, lock), connection.begin():
                return change(connection)

        with translated():
            for each in stamina.retry_context(
                on=_in_the_way, attempts=5, wait_initial=0.02, wait_max=0.5
            ):
                with each:
                    return attempt()
        raise AssertionError("unreachable: the last attempt returns or raises")

    @contextmanager
    def _locked(self, connection: Connection, lock: NamedLock | None) -> Iterator[None]:
        """Holds the lock until after the commit. SQLite has one writer at a time anyway."""
        if lock is None or self.is_sqlite:
            yield
            return
        values = {"name": lock.name, "seconds": lock.timeout}
        taken = connection.execute(
            text(f"SELECT GET_LOCK({_LOCK_NAME}, :seconds)"), values
        ).scalar()
        connection.commit()
        if taken != 1:
            raise DatabaseUnavailable(lock.refusal)
        try:
            yield
        finally:
            try:
                connection.execute(text(f"SELECT RELEASE_LOCK({_LOCK_NAME})"), {"name": lock.name})
                connection.commit()
            except DBAPIError:
                connection.invalidate()  # the lock goes with its connection

    def now(self) -> datetime:
        """The time by the database's clock, UTC."""
        with self.read_transaction() as connection:
            return self.clock(connection)

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def open_database(
    url: URL,
    *,
    tls_ca: Path | None = None,
    tls_verify_hostname: bool = True,
    clock: Clock = database_clock,
) -> Database:
    """Opens `sqlite:///path` or `mysql+pymysql://...`. Does not connect yet, so it does not fail yet."""
    if url.get_backend_name() == "sqlite":
        return Database(_open_sqlite(url), clock)
    arguments: dict[str, object] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": STATEMENT_TIMEOUT,
        "write_timeout": STATEMENT_TIMEOUT,
        "charset": "utf8mb4",
        "init_command": _SESSION,
    }
    if (
        url.password is not None
    ):  # as MySQL's own clients send it; of a text PyMySQL would make Latin-1
        arguments["password"] = str(url.password).encode()
    if tls_ca is not None:
        arguments["ssl"] = {"ca": str(tls_ca), "check_hostname": tls_verify_hostname}
    engine = create_engine(
        url,
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # no row's content in an error
        pool_size=2,
        max_overflow=2,
        pool_timeout=CONNECT_TIMEOUT,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args=arguments,
    )
    if tls_ca is not None:
        event.listen(engine, "do_connect", lambda *_: _check_certificates(tls_ca))
    return Database(engine, clock)


def _check_certificates(path: Path) -> None:
    """Before each connection, since a mounted file may change or go. Raises DatabaseMisconfigured."""
    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as error:
        what = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        remedy = "name the CA's certificate, a file in PEM format that can be read"
        raise DatabaseMisconfigured(
            f"ENROLLGATE_DATABASE__TLS_CA={path}: {what}: {remedy}"
        ) from error


def _open_sqlite(url: URL) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, connect_args={"timeout": _SQLITE_LOCK_TIMEOUT}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        cursor = connection.cursor()
        # The change to WAL is refused at once, without waiting, while another connection makes it.
        for attempt in stamina.retry_context(
            on=sqlite3.OperationalError, attempts=20, wait_initial=0.02, wait_max=0.5
        ):
            with attempt:
                cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("enrollgate_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def error_code(error: DBAPIError) -> int | None:
    """MySQL's error number, if the error has one."""
    arguments = error.orig.args if error.orig is not None else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def _in_the_way(error: Exception) -> bool:
    if isinstance(
        error, IntegrityError
    ):  # another operator claimed the same attempt in the same moment
        return True
    if not isinstance(error, OperationalError):
        return False
    return error_code(error) == _DEADLOCK or "database is locked" in str(error.orig)


@contextmanager
def translated() -> Iterator[None]:
    """Turns SQLAlchemy's errors into DatabaseUnavailable and DatabaseMisconfigured, without secrets or row contents."""
    try:
        yield
    except DBAPIError as error:
        raise _translate(error) from error
    except SQLAlchemyError as error:
        raise DatabaseUnavailable(
            f"the database did not answer: {redact(str(error), 300)}"
        ) from error
    except RuntimeError as error:
        # PyMySQL raises a bare RuntimeError when a server's password plug-in needs the `cryptography` package.
        if "cryptography" not in str(error):
            raise
        raise DatabaseMisconfigured(f"{error}; install PyMySQL[rsa]") from error


def _remedy(code: int | None, detail: str) -> str | None:
    if code is not None and "CERTIFICATE_VERIFY_FAILED" in detail:
        return next(remedy for sign, remedy in _CERTIFICATES.items() if sign in detail)
    return None if code is None else _REMEDIES.get(code)


def _translate(error: DBAPIError) -> Exception:
    code = error_code(error)
    detail = redact(
        str(error.orig.args[-1] if error.orig is not None and error.orig.args else error), 300
    )
    if remedy := _remedy(code, detail):
        return DatabaseMisconfigured(f"{detail} (MySQL error {code}): {remedy}")
    if code is None:
        return _translate_sqlite(detail)
    if code == _LOCK_WAIT_TIMEOUT:
        return RowHeld(
            f"another transaction holds a row, or the table (MySQL error {code}): let it end without delay"
        )
    if isinstance(error, OperationalError | InterfaceError | IntegrityError):
        return DatabaseUnavailable(f"{detail} (MySQL error {code})")
    if isinstance(error, ProgrammingError):
        return DatabaseMisconfigured(
            f"{detail} (MySQL error {code}): see the server's error reference"
        )
    return DatabaseUnavailable(f"{detail} (MySQL error {code})")


def _translate_sqlite(detail: str) -> Exception:
    remedies = {
        "no such table": _REMEDIES[1146],
        "no such column": _REMEDIES[1054],
        "readonly database": "make the file and its folder writable",
        "unable to open": "see that the file's folder exists (`enrollgate migrate` makes it) and is writable",
        "not a database": "point ENROLLGATE_DATABASE_URL at a SQLite file",
        "full": "free some disk space",
    }
    for sign, remedy in remedies.items():
        if sign in detail:
            return DatabaseMisconfigured(f"{detail}: {remedy}")
    return DatabaseUnavailable(detail)
