"""The errors of this package, and what those of the servers mean: one table, with the remedies.

`translated` looks errors up in it.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pymysql.constants import CR, ER
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from enrollgate.common.redaction import redact


class DatabaseError(Exception):
    """An error of the database: the problem, and what to do about it if that is known."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}: {remedy}" if remedy else problem)
        self.problem, self.remedy = problem, remedy


class DatabaseUnavailable(DatabaseError):
    """The database is away, the connection broke, or a transaction was in the way: try again."""


class RowHeld(DatabaseUnavailable):
    """Another transaction held a row, or its table, for longer than `engine.LOCK_TIMEOUT`.

    Other rows may be free.
    """


class RowRefused(DatabaseUnavailable):
    """The database refuses to write one row, for example by a CHECK or a trigger.

    Other rows may be written. It refuses again until someone fixes what the message names.
    """


class RowTimedOut(RowRefused):
    """A statement about one row took longer than `engine.ROW_TIMEOUT`: a trigger sleeps or loops.

    Each such row costs that time, so a pass tries few of them.
    """


class DatabaseMisconfigured(DatabaseError):
    """The database refuses what we do, until someone fixes what the message names."""


class Known(NamedTuple):
    """What an error with one of these numbers means, if its message matches `words`.

    `remedy` may refer to the groups of `words`.
    """

    codes: tuple[int, ...]
    words: str
    error: type[DatabaseError]
    remedy: str


