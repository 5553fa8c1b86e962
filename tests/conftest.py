"""Fixtures for real parts. A part that is absent is skipped loudly here, and is a failure in CI.

`make test-quick` leaves out what is slow or needs a database server (`--quick`). Whatever was left
out is listed at the end of the run.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import structlog
from examples.demo.media import FfmpegAbsent, find_ffmpeg
from hypothesis import HealthCheck, settings
from tests.databases import Server, ServerAbsent, start_mariadb, start_mysql
from tests.databases.server import fresh_database

# A loaded machine is slow at times: that is no failure. 100 examples of each property.
settings.register_profile(
    "enrollgate",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("enrollgate")
_LEFT_OUT = "left out: "
_DESELECTED = Counter[str]()
# What `--quick` does not run, although it is below the folders that it names.
_SERVERS = ("mariadb", "mysql")
_SLOW_FOLDERS = ("tests/integration/drive", "tests/integration/launchers")


def absent(part: str, remedy: str) -> NoReturn:
    """Skip the test because a part is not on this machine. In CI nothing may be absent."""
    message = f"{part} is absent: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def left_out(reason: str) -> NoReturn:
    """Skip the test, loudly, by choice of whoever runs it. That is no failure in CI, either."""
    pytest.skip(f"{_LEFT_OUT}{reason}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out slow tests and servers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--quick"):
        return
    kept, deselected = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        reason = _why_not_quick(item)
        if reason is None:
            kept.append(item)
        else:
            deselected.append(item)
            _DESELECTED[reason] += 1
    items[:] = kept
    config.hook.pytest_deselected(items=deselected)


def _why_not_quick(item: pytest.Item) -> str | None:
    fixtures = getattr(item, "fixturenames", ())
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    for server in _SERVERS:
        if server in parameters or any(server in fixture for fixture in fixtures):
            return "on MariaDB or MySQL"
    folder = next((each for each in _SLOW_FOLDERS if item.nodeid.startswith(each)), None)
    if folder is not None:
        return f"in {folder}"
    return "marked slow" if item.get_closest_marker("slow") else None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--quick"):
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(_DESELECTED.items()))
        terminalreporter.section("QUICK: NOT EVERYTHING WAS RUN", yellow=True, bold=True)
        terminalreporter.write_line(
            f"LEFT OUT: {counts or 'nothing'}; all of tests/e2e, tests/chaos, tests/image and "
            "tests/cluster; lint, types and generated pages. Run all: make test, make test-cluster"
        )
    elif config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        terminalreporter.section(
            "THE TESTS ON A KUBERNETES CONTROL PLANE WERE NOT RUN", yellow=True, bold=True
        )
        terminalreporter.write_line("They are a command of their own: make test-cluster")
    # From the reports, since with xdist the tests run in other processes.
    skips = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", ())
    )
    by_choice = {reason for reason in skips if reason.startswith(_LEFT_OUT)}
    parts = {reason for reason in skips if " is absent: " in reason} - by_choice
    for heading, reasons, color in (
        ("SKIPPED: PARTS ABSENT", parts, "red"),
        ("LEFT OUT", by_choice, "yellow"),
    ):
        if reasons:
            is_red = color == "red"
            terminalreporter.section(heading, red=is_red, yellow=not is_red, bold=True)
        for reason in sorted(reasons):
            count = skips[reason]
            terminalreporter.write_line(f"{count} test(s): {reason.removeprefix(_LEFT_OUT)}")


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
    """Start a server in a temporary folder, and kill it at the end.

    pytest's own temporary folders do not do: the user that the server runs as cannot enter them.
    """
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
    """A fresh, empty database on each of the three in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["mariadb", "mysql"])
def server_database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, empty database on each of the two servers in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def own_mariadb() -> Iterator[Server]:
    """A MariaDB for this test alone, to stop and start."""
    with server_in_a_folder("ENROLLGATE_TEST_MARIADB_URL", start_mariadb) as server:
        yield server


@pytest.fixture(scope="session")
def webservers() -> None:
    """nginx, Apache httpd, a mount namespace for the hosts file, and ffmpeg for the lectures."""
    for program in ("nginx", "apache2"):
        if shutil.which(program) is None:
            absent(program, f"run scripts/webservers as root on Debian, or install {program}")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        absent("a hosts file for the worker", "run the tests as root on Linux")
    try:
        find_ffmpeg()
    except FfmpegAbsent as error:
        absent("ffmpeg", str(error))


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Drop log lines, unless a test configures logging itself."""
    structlog.configure(processors=[_drop])
    yield
    structlog.reset_defaults()


def _drop(*_: object) -> NoReturn:
    raise structlog.DropEvent
