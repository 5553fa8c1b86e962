"""An operator as its users run it: a child process of its own, on the demo's course site."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from examples.demo.site import CourseSite
from sqlalchemy import make_url, text

from enrollgate.database import open_database
from enrollgate.domain.account import cookies_name

PATIENCE = 120.0
"""Seconds to wait for something that must happen; generous, since machines are slow at times."""


class Operator:
    """Settings, a database and a folder; `start` and `kill` as often as a test likes."""

    def __init__(self, folder: Path, database_url: str, site: CourseSite, **settings: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.site = site
        (folder / "cookies").mkdir()
        self.environment = {
            "ENROLLGATE_DATABASE_URL": database_url,
            "ENROLLGATE_CHECK_INTERVAL": "0.3",
            "ENROLLGATE_DESTINATION": f"directory:{folder / 'courses'}",
            "ENROLLGATE_ALLOWED_HOSTS": site.host,
            "ENROLLGATE_COOKIES_DIR": str(folder / "cookies"),
            "ENROLLGATE_WORK_DIR": str(folder / "work"),
            "ENROLLGATE_RETRY_BACKOFF": "0.1",
        } | {f"ENROLLGATE_{name}": value for name, value in settings.items()}
        self.processes: list[subprocess.Popen[bytes]] = []

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "enrollgate", *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "operator.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "enrollgate", "run"],
                env=self._environment(),
                stderr=log,
                cwd=self.folder,
            )
        self.processes.append(process)
        return process

    def stop_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=PATIENCE)

    def _environment(self) -> dict[str, str]:
        others = {
            name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")
        }
        return (
            others
            | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            | self.environment
        )

    @property
    def log(self) -> str:
        return (self.folder / "operator.log").read_text()

    # Node.js's hand

    def create_table(self) -> None:
        auto = "" if self.database_url.startswith("sqlite") else "AUTO_INCREMENT"
        self.sql(
            f"CREATE TABLE download_tasks (id INTEGER PRIMARY KEY {auto}, status VARCHAR(32), email VARCHAR(255), "
            "course_url VARCHAR(2048))"
        )

    def sql(self, statement: str, **values: object) -> list[tuple[object, ...]]:
        with closing(open_database(make_url(self.database_url))) as database:

            def run(connection):  # type: ignore[no-untyped-def]
                result = connection.execute(text(statement), values)
                return [tuple(row) for row in result] if result.returns_rows else []

            rows: list[tuple[object, ...]] = database.run_in_transaction(run)
            return rows

    def add(self, task_id: int, course: str, status: str = "enrolled") -> str:
        account = f"account{task_id}@example.com"
        (self.folder / "cookies" / cookies_name(account)).write_text(
            self.site.cookies_file(account)
        )
        if status == "enrolled":
            self.site.enroll(account, course)
        self.sql(
            "INSERT INTO download_tasks (id, status, email, course_url) VALUES (:id, :status, :email, :url)",
            id=task_id,
            status=status,
            email=account,
            url=self.site.course_url(course),
        )
        return account

    def status(self, task_id: int) -> object:
        return self.sql("SELECT status FROM download_tasks WHERE id = :id", id=task_id)[0][0]

    def runs(self) -> list[tuple[object, ...]]:
        return self.sql(
            "SELECT task_id, run_number, state, outcome, reason FROM enrollgate_runs ORDER BY task_id, run_number"
        )

    def await_status(self, task_id: int, status: str) -> None:
        wait_until(
            lambda: self.status(task_id) == status,
            lambda: f"task {task_id}: {self.status(task_id)}\n{self.log}",
        )

    def files(self, task_id: int) -> list[bytes]:
        root = next((self.folder / "courses").glob(f"*task-{task_id}]"))
        return [path.read_bytes() for path in sorted(root.rglob("*.mp4"))]


def wait_until(condition: Callable[[], bool], explain: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not happen: {explain()}")
        time.sleep(0.05)
