"""The whole program, built in one place: settings in, a running operator out.

settings ─▶ database ─┐
         ─▶ launcher ─┼─▶ reconciler ─▶ runner      (the launcher wakes it when a run ends)
         ─▶ policy ───┘

`run_operator` is local mode; `kopf_controller` builds Kubernetes mode from the same parts.
"""

import hashlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random

import structlog

from enrollgate import version
from enrollgate.common.backoff import Backoff
from enrollgate.common.signals import handle_signals
from enrollgate.control.housekeeping import Housekeeping
from enrollgate.control.leader_election import LeaderElector
from enrollgate.control.look_interval import LookInterval
from enrollgate.control.policy import build_policy
from enrollgate.control.progress import ProgressReader
from enrollgate.control.reconciler import Reconciler
from enrollgate.control.runner import OperatorRunner
from enrollgate.database import Database, DatabaseError, runs
from enrollgate.database.configured import build_database, build_tables
from enrollgate.domain.account import DEFAULT_COOKIES_NAME, build_cookies_name
from enrollgate.launchers import Launcher, LauncherRefused
from enrollgate.launchers.kubernetes import (
    ClusterNotConfigured,
    JobSettings,
    KubernetesLauncher,
    connect,
    read_template,
)
from enrollgate.launchers.local.launcher import LocalLauncher
from enrollgate.launchers.local.place import after_stop, why_not_start
from enrollgate.settings.operator import Settings
from enrollgate.telemetry import metrics
from enrollgate.telemetry.health import Health
from enrollgate.telemetry.http import serving

_LOG = structlog.get_logger(__name__)


class Misconfigured(Exception):
    """The operator cannot run like this; the message says what to fix."""


class NoCluster(Misconfigured):
    """This process belongs to no Kubernetes cluster, as far as it can see."""


def run_operator(settings: Settings) -> None:
    """Run the operator in local mode until SIGTERM or SIGINT.

    The runs continue and are adopted by the next operator.

    A database that is away is waited for. Raises DatabaseMisconfigured if the operator cannot work
    with it, Misconfigured if the work directory cannot be used or is not that of the unfinished
    runs, PortUnavailable if the HTTP port is taken, and LoopFailed if the passes fail again and
    again with an unexpected error.
    """
    health = build_health(settings)
    database = build_database(settings, creates_file=True, on_error=count_database_error)
    # The launcher wakes the runner's loop, and the runner's reconciler uses the launcher.

    def check_place() -> None:
        here, installation = launcher.place, settings.installation
        elsewhere = runs.unfinished_elsewhere(database, installation=installation, here=here)
        if problem := why_not_start(here, elsewhere):
            raise Misconfigured(problem)

    runner = build_runner(
        settings,
        database=database,
        launcher=lambda: launcher,
        health=health,
        random=build_random(),
        check_place=check_place,
    )
    try:
        launcher = build_local_launcher(settings, on_change=runner.loop.wake)
    except LauncherRefused as error:
        raise Misconfigured(str(error)) from error

    def stop(signal: str) -> None:
        _LOG.info("stopping after this pass", signal=signal)
        runner.stop()

    try:
        handle_signals(stop)
        with serving(settings.http_address, settings.http_port, health):
            _LOG.info(
                "operator started",
                launcher="local",
                installation=settings.installation,
                work_dir=str(settings.work_dir),
                database=database.place,
            )
            runner.run()
        try:
            runs_left = after_stop(launcher.count_live())
        except LauncherRefused as error:
            runs_left = f"they cannot be observed now: {error}"
        _LOG.info("operator stopped", runs=runs_left)
    finally:
        launcher.close()
        database.close()


def build_runner(
    settings: Settings,
    *,
    database: Database,
    launcher: Callable[[], Launcher],
    health: Health,
    random: Random,
    elector: LeaderElector | None = None,
    check_place: Callable[[], None] = lambda: None,
) -> OperatorRunner:
    """Build the work of an operator from these parts. `launcher` is called when the work begins."""
    tables = build_tables(settings)
    policy = build_policy(settings)
    looks = LookInterval(interval=settings.gate_interval, share=settings.gate_database_share)
    runner = OperatorRunner(
        database=database,
        tables=tables,
        installation=settings.installation,
        build_reconciler=lambda: Reconciler(
            database,
            tables,
            launcher(),
            policy,
            installation=settings.installation,
            progress=health.heartbeat,
            monotonic=boot_time,
            is_stopping=lambda: runner.loop.is_stopping,
            is_woken=lambda: runner.loop.is_woken,
            cookies_sha256=partial(hash_cookies, settings.cookies_dir),
        ),
        launcher=launcher,
        housekeeping=Housekeeping(
            database,
            settings.installation,
            about={
                "version": version(),
                "launcher": settings.launcher,
                "enrollment_timeout": settings.enrollment_timeout,
                "max_concurrent_runs": settings.max_concurrent_runs,
                "check_interval": settings.check_interval,
            },
            history=timedelta(seconds=settings.history),
            cookies_dir=settings.cookies_dir,
            monotonic=time.monotonic,
        ),
        progress=ProgressReader(
            database,
            settings.installation,
            # Files cost no request.
            rate=settings.kubernetes.progress_rate if settings.launcher == "kubernetes" else 1.0,
            monotonic=time.monotonic,
        ),
        check_interval=settings.check_interval,
        look_interval=looks,
        health=health,
        random=random,
        elector=elector,
        check_place=check_place,
    )
    return runner


