"""An operator at work: prepare the database, wait for one's turn, run the loop, give the turn up; until told to stop.

    prepare ─▶ [ wait for the lease ] ─▶ loop of passes ─▶ lease lost? wait again
                                              ▲
                     wake(name) ──────────────┘

It runs in one thread and is told things from others. Without a lease, its turn is always.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from random import Random
from typing import Protocol

import structlog

from enrollgate.common.backoff import Backoff, delay
from enrollgate.control.loop import Loop
from enrollgate.control.reconciler import PassSummary, Reconciler
from enrollgate.database import Database, DatabaseUnavailable, Tables, migrate
from enrollgate.database.preflight import require_usable
from enrollgate.launchers import LeaderElectionForbidden
from enrollgate.telemetry import metrics
from enrollgate.telemetry.health import Health

_LOG = structlog.get_logger(__name__)
TROUBLE_BACKOFF = Backoff(base=1.0, factor=2.0, cap=30.0)
"""Seconds between attempts while the database or the launcher is away."""


class LeaderElector(Protocol):
    """What says whether it is this replica's turn."""

    @property
    def interval(self) -> float:
        """Seconds between two tries to hold it."""
        ...

    @property
    def holder(self) -> str:
        """Whose turn it was when it was last looked at."""
        ...

    def try_acquire_or_renew(self) -> bool:
        """Takes or keeps the turn; True if it is ours now. Raises LeaderElectionForbidden, and nothing for what may pass."""
        ...

    def release(self) -> None:
        """Gives it up. Never raises."""
        ...


class OperatorRunner:
    """One operator process's work. `run` blocks; `wake` and `stop` may be called from any thread, also before it.

    `make_reconciler` gives a fresh one for each turn: nothing is remembered over a time in which others worked.
    """

    def __init__(
        self,
        *,
        database: Database,
        tables: Tables,
        make_reconciler: Callable[[], Reconciler],
        check_interval: float,
        health: Health,
        random: Random,
        elector: LeaderElector | None = None,
        after_pass: Callable[[PassSummary], None] = lambda _summary: None,
    ) -> None:
        self._database = database
        self._tables = tables
        self._make_reconciler = make_reconciler
        self._check_interval = check_interval
        self._health = health
        self._random = random
        self._elector = elector
        self._after_pass = after_pass
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._loop: Loop | None = None

    def wake(self, name: str | None = None) -> None:
        """Passes on that a run has changed. What happens while it is not our turn is seen by our first pass."""
        with self._lock:
            if self._loop is not None:
                self._loop.wake(name)

    def stop(self) -> None:
        """Ends the work after the pass that is under way."""
        self._stopped.set()
        with self._lock:
            if self._loop is not None:
                self._loop.stop()

    def run(self) -> None:
        """Works until stopped. Raises DatabaseMisconfigured, LeaderElectionForbidden, and what nobody foresaw: then the process must end."""
        if not self._prepare():
            return
        while not self._stopped.is_set():
            if self._elector is None:
                self._work()
            elif self._wait_for(self._elector):
                with self._keeping(self._elector):
                    self._work()

    def _prepare(self) -> bool:
        """Waits for the database, migrates the embedded one, and insists on a table that will do. False if stopped meanwhile."""
        failures = 0
        while not self._stopped.is_set():
            self._health.record_pass(is_ready=False)
            try:
                if (
                    self._database.is_sqlite
                ):  # the embedded database has no deployment step that would migrate it
                    migrate(self._database)
                require_usable(self._database, self._tables)
                return True
            except DatabaseUnavailable as error:
                failures += 1
                _LOG.warning("waiting for the database", error=str(error))
                self._stopped.wait(delay(failures, TROUBLE_BACKOFF, self._random))
        return False

    def _work(self) -> None:
        loop = Loop(
            interval=self._check_interval,
            backoff=TROUBLE_BACKOFF,
            random=self._random,
            after_pass=self._note_pass,
        )
        with self._lock:
            self._loop = loop
        metrics.LEADING.set(1)
        try:
            if not self._stopped.is_set():
                loop.run(self._make_reconciler().reconcile)
        finally:
            metrics.LEADING.set(0)
            metrics.TASKS.clear()  # the next one tells them now, and they must not count twice
            metrics.RUNS_UNFINISHED.set(0)
            with self._lock:
                self._loop = None

    def _note_pass(self, summary: PassSummary | None) -> None:
        self._health.record_pass(is_ready=summary is not None)
        metrics.PASSES.labels("aborted" if summary is None else "completed").inc()
        if summary is not None:
            metrics.LAST_PASS.set(time.time())
            metrics.TASKS.labels("waiting").set(summary.waiting)
            metrics.TASKS.labels("enrolled").set(summary.enrolled)
            metrics.RUNS_UNFINISHED.set(summary.unfinished)
            self._after_pass(summary)

    # taking turns

    def _wait_for(self, elector: LeaderElector) -> bool:
        told = ""
        while not self._stopped.is_set():
            if elector.try_acquire_or_renew():
                _LOG.info("it is this replica's turn to work")
                return True
            self._health.record_pass(is_ready=True)
            if elector.holder != told:
                told = elector.holder
                _LOG.info("standing by", working=told)
            self._stopped.wait(elector.interval)
        return False

    @contextmanager
    def _keeping(self, elector: LeaderElector) -> Iterator[None]:
        """Keeps the turn while the work goes on, and ends the work if it is lost. Raises what nobody foresaw in keeping it."""
        is_over = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="lease") as pool:
            keeper = pool.submit(self._keep, elector, is_over)
            try:
                yield
            finally:
                is_over.set()
                wait([keeper])
                elector.release()
            keeper.result()

    def _keep(self, elector: LeaderElector, is_over: threading.Event) -> None:
        try:
            while not is_over.wait(elector.interval):
                if not elector.try_acquire_or_renew():
                    _LOG.warning(
                        "the lease is lost: another replica may work now", working=elector.holder
                    )
                    break
        except LeaderElectionForbidden as error:
            _LOG.error("the lease is lost", error=str(error))
        finally:  # however it ends, nobody works without a turn
            with self._lock:
                if self._loop is not None and not is_over.is_set():
                    self._loop.stop()
