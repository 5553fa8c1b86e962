"""Opens a database, and runs transactions: again, where another one was in the way.

READ COMMITTED on MySQL and MariaDB, so that no statement locks rows it does not change. On SQLite
every transaction that writes begins IMMEDIATE, so that two operators wait for each other instead of
failing.

A server gets two kinds of connections. On one, each statement is a transaction of its own, and
costs one round trip. The other one is for transactions of several statements.
"""

import hashlib
import os
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, cast
from urllib.parse import urlsplit

import pymysql
from pymysql.constants import ER
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    ExceptionContext,
    Executable,
    Integer,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    DBAPIError,
    DisconnectionError,
)
from sqlalchemy.pool import ConnectionPoolEntry
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from enrollgate.common.redaction import redact
from enrollgate.database.errors import (
    READ_ONLY,
    DatabaseError,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    RowRefused,
    RowTimedOut,
    error_code,
    is_conflict,
    is_dubious,
    is_timeout,
    translated,
)
from enrollgate.database.tables import INSTANT, decode_text, tracked_tasks
from enrollgate.domain.account import account_sha256
from enrollgate.domain.hosts import normal_host

T = TypeVar("T")

# Seconds to open a connection.
CONNECT_TIMEOUT = 5
# Seconds that one statement may take; the slowest, tracking new tasks without an index, takes a
# few. With CONNECT_TIMEOUT it is what a connection that dies silently costs: 30 seconds.
STATEMENT_TIMEOUT = 25
# Seconds after which the server gives up such a statement, before we do: so the error has a name.
SERVER_TIMEOUT = STATEMENT_TIMEOUT - 1
# Seconds after which the server ends a session that sends nothing. So the rows that a frozen
# operator holds are free again before Node.js gives up: by default, it waits 50 seconds for a row.
IDLE_TIMEOUT = 30
# Seconds to wait for a row, or a whole table (LOCK TABLES, ALTER), that another transaction holds.
LOCK_TIMEOUT = 3
# Seconds that a statement about one row may take. It is longer than LOCK_TIMEOUT, so that a lock is
# named as one. A trigger that sleeps or loops must not delay the other tasks for STATEMENT_TIMEOUT.
ROW_TIMEOUT = 6
# Steps of SQLite's virtual machine between two looks at the clock: some milliseconds.
_SQLITE_STEPS = 100_000
# Seconds to wait for another writer: SQLite has one lock, for the whole file.
_SQLITE_LOCK_TIMEOUT = 10
# Seconds after which an unused connection is checked before it is used.
_CHECK_AFTER = 1.0
_RETRY_WAIT = wait_exponential_jitter(multiplier=0.02, max=0.5, jitter=0.5)

_SESSION = (
    "SET SESSION sql_mode='STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', "
    f"SESSION innodb_lock_wait_timeout={LOCK_TIMEOUT}, SESSION lock_wait_timeout={LOCK_TIMEOUT}, "
    # Whatever the server's defaults are: they are meant for people who type statements.
    "SESSION sql_safe_updates=0, SESSION sql_big_selects=1, "
    "SESSION sql_select_limit=18446744073709551615, "
    f"SESSION wait_timeout={IDLE_TIMEOUT} "
    # The server itself ends a statement that we stop waiting for: else a slow view would let one
    # more of them work there after each pass. MariaDB's variable, and MySQL's, which is for SELECT
    # (https://mariadb.com/kb/en/comment-syntax/: each server skips the other's comment).
    f"/*M!100101 , SESSION max_statement_time={SERVER_TIMEOUT} */"
    f"/*!50708 , SESSION max_execution_time={SERVER_TIMEOUT * 1000} */"
)


class Clock(Protocol):
    """A source of the time in UTC, without a time zone; in production the database's own clock."""

    def __call__(self, *, is_sqlite: bool) -> ColumnElement[datetime]:
        """Build the expression of the time at which a statement is executed.

        Statements are kept, and executed again.
        """
        ...


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def database_clock(*, is_sqlite: bool) -> ColumnElement[datetime]:
    """Build the expression of the database server's UTC time.

    So all operators share one clock, whatever the clocks of their machines say. SQLite has no
    server: there it is the clock of this machine, to the microsecond.
    """
    if is_sqlite:
        return bindparam("now", type_=INSTANT, unique=True, callable_=_now)
    return func.utc_timestamp(text("6"), type_=INSTANT)


