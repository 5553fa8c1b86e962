"""A private database server with its own data folder, socket and port. It dies with the tests."""

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pymysql
from sqlalchemy import URL, make_url

USER = "root"
PASSWORD = "only-for-tests"
_START_TIMEOUT = 120
_PR_SET_PDEATHSIG = 1  # prctl(2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, so that no server stays behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Server:
    """A server that can be started, stopped and killed repeatedly, always on the same port.

    `ready` is called once after the first start, to set the password.
    """

    command: Sequence[str]
    folder: Path
    port: int
    ready: Callable[[int], None] = field(default=lambda _port: None)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- it calls nothing but prctl
            )
        atexit.register(self.kill)
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                self.ready(self.port)
            except (OSError, pymysql.err.OperationalError):
                time.sleep(0.1)
                continue
            self.ready = lambda _port: None
            return
        end_of_log = (self.folder / "log").read_text(errors="replace")[-3000:]
        raise RuntimeError(f"the server did not start:\n{end_of_log}")

    def stop(self) -> None:
        """Shut the server down in order, and wait for it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=120)

    def url(self, database: str) -> str:
        url = URL.create("mysql+pymysql", USER, PASSWORD, "127.0.0.1", self.port, database)
        return url.render_as_string(hide_password=False)


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """Create an empty database on the server that the URL names, and drop it at the end."""
    url = make_url(server_url)
    name = f"test_{uuid.uuid4().hex[:12]}"
    execute(server_url, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        execute(server_url, f"DROP DATABASE IF EXISTS {name}")


def execute(server_url: str, *statements: str) -> None:
    """Run statements as the server's administrator."""
    url = make_url(server_url)
    assert url.username is not None
    connection = pymysql.connect(
        host=url.host or "127.0.0.1",
        port=url.port or 3306,
        user=url.username,
        password=str(url.password or ""),
        autocommit=True,
        charset="utf8mb4",
    )
    with closing(connection), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def as_user(*command: str) -> list[str]:
    """Add the `--user` option if we are root: a server refuses to run as root."""
    return [*command, "--user=nobody"] if os.geteuid() == 0 else list(command)


@contextmanager
def limited_user(
    server_url: str, *granted: str, password: str = "limited", host: str = "%"
) -> Iterator[URL]:
    """Create a user with these privileges (`SELECT ON x.*`) and yield the URL to log in with."""
    url = make_url(server_url)
    user = f"u_{url.database}"[:30]
    who = f"{user}@'{host}'"
    grants = (f"GRANT {each} TO {who}" for each in granted)
    execute(server_url, f"CREATE USER {who} IDENTIFIED BY '{password}'", *grants)
    try:
        yield url.set(username=user, password=password)
    finally:
        execute(server_url, f"DROP USER {who}")
