"""One installation of the chart on the node: values in; rows, runs, Jobs and pods out."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Connection, make_url, text
from tests.chart.rendering import merged
from tests.cluster.chart import CHART, helm, kubectl
from tests.cluster.control_plane import Cluster
from tests.cluster.job_watch import JobWatch
from tests.databases.schema import create_tasks_table
from tests.databases.server import execute, fresh_database
from tests.node.images import IMAGE
from tests.node.node import ADDRESS, NODE

from enrollgate.database import Database, open_database

RELEASE = "enrollgate"
_STATUSES = "SELECT id, status FROM download_tasks"
Json = dict[str, Any]


@dataclass(frozen=True)
class Installation:
    """A Helm release in a namespace of its own. `courses` is the folder behind its volume."""

    cluster: Cluster
    namespace: str
    # Of the database, as its administrator.
    url: str
    database: Database
    courses: Path
    values: Path

    def helm(self, *arguments: str) -> str:
        done = helm(*arguments, "-n", self.namespace, kubeconfig=self.cluster.kubeconfig)
        assert done.returncode == 0, done.stdout + done.stderr + self.describe()
        return done.stdout

    def kubectl(self, *arguments: str) -> str:
        return kubectl("-n", self.namespace, *arguments, kubeconfig=self.cluster.kubeconfig)

    def describe(self) -> str:
        """Return what explains a failed test: pods, Events and the operator's log."""
        shown = [self.kubectl("describe", "pods")]
        try:
            shown.append(self.kubectl("logs", f"deploy/{RELEASE}", "--tail=100"))
        except AssertionError as error:  # it does not run
            shown.append(str(error))
        return "\n".join(shown)[-20_000:]

    def sql(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        def run(connection: Connection) -> list[tuple[Any, ...]]:
            result = connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

        return self.database.run_in_transaction(run)

    def enroll(self, url: str, status: str = "enrolled", email: str = "ada@example.com") -> None:
        """Write a row as Node.js does. The first one is task 1."""
        self.sql(
            "INSERT INTO download_tasks (status, email, course_url) VALUES (:status, :email, :url)",
            status=status,
            email=email,
            url=url,
        )

    def statuses(self) -> dict[int, str]:
        """Return the status of each task."""
        return {int(task): str(status) for task, status in self.sql(_STATUSES)}

    def explain(self, task: int = 1) -> str:
        """Return what `enrollgate explain` shows on this machine, with its lines joined."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "ENROLLGATE_DATABASE_URL": self.url,
            "ENROLLGATE_INSTALLATION": RELEASE,
            "ENROLLGATE_DESTINATION": "directory:/courses",
        }
        command = [sys.executable, "-m", "enrollgate", "explain", str(task)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    def wait_for(self, condition: Any, what: str, timeout: float = 300) -> None:
        try:
            self.cluster.wait_for(condition, timeout=timeout, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.runs()}\n{self.describe()}") from error

    def wait_until_final(self) -> str:
        """Wait until the only row is final, and return its status."""
        final = ({1: "completed"}, {1: "failed"})
        self.wait_for(lambda: self.statuses() in final, "the row is final")
        return self.statuses()[1]

    def runs(self) -> list[tuple[Any, ...]]:
        """Return outcome, reason and message of each run, as Node.js may read them."""
        return self.sql("SELECT outcome, reason, message FROM enrollgate_runs ORDER BY id")

    def failed_run(self) -> tuple[str, str]:
        """Wait for the failure of the only task, and return its reason and message."""
        assert self.wait_until_final() == "failed", self.runs()
        return self.ended_run("failed")

    def ended_run(self, outcome: str) -> tuple[str, str]:
        """Wait until the only run has ended, and return its reason and message.

        A run that is stopped ends when its last pod is gone.
        """
        self.wait_for(lambda: all(found for found, *_ in self.runs()), "the run has ended")
        ((found, reason, message),) = self.runs()
        assert found == outcome, self.runs()
        return str(reason), str(message)

    def worker_pods(self) -> list[Json]:
        selector = "app.kubernetes.io/component=worker"
        return self.cluster.pods(self.namespace, labelSelector=selector)

    def wait_for_running_worker(self) -> Json:
        """Wait until a worker's container runs, and return its pod."""

        def running() -> list[Json]:
            return [
                pod
                for pod in self.worker_pods()
                for status in pod["status"].get("containerStatuses", ())
                if "running" in status["state"]
            ]

        self.wait_for(running, "a worker runs")
        return running()[0]


@contextmanager
def installed(
    cluster: Cluster,
    server_url: str,
    host: str,
    folder: Path,
    values: Json,
    prepare: Callable[[str], None],
) -> Iterator[Installation]:
    """Install the chart in a fresh namespace, with a database and a volume of its own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    courses = cluster.folder / "courses" / name
    courses.mkdir(parents=True)
    with (
        fresh_database(server_url) as url,
        cluster.namespace(name) as namespace,
        closing(open_database(make_url(url))) as database,
    ):
        values_file = folder / "values.yaml"
        installation = Installation(cluster, namespace, url, database, courses, values_file)
        installation.sql(create_tasks_table(is_sqlite=False))
        cluster.secret(namespace, "database", url=create_account(url))
        _create_volume(cluster, namespace, courses)
        prepare(namespace)
        required = {
            "image": {"repository": IMAGE.partition(":")[0], "tag": IMAGE.partition(":")[2]},
            "database": {"existingSecret": "database"},
            "destination": "directory:/courses",
            "destinationVolume": {"existingClaim": "courses"},
            "allowedHosts": [host],
            "checkInterval": 1,
            "maxAttempts": 1,
            "startTimeout": "5m",
            "worker": {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}},
            "operator": {
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                "startupProbe": {"periodSeconds": 1, "failureThreshold": 120},
                "readinessProbe": {"periodSeconds": 1},
            },
        }
        installation.values.write_text(yaml.safe_dump(merged(required, values)))
        arguments = ("-f", str(installation.values), "--wait", "--timeout", "5m")
        installation.helm("install", RELEASE, str(CHART), *arguments)
        yield installation


@contextmanager
def every_task_has_one_job(installation: Installation) -> Iterator[None]:
    """Check that each task has had one Job, whatever happens in the block."""
    with closing(JobWatch(installation.cluster, installation.namespace)) as watch:
        yield
        assert watch.tasks == [(task, 1) for task in installation.statuses()]


def create_account(url: str) -> str:
    """Create a database user for pods, and return the URL that it logs in with."""
    parsed = make_url(url)
    user = f"enrollgate_{uuid.uuid4().hex[:8]}"
    execute(
        url,
        f"CREATE USER {user}@'%' IDENTIFIED BY 'secret'",
        f"GRANT ALL ON `{parsed.database}`.* TO {user}@'%'",
    )
    return parsed.set(
        drivername="mysql", username=user, password="secret", host=ADDRESS
    ).render_as_string(hide_password=False)


def _create_volume(cluster: Cluster, namespace: str, courses: Path) -> None:
    """Create a local volume on the node, and the claim `courses` that is bound to it."""
    size = {"storage": "10Gi"}
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    kinds = {"accessModes": ["ReadWriteMany"], "storageClassName": "local"}
    volume: Json = {
        "metadata": {"name": f"courses-{namespace}"},
        "spec": kinds
        | {
            "capacity": size,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(courses)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
    claim: Json = {
        "metadata": {"name": "courses"},
        "spec": kinds | {"resources": {"requests": size}, "volumeName": f"courses-{namespace}"},
    }
    cluster.create("/api/v1/persistentvolumes", volume)
    cluster.create(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", claim)


def job_template(**container: Any) -> Json:
    """Build the values that change the worker's container."""
    worker = {"name": "worker", **container}
    return {"worker": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [worker]}}}}}}


def reports(installation: Installation) -> list[Json]:
    """Return the workers' reports that were kept with the runs."""
    found = installation.sql("SELECT result FROM enrollgate_runs ORDER BY id")
    return [json.loads(result or "{}") for (result,) in found]
