"""One container as real processes in namespaces of its own: mounts, processes, host name.

Its root is an overlay of this machine's root, with the pod's volumes where its spec says. It runs
as the spec's user without capabilities, with a read-only root if the spec asks for it.

The program is process 1, as in a container: a signal that it does not handle does not end it, and
its end kills all that it started. It uses this machine's network. It needs root, as a kubelet
does.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.pod_runner.volumes import Mount
from tests.databases.server import die_with_parent

REPOSITORY = Path(__file__).parents[3]
# Where this machine has the image's programs: the environment that runs the tests.
BIN = Path(sys.executable).parent
# What the Dockerfile sets.
IMAGE_VARIABLES = {
    "PATH": f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}
_IMAGE_FOLDERS = (BIN.parent, REPOSITORY / "operator", Path(sys.base_prefix))
_NAMESPACES = (
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
)
_START_TIMEOUT = 60.0
# The exit code of a container whose program cannot be executed, and containerd's and runc's words.
START_ERROR_CODE = 128
_START_ERROR = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: "
    'exec: "{program}": executable file not found in $PATH: unknown'
)


class NotStarted(Exception):
    """The container could not be set up. The text says what failed."""


class StartError(NotStarted):
    """The container's program cannot be executed. The text is that of a container runtime."""


@dataclass(frozen=True)
class Container:
    """What to start, and where it writes."""

    command: Sequence[str]
    variables: dict[str, str]
    mounts: Sequence[Mount]
    user: int
    read_only: bool
    folder: Path
    log: Path
    # The file of its termination message.
    message: Path
    host_name: str = "container"
    group: int | None = None
    groups: Sequence[int] = field(default=())
    message_path: str = "/dev/termination-log"
    directory: str = "/tmp"


@dataclass(frozen=True)
class Sandbox:
    """A started container. `process` is its parent, and ends with it."""

    process: subprocess.Popen[bytes]
    # Process 1 of the container, by its number on this machine.
    first: int

    def poll(self) -> int | None:
        """Return its exit code as a kubelet reports it (128 + n for a signal), or None while it
        runs.
        """
        code = self.process.poll()
        return None if code is None else code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Send SIGTERM to the program."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first, signal.SIGTERM)

    def kill(self) -> None:
        """Kill all its processes."""
        # Killing the parent ends the program. Killing the program alone would report exit code 1.
        self.process.kill()
        self.process.wait()


def refusal() -> str:
    """Return why this machine cannot run containers; empty if it can."""
    program = "mount -t tmpfs none /mnt && mount -t overlay overlay -o lowerdir=/etc:/usr /mnt"
    tried = subprocess.run(
        [*_NAMESPACES, "sh", "-c", program], capture_output=True, text=True, check=False
    )
    return tried.stderr.strip()


def start(container: Container) -> Sandbox:
    """Start it and wait until its program is about to run. Raises NotStarted."""
    container.message.touch()
    container.message.chmod(0o666)
    (container.folder / "root").mkdir(parents=True, exist_ok=True)
    ready = container.folder / "ready"
    ready.unlink(missing_ok=True)
    # `command -v` looks a program up as the runtime does.
    is_there = (
        f"chroot . sh -c 'command -v -- \"$0\"' {shlex.quote(container.command[0])} >/dev/null"
    )
    script = "\n".join(
        [
            "set -e; umask 022",
            *_mounting(container),
            f"{is_there} || exit {START_ERROR_CODE}",
            f": >{ready}",
            _executing(container),
        ]
    )
    with container.log.open("ab") as log:
        process = subprocess.Popen(
            [*_NAMESPACES, "sh", "-c", script],
            env=IMAGE_VARIABLES | {"HOSTNAME": container.host_name} | container.variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- it takes no lock
        )
    return Sandbox(process, _first_process(container, process, ready))


def _first_process(container: Container, process: subprocess.Popen[bytes], ready: Path) -> int:
    deadline = time.monotonic() + _START_TIMEOUT
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            if process.wait() == START_ERROR_CODE:
                raise StartError(_START_ERROR.format(program=container.command[0]))
            raise NotStarted(container.log.read_text(errors="replace")[-1000:])
        time.sleep(0.005)
    # It is a child until it has ended, and its parent then ends too.
    with contextlib.suppress(OSError, ValueError):
        return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    return process.pid


def _mounting(container: Container) -> Iterator[str]:
    layer, root = container.folder / "layer", container.folder / "root"
    yield f"mkdir -p {layer}; mount -t tmpfs none {layer}; mkdir {layer}/upper {layer}/work"
    options = f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work"
    yield f"mount -t overlay overlay -o {options} {root}"
    yield f"cd {root}; hostname {shlex.quote(container.host_name)}"
    yield "mount -t tmpfs none dev; mount -t proc proc proc"
    yield "for d in null zero full random urandom; do : >dev/$d; mount --bind /dev/$d dev/$d; done"
    yield "ln -s /proc/self/fd dev/fd; mkdir -m 1777 dev/shm"
    # the image's programs are in this machine's folders; some of them only root may enter
    yield from (f"chmod o+rx .{shlex.quote(str(folder))}" for folder in _closed_folders())
    for mount in container.mounts:
        yield from _bind(mount)
    for folder in _IMAGE_FOLDERS:
        if _hidden(folder, container.mounts):
            yield from _bind(Mount(folder, str(folder), read_only=True))
    yield from _bind(Mount(container.message, container.message_path, read_only=False))
    if container.read_only:
        yield f"mount -o remount,ro,bind {root}"


def _bind(mount: Mount) -> Iterator[str]:
    inside = Path(
        mount.target
    ).resolve()  # the root is a copy of this machine's, and so are its links, such as /var/run
    source, target = shlex.quote(str(mount.source)), shlex.quote(f".{inside}")
    make = (
        f"mkdir -p {target}"
        if mount.source.is_dir()
        else f"mkdir -p $(dirname {target}); [ -e {target} ] || : >{target}"
    )
    yield f"{make}; mount --bind {source} {target}"
    if mount.read_only:
        yield f"mount -o remount,ro,bind {target}"


def _hidden(folder: Path, mounts: Sequence[Mount]) -> bool:
    """Whether the container cannot see the folder: a volume covers it, or it is on another file
    system.
    """
    elsewhere = folder.stat().st_dev != Path("/").stat().st_dev
    return elsewhere or any(folder.is_relative_to(Path(mount.target).resolve()) for mount in mounts)


def _closed_folders() -> list[Path]:
    interpreter = Path(sys.executable).resolve()
    needed = {*BIN.parents, *interpreter.parents, *Path(__file__).parents}
    return sorted(folder for folder in needed if (folder.stat().st_mode & 0o005) != 0o005)


def _executing(container: Container) -> str:
    groups = ",".join(map(str, container.groups))
    privileges = [
        "setpriv",
        f"--reuid={container.user}",
        f"--regid={container.user if container.group is None else container.group}",
        f"--groups={groups}" if groups else "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--pdeathsig=KILL",  # a change of user clears it
    ]
    return "exec " + shlex.join(
        ["chroot", ".", "env", f"--chdir={container.directory}", *privileges, *container.command]
    )
