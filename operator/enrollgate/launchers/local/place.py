"""Where local runs are: this machine, this boot, this work directory.

Out comes the `RunPlace` that is recorded with each run. An operator compares it with its own before
it takes a run for lost. It is separate from the launcher because `mark-lost` needs it
without a launcher.

A path does not identify a work directory: a container, a mount or a copy may have the same one. So
each work directory has an id in a file, with that file's inode number. A copy has another inode
number, and gets an id of its own.
"""

import contextlib
import fcntl
import hmac
import json
import os
import re
import socket
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from enrollgate.common.processes import boot_id
from enrollgate.domain.run import RunPlace
from enrollgate.launchers.local.run_directory import RunDirectory, read_object, runs_folder

# Docker and Podman create them in each container.
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
# Their locks may hold on one machine only, whatever they promise.
_NETWORK_FILE_SYSTEMS = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs"}
    | {"gfs2", "lustre", "nfs", "nfs4", "ocfs2", "smb3"}
)
_ID_FILE = "work-dir-id.json"


def create_place(work_dir: Path) -> RunPlace:
    """Return the place of runs in this directory, which must exist; give it an id if it has none.

    Raises OSError, also if its file system cannot lock files.
    """
    path = work_dir / _ID_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        place = find_place(work_dir)
        if not place.place_id:
            content = {"id": str(uuid.uuid4()), "inode": os.fstat(descriptor).st_ino}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(content).encode(), 0)
            os.fsync(descriptor)
            place = find_place(work_dir)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
    return place


def find_place(work_dir: Path) -> RunPlace:
    """Return the place of runs in this directory. Its id is empty if no operator has used it.

    Raises OSError if it cannot be read.
    """
    path, place_id, machine_id = work_dir / _ID_FILE, "", ""
    match read_object(path):
        case {"id": str(found), "inode": int(inode)} if inode == path.stat().st_ino:
            place_id = found
    with contextlib.suppress(OSError):
        machine_id = Path("/etc/machine-id").read_text(encoding="ascii", errors="replace").strip()
    # machine-id(5): an image may say `uninitialized`, or have an empty file.
    if re.fullmatch("[0-9a-f]{32}", machine_id) is None:
        machine_id = ""
    else:
        # It is confidential, so only a keyed hash of it may leave the machine.
        machine_id = hmac.digest(machine_id.encode(), b"enrollgate", "sha256").hex()[:32]
    return RunPlace(
        "local",
        place_id,
        host=socket.gethostname(),
        machine_id=machine_id,
        work_dir=str(work_dir),
        boot_id=boot_id(),
    )


def network_file_system(folder: Path) -> str | None:
    """Return the type of the network file system that the folder is on; None if it is on none.

    Raises OSError.
    """
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    # proc_pid_mountinfo(5): id parent major:minor root mount-point options ... - type source ...
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        mount, _, details = line.partition(" - ")
        kind = details.split(" ", 1)[0]
        if mount.split(" ")[2] == number and kind in _NETWORK_FILE_SYSTEMS:
            return kind
    return None


def why_not_start(here: RunPlace, elsewhere: Mapping[RunPlace, Iterable[str]]) -> str | None:
    """Return why an operator here must not start, with the remedy; None if it may.

    `elsewhere` has the names of the unfinished runs at other places. Those on another machine or in
    a cluster are waited for. Runs in another directory of this machine are most likely this
    operator's own, from an earlier start with another ENROLLGATE_WORK_DIR.
    """
    problems = []
    for place, names in elsewhere.items():
        runs = list(names)
        count = f"{len(runs)} unfinished run(s), such as {runs[0]},"
        mark_lost = f"`enrollgate mark-lost {place.place_id}`"
        if place.launcher != "local":
            continue
        if place.place_id == here.place_id:
            problems.append(
                f"{count} were claimed by host {place.host} in this work directory, and this is "
                f"host {here.host}. If none of them runs there any more (the machine "
                f"was renamed, replaced or is off for good), use {mark_lost}"
            )
        elif here.shares_machine_with(place):
            live = live_runs(place, runs)
            if live is None:
                problems.append(
                    f"{count} are in {place}, this machine, but that folder cannot be read from "
                    "here, or was replaced since. Start the operator where it can be read (as its "
                    "owner, in its container), or give this one an ENROLLGATE_INSTALLATION of its "
                    "own. If the folder is gone and none of the runs has a "
                    f"process any more, use {mark_lost}"
                )
            else:
                problems.append(
                    f"{count} are in {place}, this machine; live: {len(live)}. Set "
                    f"ENROLLGATE_WORK_DIR={place.work_dir} to continue with them, or wait until "
                    "the operator there has finished them. A second operator for other runs needs "
                    "an ENROLLGATE_INSTALLATION of its own"
                )
    return "\n".join(problems) or None


def live_runs(place: RunPlace, names: Iterable[str]) -> list[str] | None:
    """Return which of these runs at a place on this machine are live; None if it cannot be seen."""
    work_dir = Path(place.work_dir)
    try:
        if not find_place(work_dir).can_observe(place):
            return None
        return [name for name in names if RunDirectory(runs_folder(work_dir) / name).is_live()]
    except OSError:
        return None


def after_stop(live: int, cgroups: Path = Path("/proc/self/cgroup")) -> str:
    """Say what becomes of so many live runs when the operator has ended.

    They left its process tree, but not its control group: systemd or a container may end them.
    `cgroups` names the control groups of this process.
    """
    if not live:
        return "no run is live"
    unit = None
    with contextlib.suppress(OSError):
        # cgroups(7): hierarchy:controllers:/system.slice/name.service
        text = cgroups.read_text(encoding="utf-8", errors="replace")
        unit = re.search(r"/([^/\n]+\.service)$", text, re.MULTILINE)
    condition = ""
    if unit:
        condition = (
            f" unless systemd kills them with {unit[1]} (KillMode=process leaves them alone)"
        )
    elif any(Path(path).exists() for path in _CONTAINER_FILES):
        condition = " unless this container ends"
    return (
        f"live: {live}; they continue{condition}. The next start adopts them, and launches again "
        "what was killed"
    )
