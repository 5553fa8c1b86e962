"""From `helm install` to delivered files and `helm uninstall`.

Operators and workers run in pods, as the chart creates them, with a MariaDB.
"""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from examples.demo.site import CourseSite
from sqlalchemy import Connection, make_url, text
from tests.cluster.chart import CHART, helm, kubectl
from tests.cluster.control_plane import Cluster
from tests.cluster.job_watch import JobWatch
from tests.cluster.pod_runner import PodRunner
from tests.conftest import absent
from tests.databases.schema import create_tasks_table

from enrollgate.database import Database, open_database
from enrollgate.domain.account import cookies_name
from enrollgate.launchers.kubernetes.views import TASK

ACCOUNT = "ada@example.com"
RELEASE = "enrollgate"


@pytest.fixture
def site() -> Iterator[CourseSite]:
    try:
        with CourseSite() as running:
            yield running
    except RuntimeError as error:
        absent("ffmpeg", str(error))


@pytest.fixture
def database(mariadb_url: str) -> Iterator[Database]:
    """A database with Node.js's table and nothing of Enrollgate's."""
    with closing(open_database(make_url(mariadb_url))) as opened:
        sql(opened, create_tasks_table(is_sqlite=False))
        yield opened


def sql(database: Database, statement: str, **values: object) -> list[tuple[Any, ...]]:
    def run(connection: Connection) -> list[tuple[Any, ...]]:
        result = connection.execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []

    return database.run_in_transaction(run)


def enroll(database: Database, course_url: str) -> None:
    statement = (
        "INSERT INTO download_tasks (status, email, course_url) VALUES ('enrolled', :email, :url)"
    )
    sql(database, statement, email=ACCOUNT, url=course_url)


@dataclass(frozen=True)
class Release:
    """A Helm release."""

    cluster: Cluster
    namespace: str
    values: Path

    def helm(self, *arguments: str) -> str:
        done = helm(*arguments, "-n", self.namespace, kubeconfig=self.cluster.kubeconfig)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, verb: str = "install", **values: Any) -> None:
        self.values.write_text(yaml.safe_dump(values))
        self.helm(verb, RELEASE, str(CHART), "-f", str(self.values), "--wait")

    def setting(self, name: str) -> str:
        """Return the value of a setting in the operator's Deployment."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{RELEASE}"
        (container,) = self.cluster.api.request("GET", path)["spec"]["template"]["spec"][
            "containers"
        ]
        return next(
            str(each["value"]) for each in container["env"] if each["name"] == f"ENROLLGATE_{name}"
        )


def values_for(cluster: Cluster, namespace: str, mariadb_url: str) -> dict[str, Any]:
    cluster.secret(
        namespace,
        "database",
        url=make_url(mariadb_url).set(drivername="mysql").render_as_string(False),
    )
    return {
        "image": {"repository": "enrollgate", "tag": "test"},
        "database": {"existingSecret": "database"},
        "destination": "directory:/courses",
        "destinationVolume": {"existingClaim": "courses"},
        "checkInterval": 1,
    }


def test_an_installation_delivers_the_course_of_an_enrolled_row(
    cluster: Cluster,
    pod_runner: PodRunner,
    mariadb_url: str,
    database: Database,
    site: CourseSite,
    tmp_path: Path,
) -> None:
    site.enroll(ACCOUNT, "bread")
    with cluster.namespace("courses") as namespace:
        cluster.secret(namespace, "cookies", **{cookies_name(ACCOUNT): site.cookies_file(ACCOUNT)})
        release = Release(cluster, namespace, tmp_path / "values.yaml")
        values = values_for(cluster, namespace, mariadb_url)
        release.install(
            **values, replicas=2, cookies={"existingSecret": "cookies"}, allowedHosts=[site.host]
        )
        enroll(database, site.course_url("bread"))
        over = ([("completed",)], [("failed",)])
        cluster.wait_for(
            lambda: sql(database, "SELECT status FROM download_tasks") in over,
            what="the row is final",
        )
        runs = sql(database, "SELECT outcome, reason, message FROM enrollgate_runs")
        assert [outcome for outcome, *_ in runs] == ["succeeded"], runs
        shown = transcript(cluster, namespace)
        claim = pod_runner.folder / "claims" / namespace / "courses"
        files = sorted(path for path in claim.rglob("*.mp4") if path.is_file())
        assert [path.read_bytes() for path in files] == site.lectures("bread")
        assert {record.account for record in site.records} == {ACCOUNT}
        tested = release.helm("test", RELEASE, "--logs")
        assert "Succeeded" in tested and "destination: /courses is writable" in tested
    assert "enrollgate-1-1   Complete   1/1" in shown and "[ATTEMPT 1/3] task 1: complete" in shown
    assert ACCOUNT not in shown


def transcript(cluster: Cluster, namespace: str) -> str:
    """Show what an engineer sees of the run."""

    def stories() -> set[str]:
        events = cluster.events(namespace, fieldSelector=f"involvedObject.name={RELEASE}-1-1")
        return {
            each["reason"]
            for each in events
            if each.get("source", {}).get("component") == "enrollgate"
        }

    cluster.wait_for(lambda: stories() == {"Launched", "Completed"}, what="the Job's Events")
    shown = ""
    for command in (
        ["get", "jobs"],
        ["describe", "job", f"{RELEASE}-1-1"],
        ["logs", f"job/{RELEASE}-1-1"],
    ):
        answer = kubectl("-n", namespace, *command, kubeconfig=cluster.kubeconfig)
        shown += f"$ kubectl {' '.join(command)}\n{answer}\n"
    return shown


def test_a_release_from_install_to_uninstall_loses_no_task(
    cluster: Cluster,
    pod_runner: PodRunner,
    namespace: str,
    watch: JobWatch,
    mariadb_url: str,
    database: Database,
    tmp_path: Path,
) -> None:
    """Node.js writes all the time, also while there is no operator. Workers take only a moment."""
    values = values_for(cluster, namespace, mariadb_url)
    worker = {"name": "worker", "command": ["sh", "-c", "sleep 0.5"], "args": []}
    values["worker"] = {"jobTemplate": {"spec": {"template": {"spec": {"containers": [worker]}}}}}
    values["networkPolicy"] = {"enabled": True}
    release = Release(cluster, namespace, tmp_path / "values.yaml")
    before = set(cluster.everything(namespace))
    left = set[str]()

    def is_clean() -> bool:
        """Whether only the runs' Jobs and their pods are new: they stay by design."""
        now = cluster.everything(namespace)
        left.clear()
        left.update(
            {name for name, each in now.items() if TASK not in each["metadata"].get("labels", {})}
            - before
        )
        return not left

    def uninstall() -> None:
        release.helm("uninstall", RELEASE, "--wait")
        with suppress(AssertionError):  # its pods may take a moment to end
            cluster.wait_for(is_clean, timeout=60)
        assert left == set()

    enroll(database, "https://courses.example.com/before-there-is-an-operator")
    with node_enrolling(database):
        release.install(**values)
        assert release.setting("MAX_CONCURRENT_RUNS") == "4" and not is_clean()
        release.install("upgrade", **values, maxConcurrentRuns=9, replicas=2)
        assert release.setting("MAX_CONCURRENT_RUNS") == "9"
        release.helm("rollback", RELEASE, "1", "--wait")
        assert release.setting("MAX_CONCURRENT_RUNS") == "4"
        release.helm("test", RELEASE)
        uninstall()
    enroll(database, "https://courses.example.com/while-there-is-no-operator")
    release.install(**values)
    unfinished = "SELECT COUNT(*) FROM download_tasks WHERE status = 'enrolled'"
    cluster.wait_for(lambda: sql(database, unfinished) == [(0,)], what="all rows are final")
    uninstall()

    tasks = [
        (task, "completed")
        for (task,) in sql(database, "SELECT id FROM download_tasks ORDER BY id")
    ]
    assert len(tasks) > 20, "Node.js has hardly written: it proves nothing"
    assert sql(database, "SELECT id, status FROM download_tasks ORDER BY id") == tasks
    assert watch.tasks == [(task, 1) for task, _ in tasks]
    runs = sql(
        database,
        "SELECT task_id, run_number, outcome FROM enrollgate_runs ORDER BY task_id, run_number",
    )
    assert runs == [(task, 1, "succeeded") for task, _ in tasks]


