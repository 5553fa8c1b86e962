"""Steps that several cluster test modules share."""

from tests.cluster.job_watch import JobWatch
from tests.cluster.world import ClusterWorld


def running_job(world: ClusterWorld, task: int, run_number: int = 1) -> str:
    """Wait until the pod of a run is ready. Returns the name of its Job."""
    name = f"school-{task}-{run_number}"

    def is_running() -> bool:
        job = world.jobs().get(name)
        return job is not None and bool(job.get("status", {}).get("ready"))

    world.wait_for(is_running, f"{name} runs")
    return name


def wait_for_log(world: ClusterWorld, text: str) -> None:
    """Wait until the operators' log contains this text."""
    world.wait_for(lambda: text in world.log, f"the log says {text!r}")


def wait_for_starts(world: ClusterWorld, count: int) -> None:
    """Wait until operators have started this many times."""
    world.wait_for(
        lambda: world.log.count("operator started") == count, f"{count} operators have started"
    )


def all_completed(
    world: ClusterWorld, watch: JobWatch, tasks: list[int], timeout: float = 120.0
) -> None:
    """Wait until all tasks are completed, each by the one Job that it ever had."""
    world.wait_for(
        lambda: world.statuses() == {"completed": len(tasks)},
        "all tasks are completed",
        timeout=timeout,
    )
    assert watch.tasks == [(task, 1) for task in tasks]
    assert [(run.task_id, run.run_number, run.outcome) for run in world.runs()] == [
        (task, 1, "succeeded") for task in tasks
    ]