# The number that stands for SQLite, which has none.
SQLITE = 0
# The server is away as long as it says so: a person must act, but no setting need be wrong.
_AWAY, _WRONG = DatabaseUnavailable, DatabaseMisconfigured
_ADDRESS = "ENROLLGATE_DATABASE_URL or ENROLLGATE_DATABASE__HOST"
READ_ONLY = (
    "the server takes no writes: waiting for the primary. If this is a replica, name the primary "
    f"in {_ADDRESS}"
)
_TLS_CA = "ENROLLGATE_DATABASE__TLS_CA"
_GRANTS = "docs/operations.md has all GRANTs"
_VIEW = "name the table behind the view in ENROLLGATE_TASK_TABLE, or "
# A server that takes no writes. 1792: ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION,
# 1836: ER_READ_ONLY_MODE
ABOUT_READ_ONLY = (ER.OPTION_PREVENTS_STATEMENT, ER.READ_ONLY_TRANSACTION, 1792, 1836)
# The first that matches counts. Numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/ and
# https://mariadb.com/kb/en/mariadb-error-codes/ (4151), and PyMySQL's own from 2000 on.
KNOWN = (
    # the way to the server
    Known(
        (CR.CR_CONN_HOST_ERROR,),
        "Connection refused",
        _AWAY,
        f"start the server, or correct host and port in {_ADDRESS}",
    ),
    Known(
        (CR.CR_CONN_HOST_ERROR,),
        "Name or service not known|name resolution|nodename nor servname|No address associated",
        _AWAY,
        f"correct the host in {_ADDRESS}: no address is known for it",
    ),
    Known(
        (CR.CR_CONN_HOST_ERROR,),
        "timed out|No route to host|unreachable",
        _AWAY,
        "open the way to the server: a firewall, a NetworkPolicy or a security group may be in it",
    ),
    Known(
        (ER.HOST_IS_BLOCKED,),
        "",
        _AWAY,
        "the server blocks this host after many broken connections: run FLUSH HOSTS there",
    ),
    # TLS
    Known(
        (CR.CR_CONN_HOST_ERROR, CR.CR_SSL_CONNECTION_ERROR),
        "CERTIFICATE_VERIFY_FAILED.*mismatch",
        _WRONG,
        "name the server in ENROLLGATE_DATABASE__HOST (or _URL) as its certificate does, or set "
        "ENROLLGATE_DATABASE__TLS_VERIFY_HOSTNAME=false",
    ),
    Known(
        (CR.CR_CONN_HOST_ERROR, CR.CR_SSL_CONNECTION_ERROR),
        "CERTIFICATE_VERIFY_FAILED.*expired",
        _WRONG,
        "renew the server's certificate",
    ),
    Known(
        (CR.CR_CONN_HOST_ERROR, CR.CR_SSL_CONNECTION_ERROR),
        "CERTIFICATE_VERIFY_FAILED",
        _WRONG,
        f"name the CA that signed the server's certificate in {_TLS_CA}",
    ),
    Known(
        (CR.CR_SSL_CONNECTION_ERROR,),
        "",
        _WRONG,
        f"let the server speak TLS, or remove {_TLS_CA}",
    ),
    Known(
        (3159,),  # ER_SECURE_TRANSPORT_REQUIRED
        "",
        _WRONG,
        f"the server requires TLS: set {_TLS_CA}",
    ),
    # the login
    Known(
        (ER.ACCESS_DENIED_ERROR,),
        "using password: NO",
        _WRONG,
        "no password was sent: write it in ENROLLGATE_DATABASE_URL or "
        "ENROLLGATE_DATABASE__PASSWORD",
    ),
    Known(
        (ER.ACCESS_DENIED_ERROR,),
        "",
        _WRONG,
        "check the user name and the password in ENROLLGATE_DATABASE_URL or "
        f"ENROLLGATE_DATABASE__PASSWORD; if the server or the account requires TLS, set {_TLS_CA}",
    ),
    Known(
        (1698,),  # ER_ACCESS_DENIED_NO_PASSWORD_ERROR
        "",
        _WRONG,
        "let the user log in with a password: this one may only log in through the server's own "
        "socket",
    ),
    Known(
        (ER.HOST_NOT_PRIVILEGED,),
        "",
        _WRONG,
        "let the user log in from this host: CREATE USER 'name'@'%', and grant it the same",
    ),
    Known(
        (ER.MUST_CHANGE_PASSWORD, ER.MUST_CHANGE_PASSWORD_LOGIN),
        "",
        _WRONG,
        "the user's password is expired: ALTER USER ... IDENTIFIED BY a new one, and set it in "
        "ENROLLGATE_DATABASE_URL or ENROLLGATE_DATABASE__PASSWORD",
    ),
    Known(
        (3118, 4151),  # ER_ACCOUNT_HAS_BEEN_LOCKED, of MySQL and of MariaDB
        "",
        _WRONG,
        "the user's account is locked: ALTER USER ... ACCOUNT UNLOCK",
    ),
    Known(
        (CR.CR_AUTH_PLUGIN_CANNOT_LOAD, ER.NOT_SUPPORTED_AUTH_MODE),
        "",
        _WRONG,
        "let the user log in by a method that PyMySQL supports: caching_sha2_password on MySQL, "
        "ed25519 or mysql_native_password on MariaDB",
    ),
    Known(
        (1524,),
        "",
        _WRONG,
        "the server lacks the method by which the user logs in: ALTER USER ... IDENTIFIED WITH "
        "caching_sha2_password BY a password",
    ),
    # privileges
    Known(
        (ER.DBACCESS_DENIED_ERROR,),
        "",
        _WRONG,
        "correct the database's name in ENROLLGATE_DATABASE_URL or ENROLLGATE_DATABASE__NAME, or "
        f"grant the user the privileges on its tables ({_GRANTS})",
    ),
    Known(
        (ER.TABLEACCESS_DENIED_ERROR,),
        r"^(.+) command denied to user .* for table [`']?(.+?)[`']?$",
        _WRONG,
        rf"grant the user \1 on \2 ({_GRANTS})",
    ),
    Known(
        (ER.COLUMNACCESS_DENIED_ERROR,),
        r"^(.+) command denied to user .* for column [`']?(.+?)[`']? in table [`']?(.+?)[`']?$",
        _WRONG,
        rf"grant the user \1 (\2) on \3 ({_GRANTS})",
    ),
    Known(
        (
            ER.TABLEACCESS_DENIED_ERROR,
            ER.COLUMNACCESS_DENIED_ERROR,
            ER.SPECIFIC_ACCESS_DENIED_ERROR,
            ER.PROCACCESS_DENIED_ERROR,
        ),
        "",
        _WRONG,
        f"grant the user the privilege that the message names ({_GRANTS})",
    ),
    # the schema
    Known(
        (ER.BAD_DB_ERROR,),
        "",
        _WRONG,
        "create the database, or correct its name in ENROLLGATE_DATABASE_URL or "
        "ENROLLGATE_DATABASE__NAME",
    ),
    Known(
        (ER.NO_SUCH_TABLE, SQLITE),
        "doesn't exist|no such table",
        _WRONG,
        "let Node.js create the task table (or name it in ENROLLGATE_TASK_TABLE), and run "
        "`enrollgate migrate`",
    ),
    Known(
        (ER.BAD_FIELD_ERROR, SQLITE),
        "Unknown column|no such column",
        _WRONG,
        "name the column that exists in ENROLLGATE_ID_COLUMN, _STATUS_COLUMN, _EMAIL_COLUMN or "
        "_COURSE_URL_COLUMN",
    ),
    Known(
        (ER.WARN_DATA_TRUNCATED,),
        "",
        _WRONG,
        "the status column cannot hold a status; if it is an ENUM, add the status to it",
    ),
    Known(
        (3105, 1906),  # ER_NON_DEFAULT_VALUE_FOR_GENERATED_COLUMN, of MySQL and of MariaDB
        "",
        _WRONG,
        "name the column that it is computed from in ENROLLGATE_STATUS_COLUMN",
    ),
    Known(
        (ER.CANT_AGGREGATE_2COLLATIONS, ER.CANT_AGGREGATE_NCOLLATIONS, 3854, 3988),
        "",
        _WRONG,
        "convert the status column to utf8mb4, or use statuses of its own character set in "
        "ENROLLGATE_STATUS_*",
    ),
    Known(
        (ER.NON_UPDATABLE_TABLE, ER.NONUPDATEABLE_COLUMN),
        "",
        _WRONG,
        f"{_VIEW}make it updatable: of one table, without DISTINCT, GROUP BY and UNION",
    ),
    Known(
        (ER.VIEW_INVALID, ER.NO_SUCH_USER),
        "",
        _WRONG,
        f"{_VIEW}create it again, with a definer that exists and may read and write its table",
    ),
    # the server
    Known(
        (1665,),
        "",
        _WRONG,
        "set the server's binlog_format to ROW or MIXED: READ COMMITTED needs one of them",
    ),
    Known(
        ABOUT_READ_ONLY,
        "",
        _AWAY,
        READ_ONLY,
    ),
    Known(
        (ER.CON_COUNT_ERROR,),
        "",
        _AWAY,
        "the server has no free connection: raise max_connections, or close some",
    ),
    Known(
        (ER.TOO_MANY_USER_CONNECTIONS,),
        "",
        _AWAY,
        "the user has no free connection: raise its MAX_USER_CONNECTIONS",
    ),
    Known(
        (ER.USER_LIMIT_REACHED,),
        "",
        _AWAY,
        "the user's limit is reached: ALTER USER ... WITH a higher one",
    ),
    Known(
        (ER.UNKNOWN_COM_ERROR,),
        "WSREP",
        _AWAY,
        "wait until this node has joined its cluster, or name another node",
    ),
    Known(
        (3032,),  # ER_SERVER_OFFLINE_MODE
        "",
        _AWAY,
        "set offline_mode=OFF when the server may work again",
    ),
    Known(
        (3100,),  # ER_RUN_HOOK_ERROR
        "",
        _AWAY,
        "wait until the replication group has a majority and a primary again",
    ),
    Known(
        (ER.LOCK_WAIT_TIMEOUT,),
        "",
        RowHeld,
        "another transaction holds a row, or the table (LOCK TABLES, ALTER TABLE): end it soon; "
        "SHOW PROCESSLIST says whose it is",
    ),
    # 1969: ER_STATEMENT_TIMEOUT of MariaDB, 3024: ER_QUERY_TIMEOUT of MySQL
    Known(
        (1969, 3024, SQLITE),
        "max_statement_time|maximum statement execution time|^interrupted$",
        _AWAY,
        "a statement took too long: add an index on the status column; if ENROLLGATE_TASK_TABLE "
        "is a view, name the table behind it, or make the view fast",
    ),
    # SQLite
    Known((SQLITE,), "readonly database", _WRONG, "make the file and its folder writable"),
    Known(
        (SQLITE,),
        "unable to open",
        _WRONG,
        "check that the file's folder exists (`enrollgate migrate` creates it) and is writable",
    ),
    Known(
        (SQLITE,),
        "because it is a view",
        _WRONG,
        f"{_VIEW}give it an INSTEAD OF UPDATE trigger that writes the status",
    ),
    Known((SQLITE,), "image is malformed", _WRONG, "the file is damaged: restore a back-up of it"),
    Known((SQLITE,), "not a database", _WRONG, "point ENROLLGATE_DATABASE_URL at a SQLite file"),
    Known((SQLITE,), "is full", _WRONG, "free some disk space"),
)
# Errors of a row that PyMySQL does not know as IntegrityError or DataError: bytes that are no text
# of the character set (1300), a value that is too large (1301), a missing partition (1526), a
# SIGNAL (1644), a CHECK of MySQL (3819) or MariaDB (4025).
ABOUT_ROW = frozenset({1300, 1301, 1526, 1644, 3819, 4025})
# Errors of the server itself, or of the session: no row has a part in them. So are the client's own
# errors (from 2000) and ProxySQL's (from 9000).
ABOUT_SERVER = frozenset(
    {
        *(code for known in KNOWN if known.error is _AWAY for code in known.codes if code),
        ER.DISK_FULL,
        ER.ERROR_ON_READ,
        ER.ERROR_ON_WRITE,
        ER.GET_ERRNO,
        ER.OUTOFMEMORY,
        ER.OUT_OF_SORTMEMORY,
        ER.CON_COUNT_ERROR,
        ER.OUT_OF_RESOURCES,
        ER.SERVER_SHUTDOWN,
        ER.NORMAL_SHUTDOWN,
        ER.GOT_SIGNAL,
        ER.SHUTDOWN_COMPLETE,
        ER.FORCING_CLOSE,
        ER.UNKNOWN_ERROR,
        ER.RECORD_FILE_FULL,
        ER.HOST_IS_BLOCKED,
        ER.HOST_NOT_PRIVILEGED,
        ER.ABORTING_CONNECTION,
        ER.NEW_ABORTING_CONNECTION,
        ER.NET_PACKET_TOO_LARGE,
        ER.NET_READ_ERROR_FROM_PIPE,
        ER.NET_FCNTL_ERROR,
        ER.NET_PACKETS_OUT_OF_ORDER,
        ER.NET_UNCOMPRESS_ERROR,
        ER.NET_READ_ERROR,
        ER.NET_READ_INTERRUPTED,
        ER.NET_ERROR_ON_WRITE,
        ER.NET_WRITE_INTERRUPTED,
        ER.ERROR_DURING_COMMIT,
        ER.TOO_MANY_USER_CONNECTIONS,
        ER.LOCK_TABLE_FULL,
        ER.LOCK_DEADLOCK,
        ER.LOCK_WAIT_TIMEOUT,
        ER.USER_LIMIT_REACHED,
        ER.OPTION_PREVENTS_STATEMENT,
        ER.QUERY_INTERRUPTED,
        ER.MUST_CHANGE_PASSWORD,
        1047,  # ER_UNKNOWN_COM_ERROR: WSREP has not yet prepared node for application use (Galera)
        1792,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
        1836,  # ER_READ_ONLY_MODE
        1927,  # ER_CONNECTION_KILLED (MariaDB)
        1969,  # ER_STATEMENT_TIMEOUT (MariaDB)
        3024,  # ER_QUERY_TIMEOUT
        3100,  # ER_RUN_HOOK_ERROR (group replication)
        3101,  # ER_TRANSACTION_ROLLBACK_DURING_COMMIT
        3168,  # ER_SERVER_ISNT_AVAILABLE
        4031,  # ER_CLIENT_INTERACTION_TIMEOUT
    }
)
# SQLite's primary result codes that concern the file and not a row, https://sqlite.org/rescode.html
ABOUT_FILE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


