"""The loop: a pass, then sleep until the interval is over or something wakes it.

Only `stop` ends it, and `reset` lets it work again.

A full pass is made at every interval, and at once when asked for without a name. What it begins
with is read in another thread, since that takes long on a large table: everything else goes on
meanwhile. Named runs that have changed get a focused pass at once; for many at a time, one full
pass is cheaper. Between them, while a slot is free, the gate is looked at, as often as its pace
allows. A pass that fails is aborted, logged once for each new cause, and tried again, in full,
after a growing pause; nothing is decided from what could not be read.

The reconciler confines the errors of single tasks. What still reaches the loop unforeseen aborts a
pass, too. Only if that happens in several passes in a row, the loop ends (`LoopFailed`).
"""

import math
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random

import structlog

from enrollgate.common.backoff import Backoff, delay
from enrollgate.common.redaction import redact
from enrollgate.control.look_interval import LookInterval
from enrollgate.control.reconciler import PassSummary
from enrollgate.database import DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.launchers import LauncherUnavailable
from enrollgate.telemetry import metrics

_LOG = structlog.get_logger(__name__)
_EXPECTED = (DatabaseMisconfigured, DatabaseUnavailable, LauncherUnavailable)
# Seconds until runs that are about to end are observed again.
ENDING_INTERVAL = 2.0
# Seconds of a launcher's `retry_after` that are respected, at most: less than the liveness timeout.
LONGEST_PAUSE = 90.0
# Changed runs that a focused pass looks at, at most; more of them make a full pass.
FOCUS_LIMIT = 200
# Passes in a row that may fail with an unforeseen error before the loop ends.
UNFORESEEN_LIMIT = 5


class LoopFailed(Exception):
    """The passes fail again and again with an error that nobody foresaw; the process must end."""


