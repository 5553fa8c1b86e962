"""Repeat requests to Drive, in one place: what may pass by itself is tried again after a pause.

In comes a request as a function, out goes its result or a `Failure`. Built on tenacity. The stop
event ends pauses at once, and no request starts after it is set.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import TypeVar

import tenacity

from enrollgate.common.backoff import Backoff, delay
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.destinations.drive.errors import (
    REQUEST_ERRORS,
    WAIT_TOO_LONG,
    FailedRequest,
    classify,
)

T = TypeVar("T")
# How often one request is sent without progress, at most.
MAX_ATTEMPTS = 10
# The same for requests that are not worth a long wait.
FEW_ATTEMPTS = 3
# Seconds. If Drive asks for more (Retry-After), the run's next attempt waits instead.
LONGEST_PAUSE = 300.0
PAUSES = Backoff(base=1.0, factor=2.0, cap=64.0, jitter=0.5)


class _Retryable(Exception):
    """Carry a failed request that is worth another attempt."""

    def __init__(self, failed: FailedRequest) -> None:
        super().__init__()
        self.failed = failed


class RetryPolicy:
    """Decide how often and after which pauses a failed request is repeated. Thread-safe.

    `stop` ends everything. `random` gives the jitter. `sleep` waits so many seconds; the default
    also returns once `stop` is set. `max_attempts` counts sends of one request without progress.
    `clock` gives the time in UTC, to notice a wrong clock.
    """

    def __init__(
        self,
        stop: threading.Event,
        *,
        random: Random | None = None,
        sleep: Callable[[float], None] | None = None,
        max_attempts: int = MAX_ATTEMPTS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.stop = stop
        self.max_attempts = max_attempts
        self._random = random or Random()  # noqa: S311 -- jitter, not a secret
        self._sleep = sleep or tenacity.sleep_using_event(stop)
        self._clock = clock
        self._lock = threading.Lock()

    def with_few_attempts(self) -> "RetryPolicy":
        """Return a policy that gives up soon, with the same stop event and pauses."""
        return RetryPolicy(
            self.stop,
            random=self._random,
            sleep=self._sleep,
            max_attempts=FEW_ATTEMPTS,
            clock=self._clock,
        )

    def raise_if_stopped(self) -> None:
        """Raise Failure (Stopped) once the stop event is set."""
        if self.stop.is_set():
            raise Failure(
                Reason.STOPPED, "stopped on request; the next attempt continues the upload"
            )

    def pause(self, attempt: int) -> None:
        """Wait as long as after the failed attempt of this number, from 1."""
        with self._lock:
            seconds = delay(attempt, PAUSES, self._random)
        self._sleep(seconds)

    def call(self, request: Callable[[], T]) -> T:
        """Send the request, again and again if needed, and return its result.

        Raises Failure: Stopped, or what the last error means. Exceptions that are no request errors
        pass through.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Retryable),
            wait=self._pause,
            sleep=self._sleep,
            stop=tenacity.stop_after_attempt(self.max_attempts)
            | tenacity.stop_when_event_set(self.stop),
            reraise=True,
        )
        try:
            result: T = retrying(self._attempt, request)
        except _Retryable as last:
            failed = last.failed
        else:
            return result
        self.raise_if_stopped()
        raise failed.failure()

    def _attempt(self, request: Callable[[], T]) -> T:
        """Send the request once. Raises _Retryable if another attempt may help, else Failure."""
        self.raise_if_stopped()
        try:
            return request()
        except REQUEST_ERRORS as error:
            failed = classify(error, self._clock())
        # Not in the handler, so not chained: the exception's text may carry a session's URI.
        if not failed.rule.retried:
            raise failed.failure()
        if (failed.retry_after or 0.0) > LONGEST_PAUSE:
            raise WAIT_TOO_LONG.failure(retry_after=failed.retry_after)
        raise _Retryable(failed)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Return the seconds before the next attempt: Drive's or ours, whichever is longer."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.failed.retry_after if isinstance(error, _Retryable) else None
        with self._lock:
            ours = delay(state.attempt_number, PAUSES, self._random)
        return max(asked or 0.0, ours)
