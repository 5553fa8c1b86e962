"""The plain poll loop as a system."""

import sys
from pathlib import Path

from tests.cluster.world import ClusterWorld

from benchmarks.peers.job import TASK
from benchmarks.peers.ours import create_concurrency, task_of_job
from benchmarks.peers.system import Running, System, run_module, spawn


def systems() -> list[System]:
    """Return the loop, at an interval of one second."""
    return [
        System(
            name="plain loop",
            version=f"{_lines()} lines of Python, our Kubernetes client",
            settings=f"interval 1 s, {create_concurrency()} requests at a time",
            not_comparable="It knows no timeouts, failures, limits, other replicas or restarts of "
            "a task, and keeps no record of runs.",
            start=_start,
            task_of=task_of_job,
            is_compared=True,
        )
    ]


def _start(world: ClusterWorld, _rows: int) -> Running:
    template = world.folder / "loop-job.json"
    job = run_module("job", environment=world.environment)
    template.write_text(job.replace(str(TASK), "{task}"))
    command = [
        sys.executable,
        "-m",
        "benchmarks.peers.poll_loop",
        template,
        str(create_concurrency()),
    ]
    return Running(lambda: spawn(world, command, world.environment))


def _lines() -> int:
    """Count the lines of the program's one function, blank lines left out."""
    text = Path(__file__).with_name("poll_loop.py").read_text()
    body = text[text.index("def main") : text.index("if __name__")]
    return sum(bool(line.strip()) for line in body.splitlines())
