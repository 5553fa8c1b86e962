"""The whole program, put together in one place: settings in, a running operator out.

settings ─▶ database ─┐
         ─▶ launcher ─┼─▶ reconciler ─▶ loop      (the launcher wakes the loop when a run ends)
         ─▶ policy ───┘
"""

import signal
import sys
import threading
import time
from collections.abc import Callable
from random import Random

import structlog

from enrollgate.database import Database, DatabaseUnavailable, Tables, migrate, open_database
from enrollgate.database.inspection import insist
from enrollgate.domain.backoff import Backoff, delay
from enrollgate.domain.policy import Policy
from enrollgate.launchers import Launcher
from enrollgate.launchers.local import LocalLauncher
from enrollgate.loop import Loop
from enrollgate.reconciler import PassSummary, Reconciler
from enrollgate.settings import Settings

_LOG = structlog.get_logger("enrollgate")
_TROUBLE_BACKOFF = Backoff(base=1.0, factor=2.0, cap=30.0)
"""Seconds between attempts while the database or the launcher is away."""


def database_of(settings: Settings) -> Database:
    """The database that the settings name. Does not connect yet."""
    return open_database(
        settings.sqlalchemy_url(),
        tls_ca=settings.database.tls_ca,
        tls_verify_hostname=settings.database.tls_verify_hostname,
    )


def tables_of(settings: Settings) -> Tables:
    """The task table and its words as the settings name them."""
    return Tables.named(settings.task_columns(), settings.status_words())


def policy_of(settings: Settings) -> Policy:
    """The knobs that decisions depend on."""
    return Policy(
        enrollment_timeout=settings.enrollment_timeout,
        max_concurrent_runs=settings.max_concurrent_runs,
        max_lost_runs=settings.max_lost_runs,
        allowed_hosts=settings.allowed_hosts,
    )


def local_launcher_of(settings: Settings, on_change: Callable[[], None]) -> LocalLauncher:
    """The launcher that runs child processes on this machine."""
    return LocalLauncher(
        settings.work_dir,
        worker_argv=(sys.executable, "-P", "-m", "enrollgate", "work"),
        worker_env=settings.worker_environment(),
        max_tries=settings.max_attempts,
        run_timeout=settings.run_timeout,
        stop_grace=settings.stop_grace,
        backoff=Backoff(base=settings.retry_backoff, factor=2.0, cap=max(settings.retry_backoff, 600.0)),
        run_ttl=settings.run_ttl,
        on_change=on_change,
        clock=time.time,
    )


def run_operator(
    settings: Settings,
    *,
    install_signals: bool = True,
    after_pass: Callable[[PassSummary], None] = lambda _summary: None,
    ready: Callable[[Loop], None] = lambda _loop: None,
) -> None:
    """Runs the operator in local mode until it is told to stop. The runs go on without it and are adopted by the next one.

    Raises DatabaseMisconfigured if the database cannot carry a task through. A database that is merely away is waited for.
    """
    random = Random()  # noqa: S311 -- spreads retries; nothing secret depends on it
    database = database_of(settings)
    tables = tables_of(settings)
    loop = Loop(interval=settings.check_interval, backoff=_TROUBLE_BACKOFF, random=random, after_pass=after_pass)
    stopped = threading.Event()
    launcher: Launcher = local_launcher_of(settings, on_change=loop.wake)
    reconciler = Reconciler(database, tables, launcher, policy_of(settings), installation=settings.installation)
    try:
        if install_signals:
            _stop_on_signals(loop, stopped)
        ready(loop)
        if _prepare(database, tables, random, stopped):
            _LOG.info("operator started", launcher="local", installation=settings.installation)
            loop.run(reconciler.reconcile)
        _LOG.info("operator stopped; live runs go on and are adopted at the next start")
    finally:
        launcher.close()
        database.close()


def _prepare(database: Database, tables: Tables, random: Random, stopped: threading.Event) -> bool:
    """Waits for the database, migrates the embedded one, and insists on a table that will do. False if stopped meanwhile."""
    failures = 0
    while not stopped.is_set():
        try:
            if database.is_sqlite:  # the embedded database has no deployment step that would migrate it
                migrate(database)
            insist(database, tables)
            return True
        except DatabaseUnavailable as error:
            failures += 1
            _LOG.warning("waiting for the database", error=str(error))
            stopped.wait(delay(failures, _TROUBLE_BACKOFF, random))
    return False


def _stop_on_signals(loop: Loop, stopped: threading.Event) -> None:
    def stop(number: int, _frame: object) -> None:
        _LOG.info("stopping after this pass", signal=signal.Signals(number).name)
        stopped.set()
        loop.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