class Database:
    """One database: short transactions, counted statements, translated errors.

    `engine` is for transactions, `autocommit_engine` for single statements. `statements` is how
    many statements were sent since the start; a pass over an idle backlog sends a constant number.
    `on_error` is called with each error before it is raised.
    """

    def __init__(
        self,
        engine: Engine,
        autocommit_engine: Engine,
        clock: Clock = database_clock,
        on_error: Callable[[DatabaseError], None] = lambda _error: None,
    ) -> None:
        self._on_error = on_error
        self.engine = engine
        self.autocommit_engine = autocommit_engine
        self.clock = clock
        self.statements = 0
        self._watcher: Connection | None = None
        # SQLite's engines share their pool, and their events.
        for each in (engine,) if self.is_sqlite else (engine, autocommit_engine):
            event.listen(each, "before_cursor_execute", self._count)

    def _count(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        self.statements += not statement.startswith("BEGIN")

    @property
    def is_sqlite(self) -> bool:
        """Return whether this is the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @property
    def place(self) -> str:
        """Return a name of this database for people, without user and password."""
        url = self.engine.url
        return str(url.database) if self.is_sqlite else f"{url.database} on {url.host}"

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Yield a connection on which each statement is a transaction of its own.

        Raises DatabaseUnavailable or DatabaseMisconfigured.
        """
        with self._translated(), self.autocommit_engine.connect() as connection:
            yield connection

    def data_version(self) -> int | None:
        """Return a number that changes with each commit of any connection; None on a server.

        See https://www.sqlite.org/pragma.html#pragma_data_version. Call it from one thread.
        """
        if not self.is_sqlite:
            return None
        with self._translated():
            # It tells only of the others' commits, so nothing is ever written on this connection.
            self._watcher = self._watcher or self.autocommit_engine.connect()
            return int(self._watcher.exec_driver_sql("PRAGMA data_version").scalar_one())

    @contextmanager
    def read_transaction(self) -> Iterator[Connection]:
        """Run a transaction that only reads.

        Raises DatabaseUnavailable or DatabaseMisconfigured.
        """
        with self._translated(), self.engine.begin() as connection:
            yield connection

    def run_in_transaction(
        self, change: Callable[[Connection], T], *, of_one_row: bool = False
    ) -> T:
        """Run `change` in a transaction that writes.

        It is tried up to five times, if other transactions are in its way.

        With `of_one_row`, `change` writes one task. Whatever a statement of it is refused for is
        then about that task alone: `RowRefused`, unless the server or the connection is at fault.
        A trigger may raise any number, and end the connection. So an error of the server, or a
        lost connection, counts only if the server does not answer then, or takes no writes. Each
        statement is limited to ROW_TIMEOUT (RowTimedOut).

        Raises DatabaseUnavailable (RowHeld, if a row was held for too long; RowRefused) or
        DatabaseMisconfigured. If the connection breaks during the commit, nobody knows whether it
        took place: every change must be harmless to repeat.
        """
        engine = self.engine.execution_options(enrollgate_writes=True)
        thread_id = 0

        def attempt() -> T:
            nonlocal thread_id
            with engine.begin() as connection:
                if not of_one_row:
                    return change(connection)
                with _limited(connection) as thread_id:
                    return change(connection)

        def is_over(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            return state.attempt_number >= (5 if error and is_conflict(error) else 2)

        with self._translated(of_one_row=of_one_row):
            try:
                return Retrying(
                    retry=retry_if_exception(
                        lambda error: is_conflict(error) or (of_one_row and is_dubious(error))
                    ),
                    stop=is_over,
                    wait=_RETRY_WAIT,
                    reraise=True,
                )(attempt)
            except DBAPIError as error:
                if not of_one_row:
                    raise
                detail = redact(str(error.orig), 300)
                if is_timeout(error) and self._interrupt(thread_id):
                    raise RowTimedOut(
                        f"a statement about this row took more than {ROW_TIMEOUT} s: {detail}",
                        "a trigger of the task table sleeps, loops or waits: correct or drop it",
                    ) from error
                if is_dubious(error) and self._takes_writes():
                    raise RowRefused(
                        detail,
                        "the server does answer and take writes: a trigger of the task table "
                        "raises this error or ends the connection, or another transaction is "
                        "always in the way",
                    ) from error
                raise

    def _interrupt(self, thread_id: int) -> bool:
        """Kill the connection that did not answer in time, so that it gives its locks free.

        Return whether the server still worked at its statement. Else the connection was dead, or
        led to another server: that says nothing about the row.
        """
        if self.is_sqlite:
            return True
        try:
            with self.engine.begin() as connection:
                connection.exec_driver_sql(f"KILL {thread_id:d}")  # a user may kill its own
        except DBAPIError as error:
            return bool(error_code(error) == ER.KILL_DENIED_ERROR)
        return True

    def _takes_writes(self) -> bool:
        """Return whether the server takes a write to a table of ours. It is rolled back."""
        now = datetime.now(UTC).replace(tzinfo=None)
        row = {"task_id": 2**63 - 1, "first_seen_at": now, "last_seen_status": ""}
        try:
            with self.engine.connect() as connection:
                is_read_only = connection.execute(select(self.read_only_expression())).scalar()
                connection.execute(insert(tracked_tasks), row)
                connection.rollback()
        except DBAPIError:
            return False
        return not is_read_only

    def execute(self, statement: Executable) -> int:
        """Execute a statement that writes one row, as a transaction of its own.

        Return the rows it changed. It is tried again as in `run_in_transaction`. It raises as
        there, but does not find out whether a trigger has raised an error of the server.
        """

        def attempt() -> int:
            with self.autocommit_engine.connect() as connection, _limited(connection):
                return connection.execute(statement).rowcount

        with self._translated(of_one_row=True):
            return Retrying(
                retry=retry_if_exception(is_conflict),
                stop=stop_after_attempt(5),
                wait=_RETRY_WAIT,
                reraise=True,
            )(attempt)

    @contextmanager
    def _translated(self, *, of_one_row: bool = False) -> Iterator[None]:
        """Translate errors; after one that is not about a row, throw all connections away.

        After a failover, a connection to the old primary may stay open, and answer for ever.
        """
        try:
            with translated(of_one_row=of_one_row):
                yield
        except DatabaseError as error:
            self._on_error(error)
            if type(error) is DatabaseUnavailable:
                self.close()
            raise

    def clock_expression(self) -> ColumnElement[datetime]:
        """Build the expression of the time now, UTC, by the database's clock."""
        return self.clock(is_sqlite=self.is_sqlite)

    def read_only_expression(self) -> ColumnElement[int]:
        """Build the expression: 1 if the server is read-only, as a replica or an old primary is.

        MariaDB 12 shows `read_only` as a word, the others as a number. Replicas of Amazon Aurora
        set `innodb_read_only`.
        """
        if self.is_sqlite:
            return literal(0)
        is_read_only = "CONCAT(@@global.read_only) NOT IN ('0', 'OFF')"
        return literal_column(f"({is_read_only} OR @@global.innodb_read_only)", Integer)

    def elapsed_expression(self) -> ColumnElement[int]:
        """Build the expression: the microseconds since the server began with this statement.

        0 in SQLite, which has no server, and where `sysdate_is_now` makes both clocks one.
        """
        if self.is_sqlite:
            return literal(0)
        return literal_column("TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6))", Integer)

    def require_primary(self, *, is_read_only: bool) -> None:
        """Raise DatabaseUnavailable if the server is read-only.

        Its rows may be old, and an administrator's account could write to it all the same. Call it
        within a transaction: so the next one begins on a fresh connection.
        """
        if is_read_only:
            raise DatabaseUnavailable(f"{self.place} is read-only", READ_ONLY)

    def now(self, *, on_primary: bool = False) -> datetime:
        """Return the time of the database's clock, UTC.

        With `on_primary`, raise DatabaseUnavailable if the server is read-only.
        """
        statement = select(self.clock_expression(), self.read_only_expression())
        with self.autocommit() as connection:
            now, is_read_only = connection.execute(statement).one()
            self.require_primary(is_read_only=on_primary and bool(is_read_only))
        return now

    def refuse_writes(self) -> None:
        """Let the database refuse what writes, on every connection from now on.

        The user of a program that only reads may have more rights than it needs.
        """
        statement = (
            "PRAGMA query_only=ON" if self.is_sqlite else "SET SESSION TRANSACTION READ ONLY"
        )

        @event.listens_for(self.engine, "connect")
        def refuse(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
            cursor = connection.cursor()
            cursor.execute(statement)
            cursor.close()

    def close(self) -> None:
        """Close every connection; the next statement opens one again."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        self.engine.dispose()
        self.autocommit_engine.dispose()


def open_database(
    url: URL,
    *,
    tls_ca: Path | None = None,
    tls_verify_hostname: bool = True,
    creates_file: bool = True,
    clock: Clock = database_clock,
    on_error: Callable[[DatabaseError], None] = lambda _error: None,
) -> Database:
    """Open `sqlite:///path` or `mysql+pymysql://...`.

    Does not connect yet, so it does not fail yet. Without `creates_file`, a SQLite file that is
    missing is DatabaseMisconfigured: a path with a typing error must not become an empty database.
    """
    if url.get_backend_name() == "sqlite":
        engine = _open_sqlite(url, creates_file=creates_file)
        autocommit = engine.execution_options(enrollgate_begins=False)
        return Database(engine, autocommit, clock, on_error)
    arguments: dict[str, object] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": STATEMENT_TIMEOUT,
        "write_timeout": STATEMENT_TIMEOUT,
        "charset": "utf8mb4",
        "init_command": _SESSION,
    }
    if url.password is not None:
        # MySQL's own clients send UTF-8; PyMySQL would encode text as Latin-1.
        arguments["password"] = str(url.password).encode()
    if tls_ca is not None:
        arguments["ssl"] = {"ca": str(tls_ca), "check_hostname": tls_verify_hostname}
    engine, autocommit_engine = (
        create_engine(
            url,
            isolation_level=isolation_level,
            hide_parameters=True,  # no row's content in an error
            pool_size=2,
            max_overflow=2,
            pool_timeout=CONNECT_TIMEOUT,
            pool_recycle=1800,
            # Each would be a round trip: every transaction is ended by whoever began it.
            pool_reset_on_return=None,
            skip_autocommit_rollback=True,
            connect_args=arguments,
        )
        for isolation_level in ("READ COMMITTED", "AUTOCOMMIT")
    )
    for each in (engine, autocommit_engine):
        _check_unused_connections(each)
        event.listen(each, "handle_error", _keep_answering)
        if tls_ca is not None:
            _check_certificate(each, tls_ca)
    event.listen(autocommit_engine, "connect", _read_committed)
    return Database(engine, autocommit_engine, clock, on_error)


def require_file(url: URL) -> None:
    """Check that a SQLite file exists: to connect would create it. Raises DatabaseMisconfigured."""
    if url.get_backend_name() == "sqlite" and url.database and not os.path.lexists(url.database):
        raise DatabaseMisconfigured(
            f"there is no SQLite file {url.database}",
            "`enrollgate migrate` creates it; else correct ENROLLGATE_DATABASE_URL, or "
            "ENROLLGATE_WORK_DIR if no URL is set",
        )


def _read_committed(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


def _check_unused_connections(engine: Engine) -> None:
    """Check a connection before it is used, if it was unused for a while: the server may be gone.

    The pool's own `pool_pre_ping` would take a round trip for each statement.
    """

    @event.listens_for(engine, "checkin")
    def note(_connection: object, entry: ConnectionPoolEntry) -> None:
        entry.info["unused since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: object) -> None:
        since = entry.info.pop("unused since", None)
        if since is not None and time.monotonic() - since > _CHECK_AFTER:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError("the server has closed it") from error


def _check_certificate(engine: Engine, tls_ca: Path) -> None:
    @event.listens_for(engine, "do_connect")
    def check_certificates(*_: object) -> None:
        # Before each connection, since a mounted file may change.
        try:
            ssl.create_default_context(cafile=str(tls_ca))
        except OSError as error:
            is_readable = isinstance(error, ssl.SSLError)
            problem = "it holds no certificate" if is_readable else error.strerror
            remedy = "name the CA's certificate, a file in PEM format that can be read"
            raise DatabaseMisconfigured(
                f"ENROLLGATE_DATABASE__TLS_CA={tls_ca}: {problem}: {remedy}"
            ) from error


def _keep_answering(context: ExceptionContext) -> None:
    """Keep a connection that still answers: a trigger has raised the number of a lost one."""
    if not context.is_disconnect or context.connection is None:
        return
    driver = cast(pymysql.Connection, context.connection.connection.driver_connection)
    with suppress(pymysql.Error):
        driver.ping()
        context.is_disconnect = False


@contextmanager
def _limited(connection: Connection) -> Iterator[int]:
    """Limit each statement to ROW_TIMEOUT. Yield the id of the connection at its server.

    No server limits an UPDATE in a way that MySQL and MariaDB share, so the answer is not waited
    for longer. SQLite interrupts its own work.
    """
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        connection.info["timeout"] = ROW_TIMEOUT
        try:
            yield 0
        finally:
            del connection.info["timeout"]
    else:
        mysql = cast(pymysql.Connection, driver)
        mysql._read_timeout = ROW_TIMEOUT  # a private name, read before each answer
        try:
            yield mysql.thread_id()
        finally:
            mysql._read_timeout = STATEMENT_TIMEOUT


def _open_sqlite(url: URL, *, creates_file: bool) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, connect_args={"timeout": _SQLITE_LOCK_TIMEOUT}
    )

    @event.listens_for(engine, "do_connect")
    def find_file(*_: object) -> None:
        """Create the file for its owner alone: it holds e-mail addresses. SQLite's WAL follows.

        A file that exists is not opened: closing it would drop the locks of this process's other
        connections, and another process would then delete the WAL under them.
        https://www.sqlite.org/howtocorrupt.html (section 2.2)
        """
        if not creates_file:
            require_file(url)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with suppress(OSError):  # SQLite says what is wrong
            if url.database and url.database != ":memory:":
                os.close(os.open(url.database, flags, 0o600))

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        driver = cast(sqlite3.Connection, connection)
        # Bytes that are not UTF-8 in one row must not fail the statement that reads all rows.
        driver.text_factory = partial(str, encoding="utf-8", errors="replace")
        connection.isolation_level = None  # the driver must not begin transactions of its own
        cursor = connection.cursor()
        # The change to WAL is refused at once, without waiting, while another connection makes it.
        # It stays with the file. Whoever only reads leaves the file as it is: it may not be ours.
        if creates_file:
            Retrying(
                retry=retry_if_exception_type(sqlite3.OperationalError),
                stop=stop_after_attempt(20),
                wait=_RETRY_WAIT,
                reraise=True,
            )(cursor.execute, "PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()
        # As MySQL's function of this name. The others are expressions there: see `Tables`.
        driver = cast(sqlite3.Connection, connection)
        driver.create_function("sha2", 2, _sha2, deterministic=True)
        driver.create_function("enrollgate_account", 1, _account, deterministic=True)
        driver.create_function("enrollgate_host", 1, _course_host, deterministic=True)

    @event.listens_for(engine, "before_cursor_execute")
    def limit(connection: Connection, *_: object) -> None:
        """Let SQLite interrupt its own work: nobody else would, as for a view that never ends."""
        until = time.monotonic() + connection.info.get("timeout", STATEMENT_TIMEOUT)
        driver = cast(sqlite3.Connection, connection.connection.driver_connection)
        driver.set_progress_handler(lambda: time.monotonic() > until, _SQLITE_STEPS)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("enrollgate_begins", True):
            writes = options.get("enrollgate_writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _sha2(value: bytes | str | None, bits: int) -> str | None:
    if value is None:
        return None
    content = value.encode() if isinstance(value, str) else value
    return hashlib.new(f"sha{bits}", content).hexdigest()


def _account(email: object) -> str:
    text = decode_text(email)
    return "" if text is None else account_sha256(text)


def _course_host(url: object) -> str:
    with suppress(ValueError):  # such a URL is refused when its run is to be launched
        return normal_host(urlsplit((decode_text(url) or "").strip()).hostname or "")[:255]
    return ""
