"""Pod statuses as a kubelet writes them, https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/. Pure functions."""

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


def waiting(container: Json, reason: str, message: str = "") -> Json:
    return _container(container, {"waiting": {"reason": reason, "message": message}}, ready=False, restarts=0)


def running(container: Json, since: str, *, ready: bool, restarts: int) -> Json:
    return _container(container, {"running": {"startedAt": since}}, ready=ready, restarts=restarts)


def terminated(container: Json, since: str, *, code: int, reason: str, message: str, restarts: int) -> Json:
    state = {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": since,
            "finishedAt": now(),
        }
    }
    return _container(container, state, ready=False, restarts=restarts)


def _container(container: Json, state: Json, *, ready: bool, restarts: int) -> Json:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "started": "running" in state,
        "restartCount": restarts,
        "state": state,
    }


def ready_conditions(*, ready: bool) -> list[Json]:
    return [condition("ContainersReady", holds=ready), condition("Ready", holds=ready)]
