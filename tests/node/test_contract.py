"""The contract's cases in real pods: nginx is the course site, and the Drive emulator the Drive.

Both are reached by name over TLS, with an authority of the tests' own (`SSL_CERT_FILE`).
"""

import json
import ssl
from collections.abc import Callable
from pathlib import Path

from tests.cluster.control_plane import Cluster
from tests.cluster.control_plane.certificates import Authority
from tests.drive_emulator import DriveEmulator
from tests.node.installation import Installation, Json, job_template
from tests.node.node import ADDRESS
from tests.webservers.nginx import start_nginx
from tests.webservers.site import NAME, WebServer

from enrollgate.domain.account import cookies_name

ADA, BOB = "ada@example.com", "bob@example.com"
DRIVE = "drive.example.test"


def make_drive(authority: Authority) -> DriveEmulator:
    """Return a Drive with TLS that is not started yet."""
    pair = authority.server(names=(DRIVE,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return DriveEmulator(tls=context, name=DRIVE)


def cookies(session: str) -> str:
    return f"# Netscape HTTP Cookie File\n{NAME}\tFALSE\t/\tTRUE\t4102444800\tsession\t{session}\n"


def build_values(nginx: WebServer, drive: DriveEmulator) -> Json:
    mount = {"name": "authority", "mountPath": "/etc/authority", "readOnly": True}
    trust = {"name": "SSL_CERT_FILE", "value": "/etc/authority/ca.pem"}
    values = job_template(env=[trust], volumeMounts=[mount])
    pod = values["worker"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "authority", "configMap": {"name": "authority"}}]
    return values | {
        "hostAliases": [{"ip": ADDRESS, "hostnames": [NAME, DRIVE]}],
        "allowedHosts": [nginx.host],
        "destination": f"drive:{drive.store.root}",
        "destinationVolume": {"existingClaim": ""},
        "drive": {"existingSecret": "drive", "endpoint": drive.url},
        "cookies": {"existingSecret": "cookies"},
        "enrollmentTimeout": "45s",
    }


def test_the_contracts_cases_hold_in_real_pods(
    install: Callable[..., Installation], node: Cluster, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    with make_drive(authority) as drive, start_nginx(tmp_path, authority=authority) as nginx:
        lectures = nginx.files.write()
        course = nginx.files.write_feed(
            "feed.xml", lambda number: f"{nginx.files.url}/members/{number}.mp4"
        )

        def prepare(namespace: str) -> None:
            path = f"/api/v1/namespaces/{namespace}"
            body = {
                "metadata": {"name": "authority"},
                "data": {"ca.pem": authority.certificate.read_text()},
            }
            node.create(f"{path}/configmaps", body)
            login = {"credentials.json": json.dumps(drive.user_login())}
            node.secret(namespace, "drive", **login)
            files = {cookies_name(ADA): cookies("ada"), cookies_name(BOB): cookies("not-enrolled")}
            node.secret(namespace, "cookies", **files)

        installation = install(prepare, **build_values(nginx, drive))
        installation.enroll(course, "processing")  # 1: enrolled in time
        installation.enroll(course, "pending")  # 2: never enrolled
        installation.enroll(course, "paid")  # 3: Node.js gives up
        installation.wait_for(
            lambda: installation.sql("SELECT COUNT(*) FROM enrollgate_tasks") == [(3,)],
            "the operator waits for them",
        )
        assert not node.jobs(installation.namespace) and not nginx.requests, "nothing is early"
        for task, status in ((1, "enrolled"), (3, "failed")):
            statement = "UPDATE download_tasks SET status = :status WHERE id = :task"
            installation.sql(statement, status=status, task=task)
        installation.enroll(course)  # 4: already enrolled
        installation.enroll(course, email=BOB)  # 5: its worker fails

        expected = {1: "completed", 2: "failed", 3: "failed", 4: "completed", 5: "failed"}
        installation.wait_for(lambda: installation.statuses() == expected, "all are final")

        runs = {
            task: (outcome, reason)
            for task, outcome, reason in installation.sql(
                "SELECT task_id, outcome, reason FROM enrollgate_runs"
            )
        }
        assert runs[1] == runs[4] == ("succeeded", None)
        assert runs[5] == ("failed", "AccessDenied")
        assert runs.keys() <= {1, 2, 4, 5}, "a task that Node.js failed has no run"
        assert "enrollment timeout after 45s" in installation.explain(2)
        jobs = {job["metadata"]["name"] for job in node.jobs(installation.namespace)}
        assert {name for name in jobs if name.endswith("-1")} == {
            "enrollgate-1-1",
            "enrollgate-4-1",
            "enrollgate-5-1",
        }
        delivered = [each for each in drive.store.files.values() if each["name"].endswith(".mp4")]
        assert sorted(int(each["size"]) for each in delivered) == sorted(
            2 * [len(each) for each in lectures]
        )
