"""KEDA's ScaledJob with its MySQL scaler, built from its Go module and run as its Makefile does.

The operator is a process outside the cluster, as `make run` of KEDA starts it. Its metrics API
server and its webhooks are left out: ScaledJobs do not need them. A row stays `enrolled` while its
Job runs, so the query counts running rows, too, and the scaling strategy is `default`, which
subtracts running Jobs (https://keda.sh/docs/2.21/reference/scaledjob-spec/).
"""

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import make_url
from tests.cluster.chart import kubectl
from tests.cluster.world import REPOSITORY, ClusterWorld
from tests.databases.server import free_port

from benchmarks.peers.harness import Row, Stage, count, scene
from benchmarks.peers.load import enroll_at_once
from benchmarks.peers.system import PeerAbsent, Running, System, run_module, spawn

_NAME = "courses"


@dataclass(frozen=True)
class _Limits:
    """The client's limits of requests to the API server."""

    name: str
    options: tuple[str, ...]


_DEFAULT = _Limits("default client limits (20/30)", ())
_RAISED = _Limits("client limits 200/400", ("--kube-api-qps=200", "--kube-api-burst=400"))


def systems() -> list[System]:
    """Return KEDA in four configurations. Raises PeerAbsent."""
    build = _build()
    return configurations(build, build.joinpath("version").read_text().strip())


def configurations(build: Path, version: str) -> list[System]:
    """Return the slow and the fast polling, with the default client limits and with raised ones.

    `build` is the folder with the program.
    """
    return [
        System(
            name=f"KEDA, {polling} s, {'raised' if limits is _RAISED else 'default'} limits",
            version=version,
            settings=f"ScaledJob, mysql scaler, pollingInterval {polling} s, {limits.name}, "
            "strategy default",
            not_comparable="Its Jobs are not tied to rows: the pod has to take a row and to write "
            "it back. It never writes to the table itself.",
            start=partial(_start, build=build, polling=polling, limits=limits),
            task_of=lambda _name: None,
            writes_back=False,
            is_compared=polling == 1 and limits is _RAISED,
            interval=polling,
        )
        for limits in (_RAISED, _DEFAULT)
        for polling in (1, 30)
    ]


def _build() -> Path:
    """Build KEDA once. Returns the folder with the program, its CRDs and its version."""
    done = subprocess.run(
        [REPOSITORY / "scripts" / "keda"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PeerAbsent(done.stderr.strip())
    return Path(done.stdout.strip())


def _start(world: ClusterWorld, rows: int, build: Path, polling: int, limits: _Limits) -> Running:
    admin = world.cluster.kubeconfig
    kubectl("apply", "--server-side", "-k", str(build / "crd"), kubeconfig=admin)
    kubectl(
        "wait",
        "--for=condition=Established",
        "crd/scaledjobs.keda.sh",
        "--timeout=60s",
        kubeconfig=admin,
    )
    job = json.loads(run_module("job", environment=world.environment))
    for path, each in build_objects(job, world.database_url, polling, 2 * rows).items():
        group, _, plural = path.rpartition("/")
        world.cluster.create(f"{group}/namespaces/{world.namespace}/{plural}", each)
    certificates = _certificates(world)
    environment = {
        "PATH": "/usr/bin:/bin",
        "KUBECONFIG": str(admin),
        "WATCH_NAMESPACE": world.namespace,
        "POD_NAMESPACE": world.namespace,
        "KEDA_CLUSTER_OBJECT_NAMESPACE": world.namespace,
    }

    def relaunch() -> subprocess.Popen[bytes]:
        command = [
            build / "keda",
            f"--metrics-bind-address=127.0.0.1:{free_port()}",
            f"--health-probe-bind-address=127.0.0.1:{free_port()}",
            f"--metrics-service-bind-address=127.0.0.1:{free_port()}",
            f"--cert-dir={certificates}",
            *limits.options,
        ]
        return spawn(world, command, environment)

    return Running(relaunch)


def _certificates(world: ClusterWorld) -> Path:
    """Create the folder of certificates that KEDA expects instead of rotating its own."""
    assert world.cluster.plane is not None, "this needs a control plane of our own"
    authority = world.cluster.plane.authority
    folder = world.folder / "keda-certificates"
    folder.mkdir()
    shutil.copy(authority.certificate, folder / "ca.crt")
    pair = authority.server()
    shutil.copy(pair.certificate, folder / "tls.crt")
    shutil.copy(pair.key, folder / "tls.key")
    return folder


def build_objects(
    job: Mapping[str, object], url: str, polling: int, most: int
) -> dict[str, dict[str, object]]:
    """Build the ScaledJob that creates this Job, and the Secret with the address of the database.

    The keys are the paths of their kinds in the API, without a namespace.

    Up to `most` Jobs may exist, more than there are rows, so that surplus Jobs can be seen.
    """
    address = make_url(url)
    connection = (
        f"{address.username}:{address.password}@tcp({address.host}:{address.port})"
        f"/{address.database}"
    )
    trigger = {
        "type": "mysql",
        "metadata": {
            "query": "SELECT COUNT(*) FROM download_tasks WHERE status = 'enrolled'",
            "queryValue": "1",
        },
        "authenticationRef": {"name": _NAME},
    }
    return {
        "/api/v1/secrets": {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": _NAME},
            "stringData": {"connection": connection},
        },
        "/apis/keda.sh/v1alpha1/triggerauthentications": {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "TriggerAuthentication",
            "metadata": {"name": _NAME},
            "spec": {
                "secretTargetRef": [
                    {"parameter": "connectionString", "name": _NAME, "key": "connection"}
                ]
            },
        },
        "/apis/keda.sh/v1alpha1/scaledjobs": {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledJob",
            "metadata": {"name": _NAME},
            "spec": {
                "jobTargetRef": job["spec"],
                "pollingInterval": polling,
                "maxReplicaCount": most,
                # Nothing is deleted, so that all Jobs can be counted.
                "successfulJobsHistoryLimit": 100_000,
                "triggers": [trigger],
            },
        },
    }


def measure_late_mark(stage: Stage, system: System, rows: int, late: float) -> Row:
    """Let Jobs end, and mark their rows some seconds later, as a pod's last step may do."""
    with scene(stage, system, 2 * rows) as current:
        world = current.world
        # The first row must not count as one more that is late.
        world.sql("UPDATE download_tasks SET status = 'completed'")
        current.kubelet.finish()
        world.wait_for(lambda: current.watch.complete, "the first Job has ended")
        time.sleep(2 * system.interval)
        tasks = list(enroll_at_once(world, rows))
        current.wait_for_jobs(rows)
        world.wait_for(lambda: len(current.kubelet.running) >= rows, "all pods run")
        current.kubelet.finish()
        time.sleep(late)
        world.sql("UPDATE download_tasks SET status = 'completed'")
        time.sleep(5 * system.interval)
        twice, lost = count(current.new_jobs(), tasks, system.task_of)
        return {
            "system": system.name,
            "fault": f"rows marked {late:g} s after the Jobs' ends",
            "rows": rows,
            "jobs": len(current.new_jobs()),
            "twice": twice,
            "lost": lost,
            "wrong": twice + lost,
        }
