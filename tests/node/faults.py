"""What befalls a node: a container is killed, an image comes, a disk is mounted."""

from pathlib import Path
from typing import Any

from tests.node.node import NAMESPACE, SOCKET, run


def kill_container(pod: dict[str, Any]) -> None:
    """Kill the processes of a pod's only container, as the kernel would."""
    (status,) = pod["status"]["containerStatuses"]
    container = status["containerID"].removeprefix("containerd://")
    run("ctr", "-a", str(SOCKET), "-n", NAMESPACE, "tasks", "kill", "-s", "SIGKILL", container)


def add_image(existing: str, name: str) -> None:
    """Give an image of the node another name, so that pods find it under that name, too."""
    run("ctr", "-a", str(SOCKET), "-n", NAMESPACE, "images", "tag", existing, name)


def mount_disk(folder: Path, size: str) -> None:
    """Mount an empty file system of this size (`1m`) there. It ends with the node."""
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder))