def error_code(error: DBAPIError) -> int | None:
    """Return MySQL's error number, if the error has one."""
    arguments = error.orig.args if error.orig is not None else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def is_timeout(error: DBAPIError) -> bool:
    """Return whether a statement was given up because it took too long."""
    if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT:
        return True
    is_lost = error_code(error) == CR.CR_SERVER_LOST and error.connection_invalidated
    return is_lost and "timed out" in str(error.orig)


def is_dubious(error: BaseException) -> bool:
    """Return whether an error of the server or the connection may be one that a trigger raises.

    Or the connection was lost, which a trigger can do, too. A held row has an error of its own.
    """
    if not isinstance(error, DBAPIError) or is_timeout(error) or _is_refusal(error):
        return False
    code = error_code(error)
    if code is None or error.connection_invalidated:
        return error.connection_invalidated
    is_about_server = code in ABOUT_SERVER or code == 0 or code >= 2000
    return is_about_server and code != ER.LOCK_WAIT_TIMEOUT


def is_conflict(error: BaseException) -> bool:
    """Return whether another transaction was in the way, so that a retry may succeed."""
    if (getattr(getattr(error, "orig", None), "sqlstate", None) or "").startswith("45"):
        return False
    if isinstance(error, IntegrityError):
        # For example, another operator inserted a run with the same number at the same moment. A
        # row of Node.js's table is refused for good.
        is_ours = (error.statement or "").startswith("INSERT INTO enrollgate_")
        return is_ours and error_code(error) in (ER.DUP_ENTRY, None)
    return isinstance(error, OperationalError) and (
        # ER_TRANSACTION_ROLLBACK_DURING_COMMIT: another member of a replication group was first.
        error_code(error) in (ER.LOCK_DEADLOCK, 3101) or "database is locked" in str(error.orig)
    )


