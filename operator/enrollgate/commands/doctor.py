"""`enrollgate doctor`: check the database, the cluster, the destination, the cookies and the tools.

On Kubernetes a check sees what its pod sees. The operator's pod has the API token, but none of the
workers' volumes and Secrets; the chart's test pod (`helm test`) has those, but no token, and checks
what a worker needs (`--as-worker`). What a pod cannot see is a warning that says where to check it.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import typer

from enrollgate.commands.console import COLOR, settings_or_fail
from enrollgate.commands.cookies_check import check_cookies_files
from enrollgate.commands.layout import fit
from enrollgate.common.redaction import printable, redact
from enrollgate.control.wiring import (
    Misconfigured,
    NoCluster,
    build_kubernetes_launcher,
    lease_name,
)
from enrollgate.database import (
    Database,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    queries,
    runs,
)
from enrollgate.database.configured import build_database, build_tables
from enrollgate.database.preflight import check_database, check_view
from enrollgate.domain.check import Check, Severity, failed, ok, warning
from enrollgate.domain.destination import DriveDestination
from enrollgate.domain.run import RunPlace
from enrollgate.launchers import LauncherUnavailable
from enrollgate.launchers.kubernetes import check_access
from enrollgate.launchers.local.place import find_place, why_not_start
from enrollgate.settings.operator import Settings

_HELM_TEST = "check it with `helm test`, which runs in a pod like a worker's"
# Less than this is noted.
_FEW_GIB = 1.0
_COLORS = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.FAILED: "red"}


def print_checks(*, as_json: bool, as_worker: bool) -> bool:
    """Run every check and print it, with its remedy. Returns whether none failed.

    With `as_worker`, what only the operator needs is left out: access to the API server.
    """
    checks = []
    for check in run_checks(settings_or_fail(), as_worker=as_worker):
        checks.append(check)
        if as_json:
            continue
        line = f"{check.severity:7} {check.name}: {printable(check.detail)}"
        shown = fit(line, sys.stdout, indent=8)
        typer.echo(typer.style(shown[:7], fg=_COLORS[check.severity]) + shown[7:], color=COLOR)
        if check.remedy:
            line = f"          → {printable(check.remedy)}"
            typer.echo(fit(line, sys.stdout, indent=12))
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    return all(check.severity is not Severity.FAILED for check in checks)


def run_checks(settings: Settings, *, as_worker: bool = False) -> Iterator[Check]:
    """Give one check after the other, in the order in which to fix them."""
    database, tables = build_database(settings), build_tables(settings)
    accounts = open_accounts = None
    try:
        is_usable = True
        for check in check_database(database, tables):
            is_usable = is_usable and check.severity is not Severity.FAILED
            yield check
        if is_usable:
            with contextlib.suppress(DatabaseUnavailable):
                yield check_view(database, tables, settings.installation)
        if settings.launcher == "local" and is_usable:
            with contextlib.suppress(DatabaseUnavailable, DatabaseMisconfigured):
                yield check_place(settings, database)
        if settings.launcher == "kubernetes" and not as_worker:
            yield from check_cluster(settings, database if is_usable else None)
        if settings.cookies_dir is not None:
            with contextlib.suppress(DatabaseUnavailable, DatabaseMisconfigured):
                accounts = queries.account_emails(database, tables)
                open_accounts = queries.account_emails(database, tables, of_open_tasks=True)
    finally:
        database.close()
    if settings.launcher == "local":
        yield check_folder("work folder", settings.work_dir, "ENROLLGATE_WORK_DIR")
    elsewhere = mounted_in_workers(settings, as_worker=as_worker)
    if "destination" not in elsewhere:
        yield check_destination(settings)
    if "cookies" not in elsewhere:
        yield check_cookies(settings, accounts, open_accounts)
    for name, what in elsewhere.items():
        yield warning(name, f"{what} is mounted in workers only", _HELM_TEST)
    yield check_downloader(settings)
    yield check_hosts(settings)


def check_place(settings: Settings, database: Database) -> Check:
    """Check that no unfinished run is where an operator here must not start. Raises as `runs`."""
    try:
        here = find_place(settings.work_dir)
    except OSError as error:
        remedy = f"let user {os.getuid()} read it"
        return failed("place of runs", f"{settings.work_dir}: {error.strerror}", remedy)
    elsewhere = runs.unfinished_elsewhere(database, installation=settings.installation, here=here)
    if problem := why_not_start(here, elsewhere):
        return failed("place of runs", problem, "docs/local.md explains places")
    return show_elsewhere(here, elsewhere)


def show_elsewhere(here: RunPlace, elsewhere: Iterable[RunPlace]) -> Check:
    """Warn of unfinished runs at other places."""
    if places := "; ".join(place.seen_from(here) for place in elsewhere):
        return warning(
            "place of runs",
            f"there are unfinished runs elsewhere, which are waited for: {places}",
            "if a place is gone for good: enrollgate mark-lost",
        )
    return ok("place of runs", str(here))


def check_cluster(settings: Settings, database: Database | None) -> Iterator[Check]:
    """Ask the API server for each permission that the operator needs.

    Then check where the unfinished runs are, if there is a usable database.
    """
    try:
        random = Random()  # noqa: S311 -- only spreads retries
        launcher = build_kubernetes_launcher(settings, random=random, stopped=threading.Event())
    except NoCluster as error:
        yield warning(
            "cluster",
            str(error),
            "if this is not the operator's pod, nothing; check it there: "
            "kubectl exec deploy/<release> -- enrollgate doctor",
        )
        return
    except Misconfigured as error:
        yield failed("cluster", str(error), "fix the setting that the message names")
        return
    with contextlib.closing(launcher):
        lease, deployment = lease_name(settings), settings.kubernetes.deployment
        yield (access := check_access(launcher.api, launcher.namespace, lease, deployment))
        if database is None or access.severity is not Severity.OK:
            return
        try:
            here, installation = launcher.place, settings.installation
        except LauncherUnavailable as error:
            yield failed("place of runs", str(error), "see that the namespace exists")
            return
        with contextlib.suppress(DatabaseUnavailable, DatabaseMisconfigured):
            yield show_elsewhere(
                here, runs.unfinished_elsewhere(database, installation=installation, here=here)
            )


def mounted_in_workers(settings: Settings, *, as_worker: bool) -> dict[str, str]:
    """Return what the operator's own pod cannot check: the check's name, and what is not mounted.

    Files that a worker misses are a failure: they come from a volume of the job template.
    """
    if settings.launcher != "kubernetes":
        return {}
    kubernetes, destination = settings.kubernetes, settings.destination
    secrets = {"cookies": kubernetes.cookies_secret}
    paths = {"cookies": settings.cookies_dir}
    if isinstance(destination, DriveDestination):
        secrets["destination"] = kubernetes.drive_secret
        paths["destination"] = settings.drive_credentials
    elsewhere = {
        name: f"the Secret {secret}"
        for name, secret in secrets.items()
        if secret and paths[name] is None
    }
    if not as_worker:
        missing = {name: path for name, path in paths.items() if path and not path.exists()}
        elsewhere |= {name: str(path) for name, path in missing.items()}
    if not isinstance(destination, DriveDestination) and not destination.path.exists():
        elsewhere["destination"] = str(destination.path)
    return elsewhere


def check_destination(settings: Settings) -> Check:
    """Check that courses can be delivered, by writing a small file."""
    destination = settings.destination
    if isinstance(destination, DriveDestination):
        # Google's client takes long to import.
        from enrollgate.worker.destinations.drive.probe import check_drive

        return check_drive(settings, destination.folder_id)
    return check_folder("destination", destination.path, "ENROLLGATE_DESTINATION")


def check_folder(name: str, folder: Path, variable: str) -> Check:
    """Check that the folder is writable, or can be created, by writing a file.

    A folder that does not exist is not created: the file is written where the folder would be.
    `variable` is the setting's name.
    """
    existing = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    try:
        with TemporaryDirectory(prefix=".enrollgate-probe-", dir=existing) as probe:
            (Path(probe) / "probe").write_bytes(b"probe")
    except OSError as error:
        remedy = f"make it writable for user {os.getuid()}, or set {variable} to another folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"free some space or raise the quota, or set {variable} to another folder"
        elif existing != folder:
            remedy = f"create {folder}, or set {variable} to another folder"
        return failed(name, f"{existing} is not writable: {error.strerror}", remedy)
    free = shutil.disk_usage(existing).free / 2**30
    state = "is writable" if existing == folder else "does not exist yet and can be created"
    detail = f"{folder} {state}, {free:.1f} GiB free"
    if free < _FEW_GIB:
        remedy = f"free some space, or set {variable} to another folder: a course may not fit"
        return warning(name, detail, remedy)
    return ok(name, detail)


def check_cookies(
    settings: Settings, accounts: frozenset[str] | None, open_accounts: frozenset[str] | None
) -> Check:
    """Check the cookies folder and its files.

    `accounts` are the e-mail addresses of all tasks, `open_accounts` those of waiting and enrolled
    ones; None if they are not known.
    """
    folder = settings.cookies_dir
    if folder is None:
        return warning(
            "cookies",
            "no cookies folder is set: every download is anonymous",
            "set ENROLLGATE_COOKIES_DIR if the course site needs a login",
        )
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        remedy = f"create the folder and let user {os.getuid()} read it"
        return failed("cookies", f"{folder}: {error.strerror}", remedy)
    unreadable = [path.name for path in files if not os.access(path, os.R_OK)]
    if unreadable:
        remedy = f"let user {os.getuid()} read them"
        return failed("cookies", redact(f"not readable: {', '.join(unreadable)}"), remedy)
    if not files:
        remedy = "add cookies.txt, or one file per account (docs/settings.md)"
        return warning("cookies", f"{folder} is empty", remedy)
    return check_cookies_files(files, accounts, open_accounts or (), time.time())


def check_downloader(settings: Settings) -> Check:
    """Check that the programs that the downloader needs are on this machine."""
    if settings.downloader == "command":
        program = settings.download_command[0]
        path = shutil.which(program)
        if path is None:
            remedy = "install it, or write its full path in ENROLLGATE_DOWNLOAD_COMMAND"
            return failed("downloader", f"the command {program!r} is not on this machine", remedy)
        return ok("downloader", f"command: {path}")
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        return warning(
            "downloader",
            "yt-dlp, but ffmpeg is not on this machine",
            "install ffmpeg: without it, sites that send video and audio separately give a lower "
            "quality",
        )
    return ok("downloader", f"yt-dlp, with {ffmpeg}")


def check_hosts(settings: Settings) -> Check:
    """Show which hosts workers may contact."""
    if settings.allowed_hosts:
        return ok("allowed hosts", ", ".join(settings.allowed_hosts))
    return warning(
        "allowed hosts",
        "every public host, over https",
        "list the course sites in ENROLLGATE_ALLOWED_HOSTS, so that no row can send a worker "
        "to another host",
    )
