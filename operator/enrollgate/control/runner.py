"""One working operator: prepare the database, wait for the lease, run the loop.

    prepare ─▶ [ wait for the lease ] ─▶ loop of passes ─▶ lease lost? wait again
                                              ▲
                loop.wake(name) ──────────────┘

It runs in one thread and is called from others. Without leader election it works all the time.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from random import Random

import structlog

from enrollgate.common.backoff import Backoff, delay
from enrollgate.control.housekeeping import Housekeeping
from enrollgate.control.leader_election import LeaderElectionForbidden, LeaderElector
from enrollgate.control.look_interval import LookInterval
from enrollgate.control.loop import Loop
from enrollgate.control.progress import ProgressReader
from enrollgate.control.reconciler import PassSummary, Reconciler
from enrollgate.database import Database, DatabaseUnavailable, Tables, migrate
from enrollgate.database.preflight import require_usable
from enrollgate.database.task_status import ensure_view
from enrollgate.launchers import Launcher
from enrollgate.telemetry import metrics
from enrollgate.telemetry.health import Health

_LOG = structlog.get_logger(__name__)
# The pauses while the database or the launcher is away.
RETRY_BACKOFF = Backoff(base=1.0, factor=2.0, cap=30.0)


class OperatorRunner:
    """The work of one operator process.

    `run` blocks; `stop` and the methods of `loop` may be called from any thread, also before it.
    While another replica works, waking the loop does nothing: our first pass is a full one.

    `launcher` returns the launcher whose runs' progress `progress` reads meanwhile.
    `build_reconciler` returns a fresh one each time this replica starts to work: nothing is
    remembered from before. `check_place` is called once the database is ready: what it raises,
    other than DatabaseUnavailable, ends the work.
    """

    def __init__(
        self,
        *,
        database: Database,
        tables: Tables,
        installation: str,
        build_reconciler: Callable[[], Reconciler],
        launcher: Callable[[], Launcher],
        housekeeping: Housekeeping,
        progress: ProgressReader,
        check_interval: float,
        look_interval: LookInterval,
        health: Health,
        random: Random,
        elector: LeaderElector | None = None,
        check_place: Callable[[], None] = lambda: None,
    ) -> None:
        self._check_place = check_place
        self._database = database
        self._tables = tables
        self._installation = installation
        self._build_reconciler = build_reconciler
        self._launcher = launcher
        self._progress = progress
        self._housekeeping = housekeeping
        self._pass_seconds = 0.0
        self._health = health
        self._random = random
        self._elector = elector
        self._stopped = threading.Event()
        self.loop = Loop(
            interval=check_interval,
            look_interval=look_interval,
            backoff=RETRY_BACKOFF,
            random=random,
            after_pass=self._record_pass,
        )

    def stop(self) -> None:
        """End the work after the current pass."""
        self._stopped.set()
        self.loop.stop()

    def run(self) -> None:
        """Work until stopped.

        Raises DatabaseMisconfigured, LeaderElectionForbidden, LoopFailed, and any unexpected error
        outside the passes: then the process must end.
        """
        if not self._prepare():
            return
        while True:
            # Before the lease is held: from then on, losing it may stop the loop at any moment.
            self.loop.reset()
            if self._stopped.is_set():
                return
            if self._elector is None:
                self._work()
            elif self._wait_for_lease(self._elector):
                with self._keep_lease(self._elector):
                    self._work()

    def _prepare(self) -> bool:
        """Wait for the database, migrate the embedded one, and check it.

        Return False if stopped meanwhile.
        """
        failures, logged = 0, ""
        while not self._stopped.is_set():
            self._health.record_pass(is_ready=False)
            try:
                if self._database.is_sqlite:
                    migrate(self._database)  # no deployment step migrates the embedded database
                for check in require_usable(self._database, self._tables):
                    _LOG.warning(check.detail, check=check.name, remedy=check.remedy)
                if problem := ensure_view(self._database, self._tables, self._installation):
                    _LOG.warning(problem.problem, check="task view", remedy=problem.remedy)
                self._check_place()
                return True
            except DatabaseUnavailable as error:
                failures += 1
                log = _LOG.warning if str(error) != logged else _LOG.debug
                log("waiting for the database", error=(logged := str(error)))
                self._stopped.wait(delay(failures, RETRY_BACKOFF, self._random))
        return False

    def _work(self) -> None:
        """Run the loop until it is stopped."""
        metrics.LEADING.set(1)
        try:
            reconciler = self._build_reconciler()
            with self._progress.followed(self._launcher()):
                self.loop.run(reconciler.reconcile, reconciler.look, reconciler.begin_full_pass)
        finally:
            metrics.LEADING.set(0)
            metrics.TASKS.clear()  # the next leader reports them, and they must not count twice
            metrics.COOKIES_EXPIRY.clear()
            metrics.show_holds(())
            for gauge in metrics.OF_THE_LEADER:
                gauge.set(0)

    def _record_pass(self, summary: PassSummary | None) -> None:
        """Update health and metrics after a pass; `summary` is None if it was aborted."""
        self._health.record_pass(is_ready=summary is not None)
        metrics.PASSES.labels("aborted" if summary is None else "completed").inc()
        if summary is not None:
            metrics.LAST_PASS.set(time.time())
            metrics.TASKS.labels("waiting").set(summary.waiting)
            metrics.TASKS.labels("enrolled").set(summary.enrolled)
            metrics.RUNS_UNFINISHED.set(summary.unfinished)
            self._progress.set_live(summary.unfinished)
            self._pass_seconds = summary.seconds or self._pass_seconds  # a look is no pass
            self._housekeeping.after_pass(self._pass_seconds)

    def _wait_for_lease(self, elector: LeaderElector) -> bool:
        """Wait until this replica holds the lease. Return False if stopped meanwhile."""
        logged = ""
        while not self._stopped.is_set():
            if elector.try_acquire_or_renew():
                _LOG.info("this replica holds the lease and works now")
                metrics.LEADER_CHANGES.labels("acquired").inc()
                return True
            self._health.record_pass(is_ready=True)
            if elector.holder != logged:
                logged = elector.holder
                _LOG.info("standing by", holder=logged)
            self._stopped.wait(elector.interval)
        return False

    @contextmanager
    def _keep_lease(self, elector: LeaderElector) -> Iterator[None]:
        """Renew the lease during the work, and end the work if it is lost.

        Raises an unexpected error of the renewal.
        """
        is_over = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="lease") as pool:
            renewal = pool.submit(self._renew, elector, is_over)
            try:
                yield
            finally:
                is_over.set()
                wait([renewal])
                elector.release()
            renewal.result()

    def _renew(self, elector: LeaderElector, is_over: threading.Event) -> None:
        try:
            while not is_over.wait(elector.interval):
                if not elector.try_acquire_or_renew():
                    metrics.LEADER_CHANGES.labels("lost").inc()
                    _LOG.warning(
                        "the lease is lost: another replica may work now", holder=elector.holder
                    )
                    break
        except LeaderElectionForbidden as error:
            # The next attempt to get it raises the same.
            _LOG.error("the lease is lost", error=str(error))
        finally:
            # However the renewal ended: nobody works without the lease.
            self.loop.stop()
