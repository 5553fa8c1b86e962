"""Where benchmarks run: a control plane, a namespace with the chart's rights, an operator
process.
"""

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client
from tests.cluster.chart import grant
from tests.cluster.control_plane import Cluster, start_control_plane
from tests.cluster.control_plane.cluster import lenient_client
from tests.cluster.world import ClusterWorld

from enrollgate.launchers import LauncherUnavailable


@contextmanager
def control_plane() -> Iterator[Cluster]:
    """Start a control plane. Raises ControlPlaneAbsent."""
    with tempfile.TemporaryDirectory(
        prefix="enrollgate-bench-", ignore_cleanup_errors=True
    ) as folder:
        plane = start_control_plane(Path(folder))
        try:
            yield Cluster(plane.kubeconfig("admin", plane.admin), plane, Path(folder))
        finally:
            plane.kill()


@contextmanager
def pinned_cpus(cluster: Cluster) -> Iterator[None]:
    """Pin the control plane to one core, and all processes started in this block to the others.

    In production they run on different machines. On a small machine the Job controller would
    otherwise take the operator's time.
    """
    cores = os.sched_getaffinity(0)
    theirs, *ours = sorted(cores)
    assert cluster.plane is not None and ours, (
        "this needs two cores, and a control plane of our own"
    )
    programs = [process.pid for process in cluster.plane.processes.values()]
    try:
        for pid in programs:
            _pin(pid, {theirs})
        os.sched_setaffinity(0, set(ours))
        yield
    finally:
        os.sched_setaffinity(0, cores)
        for pid in programs:
            _pin(pid, cores)


def _pin(pid: int, cores: set[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended in the meantime
            os.sched_setaffinity(int(thread.name), cores)


@contextmanager
def cluster_env(
    cluster: Cluster, database_url: str, *, cleared: bool = True, **settings: str
) -> Iterator[ClusterWorld]:
    """Create a fresh namespace and fresh tables.

    The block ends when nothing of them is left, so that the next measurement has the control plane
    for itself. The last one needs no clearing: with 10,000 Jobs it takes a quarter of an hour.
    """
    with (
        _cleared(cluster) if cleared else cluster.namespace() as namespace,
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as folder,
    ):
        grant(namespace, cluster.kubeconfig, replicas=1)
        kubeconfig = cluster.kubeconfig_for(namespace, "school")
        world = ClusterWorld(cluster, namespace, database_url, kubeconfig, Path(folder), settings)
        try:
            yield world
        finally:
            for table in (
                "download_tasks",
                "enrollgate_tasks",
                "enrollgate_runs",
                "enrollgate_schema_version",
            ):
                world.sql(f"DROP TABLE IF EXISTS {table}")
            world.close()


@contextmanager
def _cleared(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name
        # Jobs first: in a namespace that is being deleted, pods keep the Job controller's
        # finalizers for minutes.
        jobs = f"/apis/batch/v1/namespaces/{name}/jobs"
        body = {"kind": "DeleteOptions", "propagationPolicy": "Background"}
        # 10,000 take longer than one request may: each deletes some, then its time is over.
        while cluster.jobs(name):
            with suppress(LauncherUnavailable):
                cluster.api.request("DELETE", jobs, body=body)
        cluster.wait_for(
            lambda: not cluster.jobs(name) and not cluster.pods(name),
            1200,
            f"the Jobs of {name} are gone",
        )


class JobWatch:
    """Records when a namespace's Jobs appear and complete. A watch that breaks is started again."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        # time.monotonic() of each Job, by name.
        self.appeared: dict[str, float] = {}
        # The same for completion.
        self.complete: dict[str, float] = {}
        # The name of each Job that ever existed, and when it appeared, by uid.
        self.names: dict[str, str] = {}
        self.created: dict[str, float] = {}
        self._cluster = cluster
        self._namespace = namespace
        self._closed = False
        self._response = self._begin()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed = True

    def per_second(self, begin: float) -> float:
        """Return Jobs per second from `begin` (time.monotonic()) to the last that appeared."""
        return len(self.appeared) / (max(self.appeared.values()) - begin)

    def _begin(self) -> Any:
        path = f"/apis/batch/v1/namespaces/{self._namespace}/jobs"
        since = self._cluster.api.request("GET", path, query={"limit": "1"})["metadata"][
            "resourceVersion"
        ]
        return client.BatchV1Api(
            lenient_client(self._cluster.api.configuration)
        ).list_namespaced_job(
            self._namespace,
            watch=True,
            resource_version=since,
            timeout_seconds=3600,
            _preload_content=False,
            _request_timeout=(5, 3700),
        )

    def _run(self) -> None:
        while not self._closed:
            with contextlib.suppress(urllib3.exceptions.HTTPError, OSError, LauncherUnavailable):
                for line in self._response:
                    self._note(json.loads(line)["object"], time.monotonic())
                self._response = self._begin()
                for job in self._cluster.jobs(self._namespace):
                    self._note(job, time.monotonic())

    def _note(self, job: dict[str, Any], now: float) -> None:
        name = job["metadata"].get("name")
        if name is None:  # an error event: the watch ends with it
            return
        self.appeared.setdefault(name, now)
        self.created.setdefault(job["metadata"]["uid"], now)
        self.names.setdefault(job["metadata"]["uid"], name)
        conditions = job.get("status", {}).get("conditions") or ()
        if any(each["type"] == "Complete" and each["status"] == "True" for each in conditions):
            self.complete.setdefault(name, now)
