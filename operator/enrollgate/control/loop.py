"""The loop: a pass, then sleep until the interval is over or something wakes it. It ends only when it is told to.

A full pass is made every interval, and at once when asked for without a name. Named runs that have changed are looked at by a
focused pass at once; many at a time are cheaper to look at all together. A pass that fails is given up, logged once for each
new cause, and tried again, in full, after a growing pause; nothing is decided from what could not be read.
"""

import threading
import time
from collections.abc import Callable, Collection
from random import Random

import structlog

from enrollgate.common.backoff import Backoff, delay
from enrollgate.control.reconciler import PassSummary
from enrollgate.database import DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.launchers import LauncherUnavailable

_LOG = structlog.get_logger(__name__)
_TROUBLE = (DatabaseMisconfigured, DatabaseUnavailable, LauncherUnavailable)
ENDING_INTERVAL = 2.0
"""Seconds until another look at runs that are about to be gone."""
LONGEST_PAUSE = 90.0
"""Seconds of a launcher's wish to be left alone that are honoured: less than what makes the operator look dead."""
FOCUS_LIMIT = 200
"""Changed runs that are looked at one by one; more of them make a full pass."""


class Loop:
    """Repeats a pass every `interval` seconds, at once when woken, until stopped. Its methods may be called from any thread.

    `after_pass` is told of every pass: what it did, or None if it was given up.
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
        self._last_trouble = ""

    def wake(self, name: str | None = None) -> None:
        """Says that this run has changed, or that anything may have, and asks for a pass at once."""
        with self._lock:
            if name is None:
                self._full_pass_due = self._monotonic()
            else:
                self._changed.add(name)
        self._woken.set()

    def stop(self) -> None:
        """Ends the loop after the pass that is under way."""
        self._stopped.set()
        self._woken.set()

    def run(self, reconcile: Callable[[Collection[str] | None], PassSummary]) -> None:
        """Repeats `reconcile` until stopped: with the names of the changed runs, or with None for a full pass."""
        while not self._stopped.is_set():
            self._woken.clear()
            pause = self._pass(reconcile, self._take())
            if self._stopped.is_set():
                break
            if self._failures:
                self._stopped.wait(pause)
            else:
                self._woken.wait(pause)

    def _take(self) -> frozenset[str] | None:
        """What the next pass is to look at."""
        with self._lock:
            changed = self._ending | self._changed
            self._changed.clear()
            self._ending = frozenset()
            now = self._monotonic()
            if changed and len(changed) <= FOCUS_LIMIT and now < self._full_pass_due:
                return changed
            self._full_pass_due = now + self._interval
            return None

    def _pass(
        self,
        reconcile: Callable[[Collection[str] | None], PassSummary],
        changed: frozenset[str] | None,
    ) -> float:
        """One pass; gives the seconds to pause after it."""
        try:
            summary = reconcile(changed)
        except _TROUBLE as error:
            return self._note_failure(error)
        if self._failures:
            _LOG.info("passes succeed again", failed_passes=self._failures)
        self._failures, self._last_trouble = 0, ""
        self._after_pass(summary)
        with self._lock:
            if summary.more:
                self._full_pass_due = self._monotonic()
            self._ending = summary.ending
            pause = max(0.0, self._full_pass_due - self._monotonic())
            return min(pause, ENDING_INTERVAL) if summary.ending else pause

    def _note_failure(self, error: Exception) -> float:
        self._failures += 1
        pause = min(
            delay(self._failures, self._backoff, self._random),
            max(self._interval, self._backoff.base),
        )
        if isinstance(error, LauncherUnavailable) and error.retry_after > pause:
            pause = min(error.retry_after, LONGEST_PAUSE) * (
                1 + self._backoff.jitter * self._random.random()
            )
        trouble = f"{type(error).__name__}: {error}"
        log = _LOG.error if trouble != self._last_trouble else _LOG.debug
        log(
            "the pass was aborted and will be tried again",
            error=trouble,
            pause_seconds=round(pause, 1),
        )
        self._last_trouble = trouble
        self._after_pass(None)
        with self._lock:
            self._full_pass_due = self._monotonic()
        return pause