class Loop:
    """Repeats a pass every `interval` seconds, and at once when woken, until stopped.

    Its methods may be called from any thread. `look_interval` says how often to look at the gate.
    `after_pass` is called after every pass with its summary, or with None if the pass was aborted;
    after a look, only if it has claimed something.
    """

    def __init__(
        self,
        *,
        interval: float,
        backoff: Backoff,
        random: Random,
        look_interval: LookInterval | None = None,
        after_pass: Callable[[PassSummary | None], None] = lambda _summary: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = interval
        self._backoff = backoff
        self._random = random
        self._after_pass = after_pass
        self._monotonic = monotonic
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._changed = set[str]()
        self._ending = frozenset[str]()
        self._full_pass_due = monotonic()
        # The full pass that has begun: it gives the rest of it, once it has read what it needs.
        self._begun: Future[Callable[[], PassSummary]] | None = None
        # When to observe the ending runs again, and when to look at the gate; not before a pass.
        self._ending_due = self._look_due = math.inf
        self._look_interval = look_interval or LookInterval(interval=interval, share=1.0)
        self._has_looked = False
        self._failures = 0
        self._unforeseen = 0
        self._last_error = ""

    def wake(self, name: str | None = None) -> None:
        """Ask for a pass at once: this run has changed, or (None) anything may have."""
        with self._lock:
            if name is None:
                self._full_pass_due = self._monotonic()
            elif len(self._changed) <= FOCUS_LIMIT:  # else the next pass is a full one anyway
                self._changed.add(name)
        self._woken.set()

    def stop(self) -> None:
        """End the loop after the current pass."""
        self._stopped.set()
        self._woken.set()

    @property
    def is_stopping(self) -> bool:
        """Return whether the loop ends after the current pass."""
        return self._stopped.is_set()

    @property
    def is_woken(self) -> bool:
        """Return whether another pass is due at once, since something has changed."""
        return self._woken.is_set()

    def reset(self) -> None:
        """Undo `stop`, so that `run` can work again. Its first pass is a full one."""
        with self._lock:
            self._full_pass_due, self._look_due = self._monotonic(), math.inf
        self._stopped.clear()

    def run(
        self,
        reconcile: Callable[[Collection[str] | None], PassSummary],
        look: Callable[[], PassSummary] | None = None,
        begin_full_pass: Callable[[], Callable[[], PassSummary]] | None = None,
    ) -> None:
        """Repeat `reconcile` and `look` until stopped.

        The argument of `reconcile` is the names of the changed runs, or None for a full pass.
        `begin_full_pass` is called in a thread of its own, and returns the rest of a full pass.
        Without it, all of a full pass is made in this thread. Raises LoopFailed.
        """
        self._begun = None
        pool = ThreadPoolExecutor(1, thread_name_prefix="full-pass")
        try:
            while not self._stopped.is_set():
                self._woken.clear()
                is_look = look is not None and self._is_look_next()
                changed: frozenset[str] | None = frozenset()
                if not is_look:
                    changed = self._take_changed(begins=begin_full_pass is not None)
                try:
                    if look is not None and is_look:
                        summary = look()
                    elif changed is None and self._begun is not None:
                        begun, self._begun = self._begun, None
                        summary = begun.result()()
                    elif changed is None and begin_full_pass is not None:
                        self._begun = pool.submit(begin_full_pass)
                        self._begun.add_done_callback(lambda _: self._woken.set())
                        continue
                    elif changed is None or changed:
                        summary = reconcile(changed)
                    else:
                        self._sleep(looks=look is not None)
                        continue
                    if not is_look or summary.launched or summary.finished:
                        self._after_pass(summary)
                except _EXPECTED as error:
                    self._unforeseen = 0
                    self._stopped.wait(self._record_failure(error))
                    continue
                except Exception as error:  # noqa: BLE001 -- one such error must not stop all tasks
                    self._record_unforeseen(error)
                    self._stopped.wait(self._record_failure(error))
                    continue
                if self._failures:
                    _LOG.info("passes succeed again", failed_passes=self._failures)
                self._failures, self._unforeseen, self._last_error = 0, 0, ""
                self._schedule(summary, is_look=is_look)
        finally:
            pool.shutdown(cancel_futures=True)

    def _schedule(self, summary: PassSummary, *, is_look: bool) -> None:
        """Decide when the next passes and looks are due, after one with this summary."""
        with self._lock:
            now = self._monotonic()
            self._has_looked = is_look
            if is_look:
                self._look_interval.record(summary.cost)
            else:
                self._ending = self._ending | summary.ending
                self._ending_due = now + ENDING_INTERVAL if self._ending else math.inf
                if summary.more:
                    self._full_pass_due = now
            was_full = self._look_due == math.inf
            if summary.free <= 0:
                self._look_due = math.inf
            elif summary.more if is_look else summary.finished and was_full:
                self._look_due = now  # more rows are ready, or a slot may be free for one
            elif is_look:
                self._look_due = now + self._look_interval.pause
            else:
                self._look_due = min(self._look_due, now + self._look_interval.pause)

    def _is_look_next(self) -> bool:
        """Return whether to look at the gate now: it takes turns with the passes that are due."""
        with self._lock:
            now = self._monotonic()
            is_pass_due = self._changed or now >= min(self._pass_due, self._ending_due)
            return now >= self._look_due and not (is_pass_due and self._has_looked)

    def _sleep(self, *, looks: bool) -> None:
        """Sleep until something is due, or until woken."""
        with self._lock:
            due = min(self._pass_due, self._ending_due)
            if looks:
                due = min(due, self._look_due)
            pause = due - self._monotonic()
        if not self._stopped.is_set() and pause > 0:
            self._woken.wait(None if pause == math.inf else pause)

    @property
    def _pass_due(self) -> float:
        """Return when to begin a full pass; or when to go on with it: as soon as it has read."""
        if self._begun is None:
            return self._full_pass_due
        return -math.inf if self._begun.done() else math.inf

    def _take_changed(self, *, begins: bool) -> frozenset[str] | None:
        """Return the runs that the next pass is about, none for no pass; None for a full pass: to
        begin it, if that takes a step of its own, or to go on with it.
        """
        with self._lock:
            now = self._monotonic()
            changed = frozenset(self._changed)
            is_full = now >= self._pass_due
            if self._begun is None and (is_full or len(changed) > FOCUS_LIMIT):
                self._full_pass_due = now + self._interval
                if begins:  # what has changed need not wait until that is read
                    return None
                is_full = True
            if changed or is_full or now >= self._ending_due:
                changed |= self._ending
                self._ending, self._ending_due = frozenset(), math.inf
            self._changed.clear()
            if is_full:
                return None
            # The full pass that has begun observes all runs, once it goes on.
            return changed if len(changed) <= FOCUS_LIMIT else frozenset()

    def _record_unforeseen(self, error: Exception) -> None:
        """Log and count an unforeseen error, now being handled. Raises LoopFailed in the end."""
        metrics.UNEXPECTED_ERRORS.inc()
        self._unforeseen += 1
        _LOG.error(
            "an unexpected error in a pass. Please report it, with this traceback",
            error=type(error).__name__,
            exc_info=error,
        )
        if self._unforeseen >= UNFORESEEN_LIMIT:
            raise LoopFailed(
                f"{self._unforeseen} passes in a row failed with an unexpected error, at last "
                f"{type(error).__name__}: {redact(str(error), 300)}; report it, with the traceback "
                "in the log"
            ) from error

    def _record_failure(self, error: Exception) -> float:
        """Log an aborted pass, once for each new cause. Return the seconds to pause after it."""
        self._failures += 1
        kind = type(error).__name__ if isinstance(error, _EXPECTED) else "unexpected"
        metrics.PASS_ERRORS.labels(kind).inc()
        pause = min(
            delay(self._failures, self._backoff, self._random),
            max(self._interval, self._backoff.base),
        )
        if isinstance(error, LauncherUnavailable) and error.retry_after > pause:
            pause = min(error.retry_after, LONGEST_PAUSE) * (
                1 + self._backoff.jitter * self._random.random()
            )
        cause = f"{type(error).__name__}: {redact(str(error))}"
        log = _LOG.error if cause != self._last_error else _LOG.debug
        log(
            "the pass was aborted and will be tried again",
            error=cause,
            pause_seconds=round(pause, 1),
        )
        self._last_error = cause
        self._after_pass(None)
        self._begun = None  # what it has read may be old after the pause
        with self._lock:
            self._full_pass_due, self._look_due = self._monotonic(), math.inf
        return pause
