"""A database, a namespace and an operator as a child process under the chart's service account."""

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
from tests.cluster.chart import Rendered, grant, rendered
from tests.cluster.control_plane import Cluster
from tests.cluster.exit_script import SCRIPTED_WORKER, WORKER_FOLDER, WORKER_VOLUME, ExitScript
from tests.databases.schema import create_tasks_table
from tests.databases.server import free_port

from enrollgate.database import migrate, open_database
from enrollgate.domain.reasons import exit_code
from enrollgate.domain.report import Report
from enrollgate.launchers.kubernetes.job_client import parse_job
from enrollgate.launchers.kubernetes.views import RUN, TASK

INSTALLATION = "school"
REPOSITORY = Path(__file__).parents[2]
DELIVERED = Report(
    None, "3 items delivered", items_delivered=3, destination_url="https://drive.test/f"
)
# Chart values whose names do not follow from the setting's name.
_VALUES = {
    "RUN_TTL": "runTTL",
    "KUBERNETES__COOKIES_SECRET": "cookies.existingSecret",
    "KUBERNETES__DRIVE_SECRET": "drive.existingSecret",
}


@dataclass(frozen=True)
class Run:
    task_id: int
    run_number: int
    name: str
    state: str
    outcome: str | None
    reason: str | None
    message: str
    result: str | None


