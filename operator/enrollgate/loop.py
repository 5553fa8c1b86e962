"""The loop: a pass, then sleep until the interval is over or something wakes it. It ends only when it is told to.

A pass that fails is given up, logged once for each new cause, and tried again after a growing pause; nothing is decided
from what could not be read.
"""

import threading
from collections.abc import Callable
from random import Random

import structlog

from enrollgate.database import DatabaseMisconfigured, DatabaseUnavailable
from enrollgate.domain.backoff import Backoff, delay
from enrollgate.launchers import LauncherUnavailable
from enrollgate.reconciler import PassSummary

_LOG = structlog.get_logger("enrollgate")
_TROUBLE = (DatabaseMisconfigured, DatabaseUnavailable, LauncherUnavailable)


class Loop:
    """Repeats a pass every `interval` seconds, at once when woken, until stopped. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        interval: float,
        backoff: Backoff,
        random: Random,
        after_pass: Callable[[PassSummary], None] = lambda _summary: None,
    ) -> None:
        self._interval = interval
        self._backoff = backoff
        self._random = random
        self._after_pass = after_pass
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._failures = 0
        self._last_trouble = ""

    def wake(self) -> None:
        """Asks for a pass at once: something has changed. Waking twice before the pass begins is waking once."""
        self._woken.set()

    def stop(self) -> None:
        """Ends the loop after the pass that is under way."""
        self._stopped.set()
        self._woken.set()

    def run(self, reconcile: Callable[[], PassSummary]) -> None:
        """Repeats `reconcile` until stopped."""
        while not self._stopped.is_set():
            self._woken.clear()
            pause = self._pass(reconcile)
            if self._stopped.is_set():
                break
            if self._failures:
                self._stopped.wait(pause)
            else:
                self._woken.wait(pause)

    def _pass(self, reconcile: Callable[[], PassSummary]) -> float:
        """One pass; gives the seconds to pause after it."""
        try:
            summary = reconcile()
        except _TROUBLE as error:
            self._failures += 1
            pause = min(delay(self._failures, self._backoff, self._random), max(self._interval, self._backoff.base))
            trouble = f"{type(error).__name__}: {error}"
            log = _LOG.error if trouble != self._last_trouble else _LOG.debug
            log("the pass was given up and will be tried again", error=trouble, pause_seconds=round(pause, 1))
            self._last_trouble = trouble
            return pause
        if self._failures:
            _LOG.info("passes succeed again", failed_passes=self._failures)
        self._failures, self._last_trouble = 0, ""
        self._after_pass(summary)
        return 0.0 if summary.more else self._interval
