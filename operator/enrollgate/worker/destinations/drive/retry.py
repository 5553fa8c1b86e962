"""Trying again, in one place: what may pass by itself is asked again after a growing pause, everything else is a Failure."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from enrollgate.common.backoff import Backoff, delay
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.destinations.drive.errors import (
    ASKED_TO_WAIT,
    Answer,
    answer_of,
    classify,
    failure_by,
    failure_of,
)

T = TypeVar("T")
TRIES = 10
"""How often one request is sent without any progress, at most."""
FEW_TRIES = 3
"""The same, for what is not worth waiting for."""
LONGEST_PAUSE = 300.0
"""Seconds. Who asks for more (Retry-After) is answered by the run's next try."""
PAUSES = Backoff(base=1.0, factor=2.0, cap=64.0, jitter=0.5)

Sleep = Callable[[float, threading.Event], None]
"""Waits so many seconds, or until the event is set."""


def wait(seconds: float, stop: threading.Event) -> None:
    """The real `Sleep`."""
    stop.wait(seconds)


def stopped() -> Failure:
    """What a delivery ends in that is asked to stop."""
    return Failure(Reason.STOPPED, "asked to stop; the upload goes on with the next try")


@dataclass
class RetryPolicy:
    """How failing requests are repeated. Safe for several threads."""

    random: Random
    sleep: Sleep = wait
    tries: int = TRIES
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, request: Callable[[], T], stop: threading.Event) -> T:
        """The request's result. Raises Failure; what no request may meet passes through."""
        failures = 0
        while True:
            if stop.is_set():
                raise stopped()
            try:
                return request()
            except Exception as error:
                answer = answer_of(error)
                if answer is None:
                    raise
                failures += 1
                self.pause(answer, failures, stop)

    def shorter(self) -> "RetryPolicy":
        """One that soon gives up."""
        return RetryPolicy(self.random, self.sleep, FEW_TRIES, self._lock)

    def pause(self, answer: Answer, failures: int, stop: threading.Event) -> None:
        """Waits as long as this many failures in a row deserve. Raises Failure if it is not to be tried again."""
        asked = answer.retry_after or 0.0
        retried = classify(answer).retried
        if retried and asked > LONGEST_PAUSE:
            raise failure_by(ASKED_TO_WAIT, asked) from None
        if not retried or failures >= self.tries:
            raise failure_of(answer) from None  # the exception's text may carry a session's URI
        with self._lock:
            ours = delay(failures, PAUSES, self.random)
        self.sleep(max(asked, ours), stop)
        if stop.is_set():
            raise stopped()
