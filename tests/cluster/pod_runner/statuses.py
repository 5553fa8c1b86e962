"""Pod statuses as a kubelet writes them. Pure functions.

See https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/.
"""

from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, *, holds: bool, reason: str = "", message: str = "") -> Json:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": now(),
    }


def merged_conditions(old: list[Json], new: list[Json]) -> list[Json]:
    by_type = {each["type"]: each for each in [*old, *new]}
    return list(by_type.values())


def waiting(
    container: Json, reason: str, message: str = "", *, restarts: int = 0, last: Json | None = None
) -> Json:
    return _container(
        container, {"waiting": {"reason": reason, "message": message}}, restarts=restarts, last=last
    )


def running(
    container: Json, since: str, *, ready: bool, restarts: int = 0, last: Json | None = None
) -> Json:
    state = {"running": {"startedAt": since}}
    return _container(container, state, ready=ready, restarts=restarts, last=last)


def terminated(
    container: Json, since: str | None, *, code: int, reason: str, message: str, restarts: int = 0
) -> Json:
    """`since` is None if the container was never there: then nobody knows when it ended, either."""
    state = {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": since,
            "finishedAt": since and now(),
        }
    }
    return _container(container, state, restarts=restarts)


def _container(
    container: Json,
    state: Json,
    *,
    ready: bool = False,
    restarts: int = 0,
    last: Json | None = None,
) -> Json:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "started": "running" in state,
        "restartCount": restarts,
        "state": state,
        "lastState": last or {},
    }


def ready_conditions(*, ready: bool) -> list[Json]:
    return [condition("ContainersReady", holds=ready), condition("Ready", holds=ready)]


def event(
    pod: Json, reason: str, message: str, *, source: str = "kubelet", kind: str = "Warning"
) -> Json:
    metadata = pod["metadata"]
    return {
        "metadata": {"generateName": f"{metadata['name']}."},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "count": 1,
        "source": {"component": source},
    }
