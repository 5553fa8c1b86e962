"""The errors of this package, and what those of the servers mean: one table, with the remedies.

`engine.translated` looks errors up in it.
"""

from typing import NamedTuple

from pymysql.constants import CR, ER


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
        # 1792: ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION, 1836: ER_READ_ONLY_MODE
        (ER.OPTION_PREVENTS_STATEMENT, ER.READ_ONLY_TRANSACTION, 1792, 1836),
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
        "another transaction holds a row, or the table: end it soon",
    ),
    # SQLite
    Known((SQLITE,), "readonly database", _WRONG, "make the file and its folder writable"),
    Known(
        (SQLITE,),
        "unable to open",
        _WRONG,
        "check that the file's folder exists (`enrollgate migrate` creates it) and is writable",
    ),
    Known((SQLITE,), "not a database", _WRONG, "point ENROLLGATE_DATABASE_URL at a SQLite file"),
    Known((SQLITE,), "is full", _WRONG, "free some disk space"),
)
