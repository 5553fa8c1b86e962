"""What befalls a node: a container or the kubelet is killed, an image comes, a disk is mounted."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
def dead_kubelet() -> Iterator[None]:
    """Kill the kubelet. At the end of the block, start it again, as its service would."""

    def find() -> str:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is a thread of the kernel
                if (process / "exe").readlink().name == "kubelet":
                    return process.name
        return ""

    process = find()
    command = Path(f"/proc/{process}/cmdline").read_text().split("\0")[:-1]
    log = Path(f"/proc/{process}/fd/1").readlink()
    os.kill(int(process), signal.SIGKILL)
    try:
        yield
    finally:
        assert not find(), "it is dead"
        run("setsid", "--fork", "sh", "-c", f'exec "$@" >>{log} 2>&1', "sh", *command)