def _is_refusal(error: DBAPIError, *, of_one_row: bool = False) -> bool:
    """Return whether the statement was refused for what it writes into a row.

    A trigger may refuse a row with any number and any text, so in a transaction of one row every
    error is a refusal that does not concern the server. States of class 45 are for triggers only:
    https://dev.mysql.com/doc/refman/8.4/en/signal.html
    """
    if (getattr(error.orig, "sqlstate", None) or "").startswith("45"):
        return True
    if error.connection_invalidated or error.statement is None:
        return False
    code = error_code(error)
    if not (of_one_row or isinstance(error, IntegrityError | DataError) or code in ABOUT_ROW):
        return False
    if code is None:
        result = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_INTERNAL)
        return result & 0xFF not in ABOUT_FILE
    is_about_connection = code == 0 or 2000 <= code < 2100 or 9000 <= code < 9100
    return not is_about_connection and code not in ABOUT_SERVER


@contextmanager
def translated(*, of_one_row: bool = False) -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours, without secrets or row contents.

    This is the one place that sorts them: away (DatabaseUnavailable), held or refused for one row
    (RowHeld, RowRefused; see `run_in_transaction`), or misconfigured (DatabaseMisconfigured).
    """
    try:
        yield
    except DBAPIError as error:
        code = error_code(error)
        detail = error.orig.args[-1] if error.orig is not None and error.orig.args else error
        detail = redact(str(detail), 300)
        problem = detail if code is None else f"{detail} (MySQL error {code})"
        is_refused = _is_refusal(error, of_one_row=of_one_row)
        if is_refused and re.search(r"no such|doesn't exist|Unknown column", detail):
            # Each pass reads the task table, so the table and its columns do exist.
            remedy = "a trigger of the task table needs it: create it, or drop the trigger"
            raise RowRefused(problem, remedy) from error
        for known in KNOWN:
            if (code or SQLITE) in known.codes and (match := re.search(known.words, detail)):
                kind = RowRefused if is_refused else known.error
                raise kind(problem, match.expand(known.remedy)) from error
        if is_refused:
            raise RowRefused(problem) from error
        if code is not None and isinstance(error, ProgrammingError):
            raise DatabaseMisconfigured(problem, "see the server's error reference") from error
        raise DatabaseUnavailable(problem) from error
    except SQLAlchemyError as error:
        raise DatabaseUnavailable(
            f"the database did not answer: {redact(str(error), 300)}"
        ) from error
    except RuntimeError as error:
        # PyMySQL raises a bare RuntimeError when a server's password plug-in needs the
        # `cryptography` package.
        if "cryptography" not in str(error):
            raise
        raise DatabaseMisconfigured(f"{error}; install PyMySQL[rsa]") from error
