"""What `enrollgate doctor` looks at beside the database: the cluster, the destination, the cookies, the tools, the folders.

On Kubernetes it sees what its pod sees. The operator's pod has the token and none of the workers' volumes and Secrets; the chart's
test pod (`helm test`) has those, and no token. What is not here is a warning that says where to look; what is here is proven.
"""

import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random

from enrollgate.control.wiring import (
    Misconfigured,
    NoCluster,
    build_database,
    build_kubernetes_launcher,
    build_tables,
    lease_name_of,
)
from enrollgate.database.preflight import check_database
from enrollgate.domain.check import Check, failed, ok, warning
from enrollgate.domain.destination import DriveDestination
from enrollgate.launchers.kubernetes import check_access
from enrollgate.settings.operator import Settings

_HELM_TEST = "`helm test` proves it in a pod like a worker's"


def examine(settings: Settings) -> Iterator[Check]:
    """Every check, one at a time, in the order in which to mend them."""
    database = build_database(settings)
    try:
        yield from check_database(database, build_tables(settings))
    finally:
        database.close()
    if settings.launcher == "kubernetes":
        yield check_cluster(settings)
    else:
        yield check_folder("work folder", settings.work_dir, "ENROLLGATE_WORK_DIR")
    yield check_destination(settings)
    yield check_cookies(settings)
    yield check_downloader(settings)
    yield check_hosts(settings)


def check_cluster(settings: Settings) -> Check:
    """Asks the API server for each permission that the operator needs."""
    try:
        launcher = build_kubernetes_launcher(settings, random=Random(), stopped=threading.Event())  # noqa: S311 -- spreads retries
    except NoCluster as error:
        remedy = "nothing, if this is not the operator: kubectl exec deploy/<release> -- enrollgate doctor"
        return warning("cluster", str(error), remedy)
    except Misconfigured as error:
        return failed("cluster", str(error), "mend the setting that it names")
    try:
        return check_access(launcher.api, launcher.namespace, lease_name_of(settings))
    finally:
        launcher.close()


def check_destination(settings: Settings) -> Check:
    """Proves that courses can be delivered, by delivering a probe."""
    destination = settings.destination
    if isinstance(destination, DriveDestination):
        if settings.kubernetes.drive_secret and settings.drive_credentials is None:
            return _a_workers(
                "destination",
                f"the Secret {settings.kubernetes.drive_secret} is mounted in workers only",
            )
        from enrollgate.worker.destinations.drive.probe import check_drive

        return check_drive(settings, destination.folder_id)
    if settings.launcher == "kubernetes" and not destination.path.exists():
        return _a_workers("destination", f"{destination.path} is mounted in workers only")
    return check_folder("destination", destination.path, "ENROLLGATE_DESTINATION")


def _a_workers(name: str, detail: str) -> Check:
    return warning(name, detail, _HELM_TEST)


def check_folder(name: str, folder: Path, variable: str) -> Check:
    """Proves that the folder can be written, by writing."""
    probe = folder / f".enrollgate-probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        remedy = f"make it writable for user {os.getuid()}, or name another in {variable}"
        return failed(name, f"{folder} cannot be written: {error.strerror}", remedy)
    free = shutil.disk_usage(folder).free / 2**30
    return ok(name, f"{folder} is writable, {free:.1f} GiB free")


def check_cookies(settings: Settings) -> Check:
    """Looks whether the cookies folder is there and its files can be read."""
    folder, secret = settings.cookies_dir, settings.kubernetes.cookies_secret
    if folder is None and settings.launcher == "kubernetes" and secret:
        return _a_workers("cookies", f"the Secret {secret} is mounted in workers only")
    if folder is None:
        remedy = "set ENROLLGATE_COOKIES_DIR if the course site wants a login"
        return warning("cookies", "no folder is set: every download is anonymous", remedy)
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        return failed(
            "cookies", f"{folder}: {error.strerror}", "create the folder and let the worker read it"
        )
    unreadable = [path.name for path in files if not os.access(path, os.R_OK)]
    if unreadable:
        return failed(
            "cookies", f"not readable: {', '.join(unreadable)}", f"let user {os.getuid()} read them"
        )
    if not files:
        return warning(
            "cookies",
            f"{folder} is empty",
            "add cookies.txt, or one file per account (docs/settings.md)",
        )
    return ok("cookies", f"{len(files)} file(s) in {folder}")


def check_downloader(settings: Settings) -> Check:
    """Looks for what the downloader needs on this machine."""
    if settings.downloader == "command":
        program = settings.download_command[0]
        if shutil.which(program) is None:
            remedy = "install it, or give its full path in ENROLLGATE_DOWNLOAD_COMMAND"
            return failed("downloader", f"the command {program!r} is not on this machine", remedy)
        return ok("downloader", f"command: {shutil.which(program)}")
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        remedy = "install ffmpeg; without it, sites that keep picture and sound pinned_cpus give a lower quality"
        return warning("downloader", "yt-dlp, but ffmpeg is not on this machine", remedy)
    return ok("downloader", f"yt-dlp, with {ffmpeg}")


def check_hosts(settings: Settings) -> Check:
    """Says which hosts may be contacted."""
    if settings.allowed_hosts:
        return ok("allowed hosts", ", ".join(settings.allowed_hosts))
    remedy = "list the course sites in ENROLLGATE_ALLOWED_HOSTS, so that no row can point a worker elsewhere"
    return warning("allowed hosts", "every public host, over https", remedy)
