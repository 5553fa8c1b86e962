"""Each refusal of a real server has a remedy of its own, which fits it."""

import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.exc import OperationalError as SqlOperationalError
from tests.conftest import server_in_a_folder
from tests.databases import Server, start_mariadb
from tests.databases.server import execute, fresh_database

from enrollgate.database import (
    DatabaseMisconfigured,
    DatabaseUnavailable,
    Tables,
    migrate,
    open_database,
)
from enrollgate.database.errors import KNOWN
from enrollgate.database.preflight import check_database
from enrollgate.domain.check import Severity
from enrollgate.domain.task import Statuses, TaskColumns

PASSWORD = "only-this-test"


@contextmanager
def account(server_url: str, *statements: str) -> Iterator[URL]:
    """Create a user, run the statements on it (`{user}`), and yield the URL to log in with."""
    url = make_url(server_url)
    user = f"r_{url.database}"[:30]
    who = f"{user}@'%'"
    execute(server_url, f"CREATE USER {who} IDENTIFIED BY '{PASSWORD}'")
    try:
        execute(server_url, *(each.format(user=who, database=url.database) for each in statements))
        yield url.set(username=user, password=PASSWORD)
    finally:
        execute(server_url, f"DROP USER {who}")


def refusal(url: URL, sql: str = "SELECT 1") -> DatabaseMisconfigured:
    with closing(open_database(url)) as database:
        with pytest.raises(DatabaseMisconfigured) as caught:
            database.run_in_transaction(lambda connection: connection.exec_driver_sql(sql))
    assert PASSWORD not in str(caught.value)
    return caught.value


ALL = "GRANT ALL ON {database}.* TO {user}"


@pytest.mark.parametrize(
    ("statements", "remedy"),
    [
        ((ALL, "ALTER USER {user} ACCOUNT LOCK"), "account is locked: ALTER USER"),
        ((ALL, "ALTER USER {user} PASSWORD EXPIRE"), "password is expired: ALTER USER"),
        ((), "correct the database's name in ENROLLGATE_DATABASE_URL.*or grant the user"),
    ],
    ids=["locked", "expired", "database"],
)
def test_refused_account_has_a_remedy_of_its_own(
    server_database_url: str, statements: tuple[str, ...], remedy: str
) -> None:
    with account(server_database_url, *statements) as url:
        error = refusal(url)
        assert re.search(remedy, error.remedy), error
        assert "SELECT and UPDATE" not in str(error)


def test_account_that_requires_tls_logs_in_by_tls_or_is_named(server_database_url: str) -> None:
    """Only MySQL speaks TLS by itself, and so does PyMySQL then."""
    with account(server_database_url, ALL, "ALTER USER {user} REQUIRE SSL") as url:
        with closing(open_database(url)) as database:
            try:
                database.now()
            except DatabaseMisconfigured as error:
                assert "requires TLS, set ENROLLGATE_DATABASE__TLS_CA" in error.remedy
                (found,) = (
                    each.remedy
                    for each in check_database(database, Tables.named(TaskColumns(), Statuses()))
                )
                assert found == error.remedy


def test_wrong_password_and_no_password_have_different_remedies(server_database_url: str) -> None:
    with account(server_database_url, ALL) as url:
        wrong = refusal(url.set(password="hunter2"))
        absent = refusal(URL.create(url.drivername, url.username, None, url.host, url.port, "x"))
    assert "check the user name and the password" in wrong.remedy
    assert "no password was sent" in absent.remedy


def test_missing_table_and_column_privileges_are_named(server_database_url: str) -> None:
    table = "CREATE TABLE {database}.download_tasks (id INT, status VARCHAR(9), email VARCHAR(9))"
    grant = "GRANT SELECT (id) ON {database}.download_tasks TO {user}"
    with account(server_database_url, table, grant) as url:
        update = refusal(url, "UPDATE download_tasks SET status = 'x' WHERE id = 1")
        read = refusal(url, "SELECT email FROM download_tasks")
    assert re.match("grant the user UPDATE on .*download_tasks ", update.remedy), update
    assert re.match(r"grant the user SELECT \(email\) on .*download_tasks ", read.remedy), read


