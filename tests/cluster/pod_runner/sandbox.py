"""One container as a child process: a mount namespace whose root is an overlay of this machine's, with the pod's volumes where
its spec says, its user, no capabilities, and a read-only root if it wants one. Needs root, as a kubelet does.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.pod_runner.volumes import Mount
from tests.databases.server import die_with_parent

Json = dict[str, Any]
BIN = Path(sys.executable).parent
"""Where the image's programs are, here: the environment that runs the tests."""


@dataclass(frozen=True)
class Container:
    """What to start, and where it leaves what."""

    command: Sequence[str]
    variables: dict[str, str]
    mounts: Sequence[Mount]
    user: int
    read_only: bool
    folder: Path
    log: Path
    message: Path
    """Its termination message."""


def start(container: Container) -> subprocess.Popen[bytes]:
    """Starts it. SIGTERM reaches the program itself; its process group is its own."""
    container.message.touch()
    container.message.chmod(0o666)
    (container.folder / "root").mkdir(parents=True, exist_ok=True)
    script = "\n".join(["set -e", *_mounting(container), _executing(container)])
    with container.log.open("ab") as log:
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            env={"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"} | container.variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to all of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _mounting(container: Container) -> list[str]:
    layer, root = container.folder / "layer", container.folder / "root"
    lines = [
        f"mkdir -p {layer}; mount -t tmpfs none {layer}; mkdir {layer}/upper {layer}/work",
        f"mount -t overlay overlay -o lowerdir=/,upperdir={layer}/upper,workdir={layer}/work {root}",
        f"cd {root}",
        "mount -t tmpfs none dev; mount -t proc proc proc",
        "for d in null zero full random urandom; do : >dev/$d; mount --bind /dev/$d dev/$d; done",
        "ln -s /proc/self/fd dev/fd; mkdir -m 1777 dev/shm",
        f": >dev/termination-log; mount --bind {container.message} dev/termination-log",
        # the image's programs live in this machine's folders, some of which only root may enter
        *(f"chmod o+rx .{shlex.quote(str(folder))}" for folder in _closed_folders()),
    ]
    for mount in container.mounts:
        source, target = shlex.quote(str(mount.source)), f".{shlex.quote(mount.target)}"
        lines.append(f"mkdir -p {target}; mount --bind {source} {target}")
        if mount.read_only:
            lines.append(f"mount -o remount,ro,bind {target}")
    if container.read_only:
        lines.append(f"mount -o remount,ro,bind {root}")
    return lines


def _closed_folders() -> list[Path]:
    interpreter = Path(sys.executable).resolve()
    needed = {*BIN.parents, *interpreter.parents, *Path(__file__).parents}
    return sorted(folder for folder in needed if (folder.stat().st_mode & 0o005) != 0o005)


def _executing(container: Container) -> str:
    privileges = [
        "setpriv",
        f"--reuid={container.user}",
        f"--regid={container.user}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
        "--inh-caps=-all",
    ]
    return "exec " + shlex.join(["chroot", ".", *privileges, *container.command])
