"""An operator as its users run it: a child process, on the demo's course site.

In come settings, a database and a folder. A test then writes rows as Node.js does, and reads
statuses, runs, logs and delivered files.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from examples.demo.site import CourseSite
from sqlalchemy import Connection, make_url, text
from tests.conftest import absent
from tests.databases.schema import create_tasks_table

from enrollgate.database import open_database
from enrollgate.domain.account import cookies_name

# Seconds to wait for something that must happen; generous, since machines are slow at times.
TIMEOUT = 120.0


@contextmanager
def course_site(throttle: int | None = None) -> Iterator[CourseSite]:
    """Serve the demo's courses, at most `throttle` bytes a second. Skips without ffmpeg."""
    try:
        with CourseSite(throttle=throttle) as running:
            yield running
    except RuntimeError as error:
        absent("ffmpeg", str(error))


class Site(Protocol):
    """What an operator's process and Node.js need of a course site."""

    @property
    def host(self) -> str: ...

    def course_url(self, course: str) -> str: ...

    def enroll(self, account: str, course: str) -> None: ...

    def cookies_file(self, account: str) -> str: ...


class NoSite:
    """A site whose runs fail at once: its courses are on a host that may not be contacted."""

    host = "courses.example.com"

    def course_url(self, course: str) -> str:
        return f"https://refused.example.org/{course}"

    def enroll(self, account: str, course: str) -> None: ...

    def cookies_file(self, account: str) -> str:
        return f"# {account}"


class OperatorProcess:
    """Settings, a database and a folder; `start` and kill it as often as a test likes."""

    def __init__(self, folder: Path, database_url: str, site: Site, **settings: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.site = site
        self.processes: list[subprocess.Popen[bytes]] = []
        # The beginning of the operator's command: a program that starts it.
        self.prefix: list[str] = []
        (folder / "cookies").mkdir()
        others = {
            name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")
        }
        self.environment = (
            others
            | {
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "ENROLLGATE_DATABASE_URL": database_url,
                "ENROLLGATE_CHECK_INTERVAL": "0.3",
                "ENROLLGATE_DESTINATION": f"directory:{folder / 'courses'}",
                "ENROLLGATE_ALLOWED_HOSTS": site.host,
                "ENROLLGATE_COOKIES_DIR": str(folder / "cookies"),
                "ENROLLGATE_WORK_DIR": str(folder / "work"),
                "ENROLLGATE_RETRY_BACKOFF": "0.1",
            }
            | {f"ENROLLGATE_{name}": value for name, value in settings.items()}
        )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "enrollgate", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "operator.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "enrollgate", "run"],
                env=self.environment,
                stderr=log,
                cwd=self.folder,
            )
        self.processes.append(process)
        return process

    def stop_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=TIMEOUT)

    @property
    def log(self) -> str:
        return (self.folder / "operator.log").read_text()

    # What Node.js does

    def create_table(self) -> None:
        self.sql(create_tasks_table(is_sqlite=self.database_url.startswith("sqlite")))

    def sql(self, statement: str, **values: object) -> list[tuple[object, ...]]:
        def run(connection: Connection) -> list[tuple[object, ...]]:
            result = connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

        with closing(open_database(make_url(self.database_url))) as database:
            return database.run_in_transaction(run)

    def write_cookies(self, account: str) -> None:
        path = self.folder / "cookies" / cookies_name(account)
        path.write_text(self.site.cookies_file(account))

    def add(self, task_id: int, course: str, status: str = "enrolled") -> str:
        """Write a row, with its cookies file, and return its account."""
        account = f"account{task_id}@example.com"
        self.write_cookies(account)
        if status == "enrolled":
            self.site.enroll(account, course)
        self.sql(
            "INSERT INTO download_tasks (id, status, email, course_url) "
            "VALUES (:id, :status, :email, :url)",
            id=task_id,
            status=status,
            email=account,
            url=self.site.course_url(course),
        )
        return account

    # What people see

    def status(self, task_id: int) -> object:
        return self.sql("SELECT status FROM download_tasks WHERE id = :id", id=task_id)[0][0]

    def runs(self) -> list[tuple[object, ...]]:
        return self.sql(
            "SELECT task_id, run_number, state, outcome, reason FROM enrollgate_runs "
            "ORDER BY task_id, run_number"
        )

    def wait_for_status(self, task_id: int, status: str) -> None:
        wait_until(
            lambda: self.status(task_id) == status,
            lambda: f"task {task_id}: {self.status(task_id)}\n{self.log}",
        )

    def files(self, task_id: int) -> list[bytes]:
        root = next((self.folder / "courses").glob(f"*task-{task_id}]"))
        return [path.read_bytes() for path in sorted(root.rglob("*.mp4"))]


def wait_until(condition: Callable[[], bool], explain: Callable[[], str] = lambda: "") -> None:
    """Wait until the condition is true; the test fails with the explanation if it never is."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {TIMEOUT:g} s: {explain()}")
        time.sleep(0.05)
