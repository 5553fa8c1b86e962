"""Records what a watch shows of a namespace's Jobs: all that ever existed, and how many at once."""

import contextlib
import json
import threading
from typing import Any

import urllib3
from kubernetes import client
from tests.cluster.control_plane import Cluster
from tests.cluster.control_plane.cluster import lenient_client

from enrollgate.launchers.kubernetes.job_client import parse_job
from enrollgate.launchers.kubernetes.views import RUN, TASK


class JobWatch:
    """A record of all Jobs, from before any operator starts.

    A watch shows every change, so no change is missed. The API server ends a watch that is read
    too slowly: then a new one continues from the last change.
    """

    def __init__(self, cluster: Cluster, namespace: str, seconds: int = 3600) -> None:
        """`seconds`: the API server is asked to end each watch after this time."""
        self._seconds = seconds
        self._cluster = cluster
        self._path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._namespace = namespace
        # Task and run number of every Job that ever existed, by uid.
        self.ever: dict[str, tuple[int, int]] = {}
        self._active: set[str] = set()
        # The largest number of unfinished Jobs at the same time.
        self.most_active = 0
        # Errors of the watch itself: then the record has a gap.
        self.errors: list[str] = []
        self._since: str = cluster.api.request("GET", self._path)["metadata"]["resourceVersion"]
        self._stream = self._begin()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="job-watch", daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def tasks(self) -> list[tuple[int, int]]:
        """Task and run number of every Job that ever existed, sorted. A Job created twice is
        listed twice.
        """
        return sorted(self.ever.values())

    def close(self) -> None:
        """Stop watching. Raises AssertionError if a change was missed."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(RuntimeError):  # the API server has just ended it
                self._stream.shutdown()
        self._thread.join(60)
        assert not self.errors, self.errors

    def _begin(self) -> Any:
        return client.BatchV1Api(
            lenient_client(self._cluster.api.configuration)
        ).list_namespaced_job(
            self._namespace,
            watch=True,
            resource_version=self._since,
            timeout_seconds=self._seconds,
            _preload_content=False,
            _request_timeout=(5, 3700),
        )

    def _read(self) -> None:
        try:
            while True:
                for line in self._stream:
                    self._note(json.loads(line))
                with self._lock:
                    if self._closed or self.errors:
                        return
                    self._stream = self._begin()
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            if not self._closed:
                self.errors.append(repr(error))

    def _note(self, event: dict[str, object]) -> None:
        raw = event["object"]
        assert isinstance(raw, dict)
        if event["type"] == "ERROR":
            self.errors.append(str(raw))
            return
        self._since = raw["metadata"]["resourceVersion"]
        job, labels = parse_job(raw), raw["metadata"].get("labels", {})
        if TASK not in labels:  # not a Job of a run, for example a migration's
            return
        self.ever[job.uid] = int(labels[TASK]), int(labels[RUN])
        if event["type"] == "DELETED" or job.result is not None:
            self._active.discard(job.uid)
        else:
            self._active.add(job.uid)
        self.most_active = max(self.most_active, len(self._active))