def test_unknown_database_is_named(server_database_url: str) -> None:
    error = refusal(make_url(server_database_url).set(database="nowhere"))
    assert error.remedy.startswith("create the database, or correct its name")


@pytest.mark.parametrize(
    ("host", "remedy"),
    [
        ("127.0.0.1", "start the server, or correct host and port in ENROLLGATE_DATABASE_URL"),
        ("no-such-host.invalid", "correct the host in .*no address is known for it"),
    ],
)
def test_server_that_cannot_be_reached_is_waited_for(host: str, remedy: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = URL.create("mysql+pymysql", "u", "p", host, closed.getsockname()[1], "d")
        with closing(open_database(url)) as database:
            with pytest.raises(DatabaseUnavailable) as caught:
                database.now()
            (check,) = check_database(database, Tables.named(TaskColumns(), Statuses()))
    assert re.search(remedy, caught.value.remedy), caught.value
    assert check.severity is Severity.FAILED and re.search(remedy, check.remedy)


def test_server_that_does_not_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall drops the packets: here, a queue of connections that is full."""
    monkeypatch.setattr("enrollgate.database.engine.CONNECT_TIMEOUT", 1)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        host, port = full.getsockname()
        url = URL.create("mysql+pymysql", "u", "p", host, port, "d")
        with closing(open_database(url)) as database:
            with pytest.raises(DatabaseUnavailable) as caught:
                database.now()
    assert "firewall" in caught.value.remedy, caught.value


@pytest.fixture(scope="module")
def strict_mariadb() -> Iterator[Server]:
    """A MariaDB with the plug-in `ed25519`, on which a test may require TLS of everyone."""
    with server_in_a_folder(
        "ENROLLGATE_TEST_MARIADB_URL",
        lambda folder: start_mariadb(folder, "--plugin-load-add=auth_ed25519"),
    ) as server:
        yield server


def test_ed25519_account_of_mariadb_logs_in(strict_mariadb: Server) -> None:
    with fresh_database(strict_mariadb.url("")) as url:
        name = make_url(url).database
        execute(
            url,
            f"CREATE USER modern IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')",
            f"GRANT ALL ON {name}.* TO modern",
        )
        with closing(
            open_database(make_url(url).set(username="modern", password=PASSWORD))
        ) as database:
            migrate(database)
        wrong = refusal(make_url(url).set(username="modern", password="hunter2"))
        assert "check the user name and the password" in wrong.remedy
        execute(url, "DROP USER modern")


def test_server_that_requires_tls_is_named(strict_mariadb: Server) -> None:
    with fresh_database(strict_mariadb.url("")) as url, account(url, ALL) as limited:
        address = make_url(url)
        with closing(open_database(address)) as database, database.engine.connect() as connection:
            connection.exec_driver_sql("SET GLOBAL require_secure_transport = ON")
            try:
                error = refusal(limited)
            finally:
                connection.exec_driver_sql("SET GLOBAL require_secure_transport = OFF")
    assert error.remedy.endswith(
        "if the server or the account requires TLS, set ENROLLGATE_DATABASE__TLS_CA"
    )


def test_blocked_host_is_waited_for(strict_mariadb: Server) -> None:
    with fresh_database(strict_mariadb.url("")) as url:
        execute(url, "SET GLOBAL max_connect_errors = 1")
        try:
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", strict_mariadb.port)) as rude:
                    rude.sendall(b"\0\0\0\0")
            with closing(open_database(make_url(url))) as database:
                try:
                    database.now()
                except DatabaseUnavailable as error:
                    assert "FLUSH HOSTS" in error.remedy or "connection" in error.problem
        finally:
            strict_mariadb.stop()
            strict_mariadb.start()


def test_every_remedy_is_different_and_refers_to_its_own_words() -> None:
    remedies = [known.remedy for known in KNOWN]
    assert len(set(remedies)) == len(remedies)
    for known in KNOWN:
        assert re.compile(known.words).groups == known.remedy.count("\\"), known


def test_secrets_of_the_address_are_not_in_an_error(server_database_url: str) -> None:
    error = refusal(make_url(server_database_url).set(password="hunter2"))
    assert "hunter2" not in str(error) and isinstance(error.__cause__, SqlOperationalError)