def test_init_containers_of_several_operators_migrate_at_once(
    cluster: Cluster,
    pod_runner: PodRunner,
    namespace: str,
    watch: JobWatch,
    mariadb_url: str,
    database: Database,
    tmp_path: Path,
) -> None:
    """As GitOps tools install it: no hook, and the database's address is a file of a volume."""
    values = values_for(cluster, namespace, mariadb_url)
    url = make_url(mariadb_url).set(drivername="mysql").render_as_string(False)
    cluster.secret(namespace, "vault", ENROLLGATE_DATABASE_URL=url)
    folder = "/mnt/secrets"
    worker = {"name": "worker", "command": ["sh", "-c", "sleep 0.5"], "args": []}
    values |= {
        "replicas": 3,
        "database": {"secretsDir": folder},
        "migration": {"mode": "initContainer"},
        "operator": {
            "extraVolumes": [{"name": "vault", "secret": {"secretName": "vault"}}],
            "extraVolumeMounts": [{"name": "vault", "mountPath": folder, "readOnly": True}],
        },
        "worker": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [worker]}}}}},
    }
    release = Release(cluster, namespace, tmp_path / "values.yaml")
    release.install(**values)
    enroll(database, "https://courses.example.com/1")

    final = "SELECT COUNT(*) FROM download_tasks WHERE status = 'completed'"
    cluster.wait_for(lambda: sql(database, final) == [(1,)], what="the row is final")
    assert watch.tasks == [(1, 1)]
    (job,) = cluster.items(f"/apis/batch/v1/namespaces/{namespace}/jobs")
    assert "app.kubernetes.io/instance" not in job["metadata"]["labels"]
    release.helm("uninstall", RELEASE, "--wait")


@contextmanager
def node_enrolling(database: Database) -> Iterator[None]:
    """Node.js enrolls a task every 0.4 s."""
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.4):
            enroll(database, "https://courses.example.com/1")

    thread = threading.Thread(target=write, name="node", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
