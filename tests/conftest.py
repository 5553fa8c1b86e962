"""Fixtures for real parts. What is absent is skipped loudly here, and is a failure in CI."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import structlog
from tests.databases import Server, ServerAbsent, start_mariadb, start_mysql
from tests.databases.server import fresh_database

_ABSENT: set[str] = set()
_LEFT_OUT: set[str] = set()


def absent(part: str, remedy: str) -> NoReturn:
    """Skips the test because a part is not on this machine; in CI nothing may be absent."""
    message = f"{part} is absent: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(message)
    _ABSENT.add(message)
    pytest.skip(message)


def left_out(reason: str) -> NoReturn:
    """Skips the test, loudly, because whoever runs it has chosen so; that is no failure in CI, either."""
    _LEFT_OUT.add(reason)
    pytest.skip(reason)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        terminalreporter.section(
            "THE TESTS ON A KUBERNETES CONTROL PLANE WERE NOT RUN", yellow=True, bold=True
        )
        terminalreporter.write_line("They are a command of their own: make test-cluster")
    _list_skips(terminalreporter, "SKIPPED: PARTS ABSENT", _ABSENT, red=True, bold=True)
    _list_skips(terminalreporter, "LEFT OUT", _LEFT_OUT, yellow=True, bold=True)


def _list_skips(
    reporter: pytest.TerminalReporter, heading: str, reasons: set[str], **style: bool
) -> None:
    if reasons:
        reporter.section(heading, **style)
    skips = [
        report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ())
    ]
    for reason in sorted(reasons):
        reporter.write_line(f"{skips.count(reason)} test(s): {reason}")


@pytest.fixture(scope="session")
def mariadb_server_url() -> Iterator[str]:
    yield from _server("ENROLLGATE_TEST_MARIADB_URL", start_mariadb)


@pytest.fixture(scope="session")
def mysql_server_url() -> Iterator[str]:
    yield from _server("ENROLLGATE_TEST_MYSQL_URL", start_mysql)


def _server(variable: str, start: Callable[[Path], Server]) -> Iterator[str]:
    if url := os.environ.get(variable):
        yield url
        return
    with server_in_a_folder(variable, start) as server:
        yield server.url("")


@contextmanager
def server_in_a_folder(variable: str, start: Callable[[Path], Server]) -> Iterator[Server]:
    """The server's data is no test's: pytest's own folders are closed to the user that the server runs as."""
    with tempfile.TemporaryDirectory(prefix="enrollgate-", ignore_cleanup_errors=True) as folder:
        try:
            server = start(Path(folder))
        except ServerAbsent as error:
            absent(variable.split("_")[2].lower(), str(error))
        try:
            yield server
        finally:
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
def own_mariadb() -> Iterator[Server]:
    """A MariaDB of the test's own, to stop and start at will."""
    with server_in_a_folder("ENROLLGATE_TEST_MARIADB_URL", start_mariadb) as server:
        yield server


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Log lines go nowhere unless a test looks at them."""
    structlog.configure(processors=[_drop])
    yield
    structlog.reset_defaults()


def _drop(*_: object) -> NoReturn:
    raise structlog.DropEvent
