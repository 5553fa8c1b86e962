"""The whole program, put together in one place: settings in, a running operator out.

settings ─▶ database ─┐
         ─▶ launcher ─┼─▶ reconciler ─▶ operation      (the launcher wakes it when a run ends)
         ─▶ policy ───┘
"""

import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

import structlog

from enrollgate.common.backoff import Backoff
from enrollgate.common.signals import handle_signals
from enrollgate.control.leader_election import Lease
from enrollgate.control.reconciler import PassSummary, Reconciler
from enrollgate.control.runner import LeaderElector, OperatorRunner
from enrollgate.database import Database, Tables, open_database
from enrollgate.domain.policy import Policy
from enrollgate.launchers import Launcher, LauncherRefused
from enrollgate.launchers.kubernetes import (
    ClusterNotConfigured,
    JobSettings,
    KubernetesLauncher,
    connect,
    read_template,
)
from enrollgate.launchers.local.launcher import LocalLauncher
from enrollgate.settings.operator import Settings
from enrollgate.telemetry.health import Health
from enrollgate.telemetry.http import serving

_LOG = structlog.get_logger(__name__)


class Misconfigured(Exception):
    """The operator cannot run like this; the message says what to mend."""


class NoCluster(Misconfigured):
    """This process belongs to no Kubernetes cluster, as far as it can see."""


def build_database(settings: Settings) -> Database:
    """The database that the settings name. Does not connect yet."""
    return open_database(
        settings.sqlalchemy_url(),
        tls_ca=settings.database.tls_ca,
        tls_verify_hostname=settings.database.tls_verify_hostname,
    )


def build_tables(settings: Settings) -> Tables:
    """The task table and its words as the settings name them."""
    return Tables.named(settings.task_columns(), settings.statuses())


def build_policy(settings: Settings) -> Policy:
    """The knobs that decisions depend on."""
    return Policy(
        enrollment_timeout=settings.enrollment_timeout,
        max_concurrent_runs=settings.max_concurrent_runs,
        max_lost_runs=settings.max_lost_runs,
        allowed_hosts=settings.allowed_hosts,
    )


def build_health(settings: Settings) -> Health:
    """Health that counts as dead what has not record_pass for six intervals, and for two minutes at least."""
    return Health(
        liveness_timeout=max(120.0, 6 * settings.check_interval), monotonic=time.monotonic
    )


def build_local_launcher(settings: Settings, on_change: Callable[[], None]) -> LocalLauncher:
    """The launcher that runs child processes on this machine."""
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
    """The launcher that creates Jobs in the cluster this process belongs to. Raises Misconfigured."""
    try:
        return _build_kubernetes_launcher(settings, random, stopped, progress)
    except ClusterNotConfigured as error:
        raise NoCluster(str(error)) from error
    except ValueError as error:
        raise Misconfigured(str(error)) from error


def _build_kubernetes_launcher(
    settings: Settings, random: Random, stopped: threading.Event, progress: Callable[[], None]
) -> KubernetesLauncher:
    kubernetes = settings.kubernetes
    api, own_namespace = connect(
        random=random, sleep=stopped.wait, connections=kubernetes.create_concurrency + 4
    )
    return KubernetesLauncher(
        api,
        build_job_settings(settings, kubernetes.namespace or own_namespace),
        start_timeout=kubernetes.start_timeout,
        concurrency=kubernetes.create_concurrency,
        clock=utc_now,
        progress=progress,
    )


def build_job_settings(settings: Settings, namespace: str) -> JobSettings:
    """What all Jobs have in common. Raises ValueError if the template cannot be read."""
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


def lease_name_of(settings: Settings) -> str | None:
    """The Lease's name; None without leader election."""
    return (
        (settings.kubernetes.lease_name or settings.installation)
        if settings.kubernetes.leader_election
        else None
    )


def build_elector(settings: Settings, launcher: KubernetesLauncher) -> Lease | None:
    """The Lease by which replicas take turns, if they do."""
    name = lease_name_of(settings)
    if name is None:
        return None
    return Lease(
        launcher.api,
        namespace=launcher.namespace,
        name=name,
        me=f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}",
        duration=settings.kubernetes.lease_duration,
        monotonic=time.monotonic,
        clock=utc_now,
    )


def build_runner(
    settings: Settings,
    *,
    database: Database,
    launcher: Callable[[], Launcher],
    health: Health,
    random: Random,
    elector: LeaderElector | None = None,
    after_pass: Callable[[PassSummary], None] = lambda _summary: None,
) -> OperatorRunner:
    """The work of an operator on these parts. `launcher` is asked for when the work begins: it may wake the operation."""
    tables = build_tables(settings)
    policy = build_policy(settings)
    return OperatorRunner(
        database=database,
        tables=tables,
        make_reconciler=lambda: Reconciler(
            database,
            tables,
            launcher(),
            policy,
            installation=settings.installation,
            progress=health.heartbeat,
        ),
        check_interval=settings.check_interval,
        health=health,
        random=random,
        elector=elector,
        after_pass=after_pass,
    )


def utc_now() -> datetime:
    """The present moment, with its time zone."""
    return datetime.now(UTC)


def run_operator(
    settings: Settings,
    *,
    install_signals: bool = True,
    after_pass: Callable[[PassSummary], None] = lambda _summary: None,
    ready: Callable[[OperatorRunner], None] = lambda _operation: None,
) -> None:
    """Runs the operator in local mode until it is told to stop. The runs go on without it and are adopted by the next one.

    Raises DatabaseMisconfigured if the database cannot carry a task through, Misconfigured if there is no place for the runs, and
    PortUnavailable if the HTTP port is taken. A database that is merely away is waited for.
    """
    random = Random()  # noqa: S311 -- spreads retries; nothing secret depends on it
    health = build_health(settings)
    database = build_database(settings)
    operation = build_runner(
        settings,
        database=database,
        launcher=lambda: launcher,
        health=health,
        random=random,
        after_pass=after_pass,
    )

    def stop(signal: str) -> None:
        _LOG.info("stopping after this pass", signal=signal)
        operation.stop()

    try:
        launcher = build_local_launcher(settings, on_change=operation.wake)
    except LauncherRefused as error:
        raise Misconfigured(str(error)) from error
    try:
        if install_signals:
            handle_signals(stop)
        ready(operation)
        with serving(settings.http_port, health):
            _LOG.info("operator started", launcher="local", installation=settings.installation)
            operation.run()
        _LOG.info("operator stopped; live runs go on and are adopted at the next start")
    finally:
        launcher.close()
        database.close()