def count_database_error(error: DatabaseError) -> None:
    """Count an error of the database by its kind."""
    metrics.DATABASE_ERRORS.labels(type(error).__name__).inc()


def hash_cookies(folder: Path | None, account: str) -> str | None:
    """Return the digest of the cookies file of an account, given by its own digest.

    None if there is none that the operator can read.
    """
    for name in (build_cookies_name(account), DEFAULT_COOKIES_NAME):
        with suppress(OSError):
            # A pipe in its place would be waited for.
            if folder is not None and (folder / name).is_file():
                with (folder / name).open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def build_health(settings: Settings) -> Health:
    """Build the health record.

    Without a sign of life for six intervals, and two minutes at least, it counts as dead.
    """
    return Health(
        liveness_timeout=max(120.0, 6 * settings.check_interval), monotonic=time.monotonic
    )


def build_random() -> Random:
    """Build the source of jitter."""
    return Random()  # noqa: S311 -- spreads retries; nothing secret depends on it


def build_local_launcher(settings: Settings, on_change: Callable[[str], None]) -> LocalLauncher:
    """Build the launcher that runs child processes on this machine. Raises LauncherRefused."""
    return LocalLauncher(
        settings.work_dir,
        installation=settings.installation,
        worker_argv=(sys.executable, "-P", "-m", "enrollgate", "work"),
        worker_env=settings.to_env(),
        max_attempts=settings.max_attempts,
        run_timeout=settings.run_timeout,
        stop_grace=settings.stop_grace,
        backoff=Backoff(
            base=settings.retry_backoff, factor=2.0, cap=max(settings.retry_backoff, 600.0)
        ),
        memory_limit=settings.local_memory_limit,
        run_ttl=settings.run_ttl,
        on_change=on_change,
        clock=time.time,
    )


def build_kubernetes_launcher(
    settings: Settings,
    *,
    random: Random,
    stopped: threading.Event,
    progress: Callable[[], None] = lambda: None,
) -> KubernetesLauncher:
    """Build the launcher that creates Jobs in the cluster of this process.

    `stopped` ends the pauses between retries; `progress` is called after each request. Raises
    Misconfigured.
    """
    kubernetes = settings.kubernetes
    try:
        api, own_namespace = connect(
            random=random,
            sleep=stopped.wait,
            connections=kubernetes.create_concurrency + 4,
            on_error=lambda kind: metrics.API_ERRORS.labels(kind).inc(),
        )
        job_settings = build_job_settings(settings, kubernetes.namespace or own_namespace)
    except ClusterNotConfigured as error:
        raise NoCluster(str(error)) from error
    except ValueError as error:
        raise Misconfigured(str(error)) from error
    return KubernetesLauncher(
        api,
        job_settings,
        start_timeout=kubernetes.start_timeout,
        concurrency=kubernetes.create_concurrency,
        clock=utc_now,
        progress=progress,
        deployment=kubernetes.deployment,
    )


def build_job_settings(settings: Settings, namespace: str) -> JobSettings:
    """Build what all Jobs have in common. Raises ValueError if the template cannot be read."""
    template = settings.kubernetes.job_template
    return JobSettings(
        namespace=namespace,
        installation=settings.installation,
        worker=settings,
        kubernetes=settings.kubernetes,
        max_attempts=settings.max_attempts,
        run_timeout=settings.run_timeout,
        run_ttl=settings.run_ttl,
        template=read_template(template) if template else {},
    )


def lease_name(settings: Settings) -> str | None:
    """Return the Lease's name; None without leader election."""
    kubernetes = settings.kubernetes
    return (kubernetes.lease_name or settings.installation) if kubernetes.leader_election else None


def build_elector(settings: Settings, launcher: KubernetesLauncher) -> LeaderElector | None:
    """Build this replica's candidate for the Lease; None without leader election."""
    name = lease_name(settings)
    if name is None:
        return None
    return LeaderElector(
        launcher.api,
        namespace=launcher.namespace,
        name=name,
        identity=f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}",
        duration=settings.kubernetes.lease_duration,
        monotonic=time.monotonic,
        clock=utc_now,
    )


def boot_time() -> float:
    """Return the seconds since this machine started. Nobody sets that clock.

    It counts the time that the machine was suspended, too.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def utc_now() -> datetime:
    """Return the current time, with its time zone."""
    return datetime.now(UTC)