@dataclass
class ClusterWorld:
    """What Node.js does to the table, what the operator does in the namespace, and what both
    show.
    """

    cluster: Cluster
    namespace: str
    database_url: str
    kubeconfig: Path
    folder: Path
    # Settings of every operator, by name. The chart is rendered with the values that set them.
    settings: dict[str, str] = field(default_factory=dict)
    image: str = "enrollgate:test"
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    # The number of replicas that the permissions are for.
    replicas: int = 1

    def __post_init__(self) -> None:
        self.database = open_database(make_url(self.database_url))
        self.sql(create_tasks_table(is_sqlite=self.database.is_sqlite))
        self.sql("CREATE INDEX ix_status ON download_tasks (status)")
        migrate(self.database)
        self.exit_script = ExitScript(self.cluster, self.namespace)
        # The value `worker.jobTemplate`; tests may change it.
        self.template = self.folder / "job.yaml"
        worker = {
            "name": "worker",
            "command": ["sh", "-c", SCRIPTED_WORKER],
            "args": [],
            "volumeMounts": [WORKER_FOLDER],
        }
        self.template.write_text(
            yaml.safe_dump(
                {
                    "spec": {
                        "template": {"spec": {"containers": [worker], "volumes": [WORKER_VOLUME]}}
                    }
                }
            )
        )

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.exit_script.close()
        self.database.close()

    # the operator

    def start_operator(
        self, kubeconfig: Path | None = None, /, **settings: str
    ) -> subprocess.Popen[bytes]:
        """Start it as the chart's Deployment does, with these settings.

        `kubeconfig` replaces the service account's own.
        """
        chart = self._rendered(settings)
        environment = self._environment(chart, settings) | (
            {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
        )
        with (self.folder / "operator.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "enrollgate", *chart.arguments],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self.processes.append(process)
        return process

    @property
    def environment(self) -> dict[str, str]:
        """The environment of an operator without settings of its own."""
        return self._environment(self._rendered({}), {})

    def _environment(self, chart: Rendered, settings: dict[str, str]) -> dict[str, str]:
        template = self.folder / "rendered-job.yaml"
        template.write_text(chart.job_template)
        # What a process on this machine has elsewhere than a pod; all else is the chart's.
        elsewhere = {
            "ENROLLGATE_DATABASE_URL": self.database_url,
            "ENROLLGATE_KUBERNETES__JOB_TEMPLATE": str(template),
            "ENROLLGATE_HTTP_PORT": settings.get("HTTP_PORT") or str(free_port()),
            "KUBECONFIG": str(self.kubeconfig),
        }
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ENROLLGATE_", "KUBE"))
        }
        return kept | chart.environment | elsewhere

    def _rendered(self, settings: dict[str, str]) -> Rendered:
        repository, _, tag = self.image.rpartition(":")
        values: dict[str, Any] = {
            "installation": INSTALLATION,
            "image": {"repository": repository, "tag": tag},
            "checkInterval": 0.5,
            "stopGrace": 5,
            "destination": "directory:/courses",
            "worker": {"jobTemplate": yaml.safe_load(self.template.read_text())},
        }
        wanted = self.settings | settings
        values["replicas"] = 2 if wanted.pop("KUBERNETES__LEADER_ELECTION", "") == "true" else 1
        if values["replicas"] != self.replicas:
            self.replicas = values["replicas"]
            grant(self.namespace, self.cluster.kubeconfig, self.replicas)
        for name, value in wanted.items():
            if name != "HTTP_PORT":
                _put(
                    values,
                    _VALUES.get(name) or _camel(name.removeprefix("KUBERNETES__")),
                    yaml.safe_load(value),
                )
        return rendered(self.namespace, values)

    def stop_operator(self, process: subprocess.Popen[bytes]) -> int:
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    @property
    def log(self) -> str:
        path = self.folder / "operator.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # the workers

    def finish(self, name: str, report: Report | None = None, code: int | None = None) -> None:
        """Let the worker of a run exit, with this report and its exit code, or with only a code."""
        code = code if code is not None else exit_code(report.reason) if report is not None else 0
        self.exit_script.set_exit(name, code, report.encode() if report is not None else "")

    def succeed(self, name: str) -> None:
        self.finish(name, DELIVERED)

    # what Node.js does

    def sql(self, statement: str, **values: object) -> None:
        self.database.run_in_transaction(
            lambda connection: connection.execute(text(statement), values)
        )

    def add(
        self, status: str = "enrolled", url: str = "https://courses.example.com/1", count: int = 1
    ) -> list[int]:
        statement = text(
            "INSERT INTO download_tasks (status, email, course_url) VALUES (:status, :email, :url)"
        )

        def insert(connection: Any) -> list[int]:
            values = {"status": status, "email": "ada@example.com", "url": url}
            return [int(connection.execute(statement, values).lastrowid) for _ in range(count)]

        return self.database.run_in_transaction(insert)

    def set(self, task: int, status: str) -> None:
        self.sql(
            "UPDATE download_tasks SET status = :status WHERE id = :id", status=status, id=task
        )

    # what anybody can see

    def status(self, task: int) -> str | None:
        with self.database.read_transaction() as connection:
            found: str | None = connection.execute(
                text("SELECT status FROM download_tasks WHERE id = :id"), {"id": task}
            ).scalar()
        return found

    def statuses(self) -> dict[str, int]:
        with self.database.read_transaction() as connection:
            rows = connection.execute(
                text("SELECT status, COUNT(*) FROM download_tasks GROUP BY status")
            )
            return {str(status): count for status, count in rows}

    def runs(self, task: int | None = None) -> list[Run]:
        where = "" if task is None else "WHERE task_id = :id"
        query = (
            "SELECT task_id, run_number, name, state, outcome, reason, "
            "COALESCE(message, ''), result "
            f"FROM enrollgate_runs {where} ORDER BY task_id, run_number"
        )
        with self.database.read_transaction() as connection:
            return [
                Run(*row)
                for row in connection.execute(text(query), {} if task is None else {"id": task})
            ]

    def jobs(self) -> dict[str, dict[str, Any]]:
        return {job["metadata"]["name"]: job for job in self.cluster.jobs(self.namespace)}

    def tasks_of_jobs(self) -> list[tuple[int, int]]:
        """Return task and run number of every Job."""
        labels = [job["metadata"].get("labels", {}) for job in self.jobs().values()]
        return sorted((int(each[TASK]), int(each[RUN])) for each in labels if TASK in each)

    def live_jobs(self) -> list[str]:
        return [name for name, job in self.jobs().items() if parse_job(job).result is None]

    def events(self, job: str) -> list[tuple[str, str]]:
        events = self.cluster.events(self.namespace, fieldSelector=f"involvedObject.name={job}")
        ours = [
            event for event in events if event.get("source", {}).get("component") == "enrollgate"
        ]
        ours.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
        return [(event["reason"], event["message"]) for event in ours]

    def wait_for(
        self, condition: Callable[[], object], what: str = "", timeout: float = 120.0
    ) -> None:
        try:
            self.cluster.wait_for(condition, timeout, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.runs()[:50]}\n{self.log[-4000:]}") from None

    def wait_for_status(self, task: int, status: str) -> None:
        self.wait_for(lambda: self.status(task) == status, f"task {task} becomes {status}")


def _camel(name: str) -> str:
    first, *rest = name.lower().split("_")
    return first + "".join(map(str.capitalize, rest))


def _put(values: dict[str, Any], path: str, value: object) -> None:
    *folders, last = path.split(".")
    for folder in folders:
        values = values.setdefault(folder, {})
    values[last] = value
