"""Kubernetes mode: kopf watches our Jobs and wakes the loop.

Both run in this process and end together.

    kopf (event loop)                        runner (a thread of its own)
      watch our batch/v1 Jobs                  lease -> passes: observe -> plan -> apply
        `job_watch` drops what needs no pass
        finished or gone? ── loop.wake(name) ─▶  a focused pass
      SIGTERM ── stop ──────────────────▶      ends after the current pass, releases the lease

The watch decides nothing: a pass asks the API server itself, and a full pass at every interval
finds what the watch missed. So a handler only passes on a name: that costs the same however many
Jobs there are, and nothing in it can fail. If either side ends without having been stopped, the
other is stopped and the process ends with an error; the Deployment restarts it.
"""

import asyncio
import gc
import logging
import signal
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import kopf
import structlog

from enrollgate.common.redaction import redact
from enrollgate.control.job_watch import JobWatchMiddleware, changed_runs
from enrollgate.control.leader_election import LeaderElectionForbidden
from enrollgate.control.loop import LoopFailed
from enrollgate.control.wiring import (
    Misconfigured,
    build_elector,
    build_health,
    build_kubernetes_launcher,
    build_random,
    build_runner,
    count_database_error,
)
from enrollgate.database import DatabaseMisconfigured
from enrollgate.database.configured import build_database
from enrollgate.launchers import LauncherUnavailable
from enrollgate.launchers.kubernetes import ApiError, ConnectionDetails, job_selector
from enrollgate.launchers.kubernetes.tls import find_certificate_error, without_strict
from enrollgate.settings.operator import Settings
from enrollgate.telemetry.http import serving

_LOG = structlog.get_logger(__name__)
# In full, so that no other resource called `jobs` is meant.
JOBS = ("batch", "v1", "jobs")
# A watch is opened again after so many seconds, in case it has silently stopped receiving.
_WATCH_SECONDS = 300
_NOTHING = kopf.BodyEssence()
# The errors of the loop whose message says what to fix.
_EXPLAINED = (DatabaseMisconfigured, LeaderElectionForbidden)


class ConnectionInfo(kopf.ConnectionInfo):
    """kopf's connection details, whose TLS context has no `VERIFY_X509_STRICT`."""

    def as_ssl_context(self) -> ssl.SSLContext:
        """Build the context as kopf does, then clear the flag."""
        return without_strict(super().as_ssl_context())


@dataclass(frozen=True, kw_only=True)
class _Session(kopf.AiohttpSession):
    """kopf's connection with a session of ours. Two are the same if their details are.

    So kopf notices that a login brings the credentials again that the API server has just refused.
    """

    details: ConnectionInfo
    aiohttp_session: aiohttp.ClientSession = field(compare=False)


class Crashed(Exception):
    """A part of the operator ended that should not have ended."""


def run_in_cluster(settings: Settings) -> None:
    """Run the operator in Kubernetes mode until SIGTERM.

    Raises Misconfigured, DatabaseMisconfigured, PortUnavailable, and Crashed if a part of it ended
    by itself.
    """
    # Every event of a Job creates hundreds of short-lived objects. With Python's defaults,
    # collecting them walks through all objects again and again: a third of the processor time in a
    # burst. https://docs.python.org/3/library/gc.html#gc.freeze
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    logging.getLogger("kopf").setLevel(
        logging.DEBUG if settings.log_level == "debug" else logging.WARNING
    )
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    random = build_random()
    stopped = threading.Event()
    health = build_health(settings)
    launcher = build_kubernetes_launcher(
        settings, random=random, stopped=stopped, progress=health.heartbeat
    )
    try:
        launcher.api.read_text("/version", query={})
    except (ApiError, LauncherUnavailable) as error:
        # kopf would log its tracebacks for a minute. It waits for a server that is away.
        if refused := find_certificate_error(error):
            server = launcher.connection_details().server
            raise Misconfigured(f"the Kubernetes API server at {server}: {refused}") from error
    database = build_database(settings, on_error=count_database_error)
    runner = build_runner(
        settings,
        database=database,
        launcher=lambda: launcher,
        health=health,
        random=random,
        elector=build_elector(settings, launcher),
    )

    def stop() -> None:
        runner.stop()
        stopped.set()

    try:
        with serving(settings.http_address, settings.http_port, health):
            _LOG.info(
                "operator started",
                launcher="kubernetes",
                installation=settings.installation,
                namespace=launcher.namespace,
            )
            watching = _watch(
                launcher.connection_details,
                launcher.namespace,
                settings.installation,
                runner.loop.wake,
            )
            await _run_both(watching, runner.run, stop)
        _LOG.info("operator stopped; live Jobs continue and are adopted at the next start")
    except (LeaderElectionForbidden, LoopFailed) as error:
        raise Crashed(str(error)) from error
    finally:
        launcher.close()
        database.close()


