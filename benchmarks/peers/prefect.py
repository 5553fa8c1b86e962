"""Prefect 3 with prefect-kubernetes: a server on PostgreSQL, a Kubernetes work pool and its worker.

Prefect reads no tables. So a poll loop (prefect_feed) creates a flow run per row through Prefect's
API, with the row's id as idempotency key. The worker asks for runs every second
(PREFECT_WORKER_QUERY_SECONDS, by default 10). See https://docs.prefect.io/v3/how-to-guides/.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3
from tests.cluster.world import REPOSITORY, ClusterWorld
from tests.databases.server import free_port

from benchmarks.peers.job import TASK
from benchmarks.peers.ours import create_concurrency
from benchmarks.peers.system import PeerAbsent, Running, System, run_module, spawn

POOL = "courses"
# The name that prefect-kubernetes requires of the container.
_CONTAINER = "prefect-job"


def systems() -> list[System]:
    """Return Prefect with its intervals at one second. Raises PeerAbsent."""
    done = subprocess.run(
        [REPOSITORY / "scripts" / "prefect"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PeerAbsent(done.stderr.strip())
    programs, postgres = Path(done.stdout.strip()) / "bin", _postgres()
    pins = (REPOSITORY / "requirements" / "prefect.txt").read_text()
    versions = re.findall(r"^prefect(?:-kubernetes)?==([\d.]+)", pins, re.MULTILINE)
    return [
        System(
            name="Prefect",
            version=f"{versions[0]}, prefect-kubernetes {versions[1]}",
            settings="server on PostgreSQL, work pool of type kubernetes, worker query 1 s, no "
            "limit; a poll loop of 1 s creates the flow runs",
            not_comparable="It reads no tables and does not write back: its flow does so in the "
            "pod. PostgreSQL's CPU and memory are not counted.",
            start=lambda world, _rows: _start(world, programs, postgres),
            task_of=task_of_job,
            writes_back=False,
            interval=10.0,
        )
    ]


def task_of_job(name: str) -> int | None:
    """Return the task of a Job that Prefect has named after its flow run."""
    found = re.fullmatch(r"task-(\d+)-\w+", name)
    return int(found[1]) if found else None


def _postgres() -> Path:
    """Return the folder of PostgreSQL's programs. Raises PeerAbsent."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    if not folders:
        raise PeerAbsent("no PostgreSQL for Prefect's server: install postgresql")
    return folders[-1]


def _start(world: ClusterWorld, programs: Path, postgres: Path) -> Running:
    database, database_port = _start_postgres(world, postgres)
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(world.folder),
        "PREFECT_HOME": str(world.folder / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://postgres@127.0.0.1:"
        f"{database_port}/postgres",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": world.namespace,
        "KUBECONFIG": str(world.cluster.kubeconfig),
    }
    server = spawn(
        world,
        [programs / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        environment,
    )
    job = json.loads(run_module("job", environment=world.environment))
    deployment = _register(url, build_pool(job, world.namespace))
    feed = spawn(
        world,
        [
            sys.executable,
            "-m",
            "benchmarks.peers.prefect_feed",
            f"{url}/deployments/{deployment}/create_flow_run",
            str(create_concurrency()),
        ],
        world.environment,
    )

    def relaunch() -> subprocess.Popen[bytes]:
        command = [programs / "prefect", "worker", "start", "--pool", POOL, "--type", "kubernetes"]
        return spawn(world, command, environment)

    return Running(relaunch, (server, feed), (database,))


def _start_postgres(world: ClusterWorld, programs: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server that trusts local users. It refuses to run as root."""
    world.folder.chmod(0o711)
    folder, port = world.folder / "postgres", free_port()
    folder.mkdir()
    shutil.chown(folder, "nobody", "nogroup")
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    data = str(folder / "data")
    create = [*user, str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust"]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    options = [
        "-c",
        f"port={port}",
        "-c",
        f"unix_socket_directories={folder}",
        "-c",
        "max_connections=200",
    ]
    return spawn(world, [*user, programs / "postgres", "-D", folder / "data", *options], {}), port


def _register(url: str, pool: Mapping[str, object]) -> str:
    """Create the work pool and a deployment in it. Returns the deployment's id."""
    http = urllib3.PoolManager()
    deadline = time.monotonic() + 300
    while True:
        try:
            if http.request("GET", f"{url}/health", timeout=5, retries=False).status == 200:
                break
        except urllib3.exceptions.HTTPError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)

    def post(path: str, body: Mapping[str, object]) -> Any:
        answer = http.request("POST", f"{url}{path}", json=dict(body), timeout=60)
        assert answer.status in (200, 201), answer.data
        return answer.json()

    post("/work_pools/", pool)
    flow = post("/flows/", {"name": POOL})["id"]
    deployment = {
        "name": POOL,
        "flow_id": flow,
        "work_pool_name": POOL,
        "entrypoint": "course.py:download",
        "enforce_parameter_schema": False,
    }
    return str(post("/deployments/", deployment)["id"])


def build_pool(job: Mapping[str, Any], namespace: str) -> dict[str, object]:
    """Build a work pool that creates this Job, with the job variable `task` for the task's id.

    Prefect itself names the Job, wants a certain name of the container, and adds variables.
    """
    text = json.dumps(job).replace(str(TASK), "{{ task }}")
    manifest = json.loads(text)
    del manifest["metadata"]["name"]
    manifest["metadata"]["annotations"] = {}
    for rule in manifest["spec"]["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            rule["onExitCodes"]["containerName"] = _CONTAINER
    pod = manifest["spec"]["template"]["spec"]
    pod |= {"parallelism": 1, "completions": 1}  # prefect-kubernetes checks that they are here
    pod["containers"][0]["name"] = _CONTAINER
    return {
        "name": POOL,
        "type": "kubernetes",
        "base_job_template": {
            "job_configuration": {
                "command": "{{ command }}",
                "env": "{{ env }}",
                "labels": "{{ labels }}",
                "name": "{{ name }}",
                "namespace": namespace,
                "job_manifest": manifest,
                "stream_output": False,
            },
            "variables": {
                "type": "object",
                "properties": {
                    "task": {"type": "string"},
                    "name": {"type": "string"},
                    "command": {"type": "string"},
                    "env": {"type": "object"},
                    "labels": {"type": "object"},
                },
            },
        },
    }
