"""Enrollgate, as its chart installs it: default settings, and a service account of its own."""

import re
from importlib.metadata import version

from tests.cluster.world import ClusterWorld

from benchmarks.peers.system import Running, System
from enrollgate.settings.kubernetes import KubernetesSettings
from enrollgate.settings.operator import Settings


def create_concurrency() -> int:
    """Return the default number of requests to the API server at a time."""
    return int(KubernetesSettings.model_fields["create_concurrency"].default)


def check_interval() -> float:
    """Return the default interval of full passes in seconds."""
    return float(Settings.model_fields["check_interval"].default)


def task_of_job(name: str) -> int | None:
    """Return the task of a Job called INSTALLATION-TASK-RUN."""
    found = re.fullmatch(r"[a-z]+-(\d+)-\d+", name)
    return int(found[1]) if found else None


def systems() -> list[System]:
    """Return Enrollgate with its default settings."""
    return [
        System(
            name="Enrollgate",
            version=version("enrollgate"),
            settings=f"defaults (check interval {check_interval():g} s, "
            f"{create_concurrency()} requests at a time), no limit of runs",
            not_comparable="It also records each run, its reason and its report.",
            start=_start,
            task_of=task_of_job,
            is_compared=True,
            interval=check_interval(),
        )
    ]


def _start(world: ClusterWorld, rows: int) -> Running:
    settings = {
        "CHECK_INTERVAL": f"{check_interval():g}",
        "MAX_CONCURRENT_RUNS": str(rows),
    }
    return Running(lambda: world.start_operator(**settings))
