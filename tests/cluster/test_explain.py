"""`enrollgate explain` and `logs` on a real API server, with the operator's own account."""

import json
import subprocess
import sys

from tests.cluster.pod_runner import Fault, PodRunner
from tests.cluster.steps import running_job
from tests.cluster.world import ClusterWorld


def enrollgate(world: ClusterWorld, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enrollgate", *arguments],
        env=world.environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=world.folder,
    )


def test_explanation_of_a_pod_that_cannot_start_has_pod_and_events(
    world: ClusterWorld, pod_runner: PodRunner
) -> None:
    with pod_runner.fault(
        Fault.IMAGE_PULL, lambda pod: pod["metadata"]["namespace"] == world.namespace
    ):
        (task,) = world.add()
        world.start_operator()

        def explained() -> str:
            return " ".join(enrollgate(world, "explain", str(task)).stdout.split())

        world.wait_for(lambda: "ImagePullBackOff: no pod of the Job" in explained(), "the cause")
        text = explained()
        assert "Back-off pulling image" in text and "Launched: task" in text
        assert "ENROLLGATE_KUBERNETES__IMAGE" in text and "ada@example.com" not in text
        done = enrollgate(world, "logs", str(task))
        assert done.returncode == 1 and "has no log" in done.stderr, done


def test_log_of_a_running_pod_is_followed_until_it_ends(world: ClusterWorld) -> None:
    (task,) = world.add()
    world.start_operator()
    name = running_job(world, task)
    data = json.loads(enrollgate(world, "explain", name, "--json").stdout)
    assert data["state"] == "running" and data["cluster"]["pods"][0]["has_started"]
    follower = subprocess.Popen(
        [sys.executable, "-m", "enrollgate", "logs", str(task), "-f"],
        env=world.environment,
        stdout=subprocess.PIPE,
        text=True,
        cwd=world.folder,
    )
    with follower:
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith(f"==> pod {name}-")
        world.succeed(name)
        assert follower.wait(120) == 0
    world.wait_for_status(task, "completed")
