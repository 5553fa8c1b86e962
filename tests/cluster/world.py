"""A database, a namespace and an operator in Kubernetes mode, as a child process under the chart's own service account."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import make_url, text
from tests.cluster.control_plane import Cluster
from tests.world import CREATE_TASKS

from enrollgate.database import migrate, open_database
from enrollgate.domain.reasons import exit_code
from enrollgate.domain.report import Report
from enrollgate.launchers.kubernetes.views import ATTEMPT, TASK, job_view

INSTALLATION = "school"
OBEDIENT_WORKER = """
name=${ENROLLGATE_SCRATCH_DIR##*/}
echo "try $((ENROLLGATE_FAILED_TRIES + 1)) of $name"
trap 'echo stopping; exit 75' TERM
until [ -f /courses/$name.code ]; do sleep 0.1; done
[ -f /courses/$name.report ] && cat /courses/$name.report > /dev/termination-log
read code < /courses/$name.code || true
exit $code
"""
"""Instead of the image's own program: it ends when and as the test says."""
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    task_id: int
    attempt: int
    name: str
    state: str
    outcome: str | None
    reason: str | None
    message: str
    result: str | None


@dataclass
class ClusterWorld:
    """What Node.js does to the table, what the operator does in the namespace, and what both show."""

    cluster: Cluster
    namespace: str
    database_url: str
    kubeconfig: Path
    folder: Path
    courses: Path
    """The folder behind the claim that every worker mounts; by files in it a test tells a worker how to end."""
    settings: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = open_database(make_url(self.database_url))
        auto = "" if self.database.is_sqlite else "AUTO_INCREMENT"
        self.sql(CREATE_TASKS.format(auto=auto))
        self.sql("CREATE INDEX ix_status ON download_tasks (status)")
        migrate(self.database)
        self.courses.chmod(0o777)
        self.template = self.folder / "job.yaml"
        worker = {"name": "worker", "command": ["sh", "-c", OBEDIENT_WORKER], "args": []}
        self.template.write_text(yaml.safe_dump({"spec": {"template": {"spec": {"containers": [worker]}}}}))

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.database.close()

    # the operator

    @property
    def environment(self) -> dict[str, str]:
        ours = {
            "ENROLLGATE_LAUNCHER": "kubernetes",
            "ENROLLGATE_INSTALLATION": INSTALLATION,
            "ENROLLGATE_DATABASE_URL": self.database_url,
            "ENROLLGATE_KUBERNETES__IMAGE": "enrollgate:test",
            "ENROLLGATE_CHECK_INTERVAL": "0.5",
            "ENROLLGATE_DESTINATION": "directory:/courses",
            "ENROLLGATE_KUBERNETES__DESTINATION_CLAIM": "courses",
            "ENROLLGATE_KUBERNETES__JOB_TEMPLATE": str(self.template),
            "ENROLLGATE_STOP_GRACE": "5",
            "KUBECONFIG": str(self.kubeconfig),
        } | {f"ENROLLGATE_{name}": value for name, value in self.settings.items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENROLLGATE_", "KUBE"))}
        return kept | ours

    def start_operator(self, **settings: str) -> subprocess.Popen[bytes]:
        environment = self.environment | {f"ENROLLGATE_{name}": value for name, value in settings.items()}
        with (self.folder / "operator.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "enrollgate", "run"], env=environment, stdout=log, stderr=log, cwd=self.folder
            )
        self.processes.append(process)
        return process

    def stop_operator(self, process: subprocess.Popen[bytes]) -> int:
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    @property
    def log(self) -> str:
        path = self.folder / "operator.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # the workers

    def finish(self, name: str, report: Report | None = None, code: int | None = None) -> None:
        """Lets the worker of a run end: with this report and the exit code that fits it, or with just a code."""
        if report is not None:
            (self.courses / f"{name}.report").write_text(report.encode())
            code = exit_code(report.reason) if code is None else code
        part = self.courses / f"{name}.part"
        part.write_text(str(code or 0))
        part.rename(self.courses / f"{name}.code")

    def succeed(self, name: str) -> None:
        self.finish(name, Report(None, "3 items delivered", items_delivered=3, destination_url="https://drive.test/f"))

    # Node.js's hand

    def sql(self, statement: str, **values: object) -> None:
        self.database.writing(lambda connection: connection.execute(text(statement), values))

    def add(self, status: str = "enrolled", url: str = "https://courses.example.com/1", count: int = 1) -> list[int]:
        statement = text("INSERT INTO download_tasks (status, email, course_url) VALUES (:status, :email, :url)")

        def insert(connection: Any) -> list[int]:
            values = {"status": status, "email": "ada@example.com", "url": url}
            return [int(connection.execute(statement, values).lastrowid) for _ in range(count)]

        return self.database.writing(insert)

    def set(self, task: int, status: str) -> None:
        self.sql("UPDATE download_tasks SET status = :status WHERE id = :id", status=status, id=task)

    # what anybody can see

    def status(self, task: int) -> str | None:
        with self.database.reading() as connection:
            found: str | None = connection.execute(
                text("SELECT status FROM download_tasks WHERE id = :id"), {"id": task}
            ).scalar()
        return found

    def statuses(self) -> dict[str, int]:
        with self.database.reading() as connection:
            rows = connection.execute(text("SELECT status, COUNT(*) FROM download_tasks GROUP BY status"))
            return {str(status): count for status, count in rows}

    def runs(self, task: int | None = None) -> list[Run]:
        where = "" if task is None else "WHERE task_id = :id"
        query = (
            "SELECT task_id, attempt, name, state, outcome, reason, COALESCE(message, ''), result "
            f"FROM enrollgate_runs {where} ORDER BY task_id, attempt"
        )
        with self.database.reading() as connection:
            return [Run(*row) for row in connection.execute(text(query), {} if task is None else {"id": task})]

    def jobs(self) -> dict[str, dict[str, Any]]:
        return {job["metadata"]["name"]: job for job in self.cluster.jobs(self.namespace)}

    def tasks_of_jobs(self) -> list[tuple[int, int]]:
        """The task and the attempt of every Job there is."""
        labels = [job["metadata"].get("labels", {}) for job in self.jobs().values()]
        return sorted((int(each[TASK]), int(each[ATTEMPT])) for each in labels if TASK in each)

    def live_jobs(self) -> list[str]:
        return [name for name, job in self.jobs().items() if job_view(job).verdict is None]

    def stories(self, job: str) -> list[tuple[str, str]]:
        events = self.cluster.events(self.namespace, fieldSelector=f"involvedObject.name={job}")
        ours = [event for event in events if event.get("source", {}).get("component") == "enrollgate"]
        ours.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
        return [(event["reason"], event["message"]) for event in ours]

    def wait_for(self, condition: Callable[[], object], what: str = "", patience: float = 120.0) -> None:
        try:
            self.cluster.wait_for(condition, patience, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.runs()[:50]}\n{self.log[-4000:]}") from None

    def wait_for_status(self, task: int, status: str) -> None:
        self.wait_for(lambda: self.status(task) == status, f"task {task} becomes {status}")
