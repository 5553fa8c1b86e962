"""What befalls a node: its kubelet dies, a container is killed, a disk is mounted."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def kubelet_killed() -> Iterator[None]:
    """Kill the kubelet, and start it again at the end of the block. Its containers run on."""
    ((process, command),) = _find_kubelets()
    log = (process / "fd" / "1").readlink()
    os.kill(int(process.name), signal.SIGKILL)
    while _find_kubelets():
        time.sleep(0.05)
    try:
        yield
    finally:
        with log.open("ab") as stream:
            # It outlives the tests of this process, and ends with the node's PID namespace.
            output = [(os.POSIX_SPAWN_DUP2, stream.fileno(), number) for number in (1, 2)]
            os.posix_spawn(command[0], command, os.environ, file_actions=output)


def _find_kubelets() -> list[tuple[Path, list[str]]]:
    """Return the folder in /proc and the command of each kubelet in this PID namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")[:-1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command and Path(command[0]).name == "kubelet":
            found.append((process, command))
    return found
