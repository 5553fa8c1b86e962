"""The loop: a pass, then sleep until the interval is over or something wakes it.

Only `stop` ends it, and `reset` lets it work again.

A full pass is made at every interval, and at once when asked for without a name. Named runs that
have changed get a focused pass at once; for many at a time, one full pass is cheaper. A pass that
fails is aborted, logged once for each new cause, and tried again, in full, after a growing pause;
nothing is decided from what could not be read.

The reconciler confines the errors of single tasks. What still reaches the loop unforeseen aborts a
pass, too. Only if that happens in several passes in a row, the loop ends (`LoopFailed`).
"""

import threading
import time
from collections.abc import Callable, Collection
from random import Random

import structlog

from enrollgate.common.backoff import Backoff, delay
from enrollgate.common.redaction import redact
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

    Its methods may be called from any thread. `after_pass` is called after every pass with its
    summary, or with None if the pass was aborted.
    """

    def __init__(
        self,
        *,
        interval: float,
        backoff: Backoff,
        random: Random,
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
            self._full_pass_due = self._monotonic()
        self._stopped.clear()

    def run(self, reconcile: Callable[[Collection[str] | None], PassSummary]) -> None:
        """Repeat `reconcile` until stopped.

        Its argument is the names of the changed runs, or None for a full pass. Raises LoopFailed.
        """
        while not self._stopped.is_set():
            self._woken.clear()
            changed = self._take_changed()
            try:
                summary = reconcile(changed)
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
            self._after_pass(summary)
            with self._lock:
                if summary.more:
                    self._full_pass_due = self._monotonic()
                self._ending = summary.ending
                pause = max(0.0, self._full_pass_due - self._monotonic())
            if not self._stopped.is_set():
                self._woken.wait(min(pause, ENDING_INTERVAL) if summary.ending else pause)

    def _take_changed(self) -> frozenset[str] | None:
        """Return the runs that the next pass is about; None for a full pass."""
        with self._lock:
            changed = self._ending | self._changed
            self._changed.clear()
            self._ending = frozenset()
            now = self._monotonic()
            if changed and len(changed) <= FOCUS_LIMIT and now < self._full_pass_due:
                return changed
            self._full_pass_due = now + self._interval
            return None

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
        with self._lock:
            self._full_pass_due = self._monotonic()
        return pause
