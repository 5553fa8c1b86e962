"""From `helm install` to files in the destination: two operators and a worker in pods, as the chart makes them, and a course site
that lets in only the enrolled.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from sqlalchemy import make_url, text
from tests.cluster.chart import CHART, REPOSITORY, helm, kubectl
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import PodRunner
from tests.conftest import absent
from tests.world import CREATE_TASKS

from enrollgate.database import open_database
from enrollgate.demo.site import CourseSite
from enrollgate.domain.account import cookies_name

ACCOUNT = "ada@example.com"


@pytest.fixture
def site() -> Iterator[CourseSite]:
    try:
        with CourseSite() as running:
            yield running
    except RuntimeError as error:
        absent("ffmpeg", str(error))


def test_an_installation_delivers_the_course_of_an_enrolled_row(
    cluster: Cluster, pod_runner: PodRunner, namespace: str, mariadb_url: str, site: CourseSite, tmp_path: Path
) -> None:
    site.enroll(ACCOUNT, "bread")
    cluster.secret(namespace, "cookies", **{cookies_name(ACCOUNT): site.cookies_file(ACCOUNT)})
    cluster.secret(namespace, "database", url=make_url(mariadb_url).set(drivername="mysql").render_as_string(False))
    values = {
        "image": {"repository": "enrollgate", "tag": "test"},
        "replicas": 2,
        "database": {"existingSecret": "database"},
        "cookies": {"existingSecret": "cookies"},
        "destination": "directory:/courses",
        "destinationVolume": {"existingClaim": "courses"},
        "allowedHosts": [site.host],
        "checkInterval": 1,
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    with closing(open_database(make_url(mariadb_url))) as database:

        def sql(statement: str) -> list[tuple[object, ...]]:
            def run(connection):  # type: ignore[no-untyped-def]
                result = connection.execute(text(statement), {"email": ACCOUNT, "url": site.course_url("bread")})
                return [tuple(row) for row in result] if result.returns_rows else []

            rows: list[tuple[object, ...]] = database.writing(run)
            return rows

        sql(CREATE_TASKS.format(auto="AUTO_INCREMENT"))
        _helm(cluster, namespace, "install", "school", str(CHART), "-f", str(tmp_path / "values.yaml"), "--wait")
        sql("INSERT INTO download_tasks (status, email, course_url) VALUES ('enrolled', :email, :url)")
        try:
            cluster.wait_for(lambda: sql("SELECT status FROM download_tasks") in ([("completed",)], [("failed",)]))
        finally:
            runs = sql("SELECT outcome, reason, message FROM enrollgate_runs")
        assert [outcome for outcome, *_ in runs] == ["succeeded"], runs
    told = transcript(cluster, namespace)
    assert "school-enrollgate-1-1   Complete   1/1" in told and "Launched" in told and "Completed" in told
    assert "[ATTEMPT 1/3] task 1: complete" in told and ACCOUNT not in told
    claim = pod_runner.folder / "claims" / namespace / "courses"
    files = sorted(path for path in claim.rglob("*.mp4") if path.is_file())
    assert [path.read_bytes() for path in files] == site.lectures("bread")
    assert {record.account for record in site.records} == {ACCOUNT}
    tested = _helm(cluster, namespace, "test", "school", "--logs")
    assert "Succeeded" in tested and "destination: /courses is writable" in tested
    assert cluster.find(f"/api/v1/namespaces/{namespace}/pods/school-enrollgate-doctor") is None
    _helm(cluster, namespace, "uninstall", "school", "--wait")
    cluster.wait_for(lambda: not [life for life in pod_runner.running(namespace) if not life.deleted.is_set()])
    assert not cluster.items(f"/apis/apps/v1/namespaces/{namespace}/deployments")
    assert not cluster.items(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")


def transcript(cluster: Cluster, namespace: str) -> str:
    """What an engineer sees of the run, also written to build/transcript.txt (docs/kubernetes.md shows one)."""
    told = ""
    for command in (
        ["get", "jobs"],
        ["describe", "job", "school-enrollgate-1-1"],
        ["logs", "job/school-enrollgate-1-1"],
    ):
        answer = kubectl("-n", namespace, *command, kubeconfig=cluster.kubeconfig)
        told += f"$ kubectl {' '.join(command)}\n{answer}\n"
    (REPOSITORY / "build").mkdir(exist_ok=True)
    (REPOSITORY / "build" / "transcript.txt").write_text(told)
    return told


def _helm(cluster: Cluster, namespace: str, *arguments: str) -> str:
    done = helm(*arguments, "-n", namespace, kubeconfig=cluster.kubeconfig)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
