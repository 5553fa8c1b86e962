"""Tells workers how to exit: an annotation of a pod appears in a file of its downwardAPI volume.

See https://kubernetes.io/docs/concepts/storage/downward-api/. This works on any cluster, without
a shared folder and without `kubectl exec`.
"""

import threading
from typing import Any

from tests.cluster.control_plane import Cluster

from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.kubernetes import ApiError

# The annotation: the exit code in its first line, then the report, if there is one.
EXIT_ANNOTATION = "test.enrollgate.io/exit"
WORKER_VOLUME: dict[str, Any] = {
    "name": "exit-script",
    "downwardAPI": {
        "items": [
            {
                "path": "script",
                "fieldRef": {"fieldPath": f"metadata.annotations['{EXIT_ANNOTATION}']"},
            }
        ]
    },
}
WORKER_FOLDER = {"name": "exit-script", "mountPath": "/exit"}
# Replaces the image's program: it exits when the test says, with the code that the test says.
SCRIPTED_WORKER = """
echo "attempt $((ENROLLGATE_FAILED_ATTEMPTS + 1)) of ${ENROLLGATE_SCRATCH_DIR##*/}"
trap 'echo stopping; exit 75' TERM
until [ -s /exit/script ]; do sleep 0.1; done
{ read -r code; cat > /dev/termination-log; } < /exit/script
exit $code
"""
_JOB = "batch.kubernetes.io/job-name"
_INTERVAL = 0.1


class ExitScript:
    """Annotates all pods of a run, those that exist and those to come."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._endings: dict[str, str] = {}
        self._annotated: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._annotate_pods, name="exit_script", daemon=True)

    def set_exit(self, name: str, code: int, report: str) -> None:
        """Set the exit code and the report with which the workers of this run end."""
        self._endings[name] = f"{code}\n{report}"
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _annotate_pods(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            try:
                for pod in self._cluster.items(self._pods):
                    self._annotate(pod["metadata"])
            except (ApiError, LauncherUnavailable):
                continue  # the API server, the pod or its namespace is gone

    def _annotate(self, metadata: dict[str, Any]) -> None:
        ending = self._endings.get(metadata.get("labels", {}).get(_JOB, ""))
        if ending is None or metadata["uid"] in self._annotated:
            return
        body = {"metadata": {"uid": metadata["uid"], "annotations": {EXIT_ANNOTATION: ending}}}
        self._cluster.api.request("PATCH", f"{self._pods}/{metadata['name']}", body=body)
        self._annotated.add(metadata["uid"])
