"""Fixtures for real parts. What is absent is skipped loudly here, and is a failure in CI."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import structlog
from tests.databases import Server, ServerAbsent, start_mariadb, start_mysql
from tests.databases.server import fresh_database

_ABSENT: list[str] = []


def absent(part: str, remedy: str) -> NoReturn:
    """Skips the test because a part is not on this machine; in CI nothing may be absent."""
    message = f"{part} is absent: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(message)
    _ABSENT.append(message)
    pytest.skip(message)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _ABSENT:
        terminalreporter.section("SKIPPED: PARTS ABSENT", red=True, bold=True)
        for message in sorted(set(_ABSENT)):
            terminalreporter.write_line(f"{_ABSENT.count(message)} test(s): {message}")


@pytest.fixture(scope="session")
def mariadb_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _server("ENROLLGATE_TEST_MARIADB_URL", start_mariadb, tmp_path_factory.mktemp("mariadb"))


@pytest.fixture(scope="session")
def mysql_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _server("ENROLLGATE_TEST_MYSQL_URL", start_mysql, tmp_path_factory.mktemp("mysql"))


def _server(variable: str, start: object, folder: Path) -> Iterator[str]:
    if url := os.environ.get(variable):
        yield url
        return
    try:
        server: Server = start(folder)  # type: ignore[operator]  # one of two functions of one signature
    except ServerAbsent as error:
        absent(variable.split("_")[2].lower(), str(error))
    yield server.url("")
    server.kill()


@pytest.fixture
def mariadb_url(mariadb_server_url: str) -> Iterator[str]:
    """A fresh, empty database on MariaDB."""
    with fresh_database(mariadb_server_url) as url:
        yield url


@pytest.fixture
def mysql_url(mysql_server_url: str) -> Iterator[str]:
    """A fresh, empty database on MySQL."""
    with fresh_database(mysql_server_url) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A fresh, empty SQLite file."""
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture(params=["sqlite", "mariadb", "mysql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, empty database on each of the three, one after the other."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["mariadb", "mysql"])
def server_database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, empty database on each of the two servers."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def own_mariadb(tmp_path: Path) -> Iterator[Server]:
    """A MariaDB of the test's own, to stop and start at will."""
    try:
        server = start_mariadb(tmp_path / "own-mariadb")
    except ServerAbsent as error:
        absent("mariadb", str(error))
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Log lines go nowhere unless a test looks at them."""
    structlog.configure(processors=[_drop])
    yield
    structlog.reset_defaults()


def _drop(*_: object) -> NoReturn:
    raise structlog.DropEvent