async def _run_both(
    watching: Callable[[asyncio.Event, asyncio.Event], Any],
    work: Callable[[], None],
    stop_work: Callable[[], None],
) -> None:
    """Run both sides until SIGTERM or SIGINT, or until one of them ends; then end the other."""
    ready, stopping = asyncio.Event(), asyncio.Event()

    async def wait_for_signals() -> None:
        await ready.wait()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await stopping.wait()
        _LOG.info("stopping after this pass")

    watcher = asyncio.create_task(watching(ready, stopping))
    worker = asyncio.create_task(asyncio.to_thread(work))
    signals = asyncio.create_task(wait_for_signals())
    await asyncio.wait({watcher, worker, signals}, return_when=asyncio.FIRST_COMPLETED)
    first = "the watch" if watcher.done() else "the loop" if worker.done() else ""
    # Until it is ready, kopf handles the signals itself, and then ends without an error.
    in_order = stopping.is_set() or (
        watcher.done() and not ready.is_set() and watcher.exception() is None
    )
    stopping.set()
    signals.cancel()
    stop_work()
    watch_end: object
    work_end: object
    watch_end, work_end = await asyncio.gather(watcher, worker, return_exceptions=True)
    if isinstance(work_end, BaseException):
        if not isinstance(work_end, _EXPLAINED):
            error = f"{type(work_end).__name__}: {redact(str(work_end), 300)}"
            _LOG.error(
                "the loop failed; the operator ends, and Kubernetes restarts it", error=error
            )
        raise work_end
    if isinstance(watch_end, BaseException):
        why = f"{type(watch_end).__name__}: {redact(str(watch_end), 300)}"
        remedy = "check that its service account may list and watch batch/v1 Jobs"
        if refused := find_certificate_error(watch_end):
            why, _, remedy = refused.partition(". ")
        elif isinstance(watch_end, aiohttp.ClientConnectionError | TimeoutError):
            remedy = "check that this pod reaches the API server"
        raise Crashed(
            f"the watch of Jobs failed: {why}; the operator ends, and Kubernetes restarts it; "
            f"{remedy}"
        ) from watch_end
    if not in_order:
        raise Crashed(f"{first} ended without having been stopped")


def _watch(
    connection: Callable[[], ConnectionDetails],
    namespace: str,
    installation: str,
    wake: Callable[[str | None], None],
) -> Callable[[asyncio.Event, asyncio.Event], Any]:
    """Return the coroutine by which kopf watches our Jobs and nothing else."""
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoDifferences()
    settings.persistence.progress_storage = _NoProgress()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.label_selectors[JOBS] = job_selector(installation)
    settings.watching.server_timeout = _WATCH_SECONDS
    settings.watching.client_timeout = _WATCH_SECONDS + 30
    settings.watching.connect_timeout = 10.0
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 60.0
    # The current pass may take its time; Kubernetes ends the process if it takes too long.
    settings.process.ultimate_exiting_timeout = None

    @kopf.on.login(registry=registry, id="login")
    async def login(**_: Any) -> _Session:
        details = connection()
        info = ConnectionInfo(
            server=details.server,
            ca_path=details.ca_path,
            insecure=details.insecure,
            scheme="Bearer" if details.token else None,
            token=details.token,
            certificate_path=details.certificate_path,
            private_key_path=details.private_key_path,
        )
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers=info.as_http_headers(),
            middlewares=[JobWatchMiddleware(listed=lambda: wake(None))],
        )
        return _Session(server=info.server, details=info, aiohttp_session=session)

    @kopf.on.event(*JOBS, registry=registry, id="note-change")
    async def note_change(event: Any, **_: Any) -> None:
        for name in changed_runs(event):
            wake(name)

    async def watching(ready: asyncio.Event, stopping: asyncio.Event) -> None:
        await kopf.operator(
            registry=registry,
            settings=settings,
            namespaces=[namespace],
            standalone=True,
            # By default kopf asks for the process's user name, which a numeric user does not have.
            # It serves peering, which is not used here.
            identity=installation,  # type: ignore[arg-type]  # kopf does not export its type
            ready_flag=ready,
            stop_flag=stopping,
        )

    return watching


class _NoDifferences(kopf.DiffBaseStorage):
    """Keep no last-handled state: nothing needs the difference.

    kopf would deep-copy every Job at every event to compute it.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return _NOTHING

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        """Write nothing to the Job."""


class _NoProgress(kopf.ProgressStorage):
    """Keep no progress of change handlers: there are none."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """Write nothing to the Job."""

    def purge(self, **_: Any) -> None:
        """Remove nothing."""

    def touch(self, **_: Any) -> None:
        """Touch nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence
