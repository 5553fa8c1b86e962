"""A limit on bytes per second, shared by all threads of one direction."""

import threading
from collections.abc import Callable


class Bandwidth:
    """A token bucket that may go into debt: what was moved is paid for afterwards, by waiting.

    `rate` in bytes per second, None: no limit. `monotonic` gives seconds; `sleep` waits so many.
    """

    def __init__(
        self, rate: int | None, *, monotonic: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self._rate = rate
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._paid_until = monotonic()
        """When all that was moved so far will have been moved at the rate."""

    def spend(self, size: int) -> None:
        """So many bytes were moved: returns when the next may be."""
        if self._rate is None or size <= 0:
            return
        with self._lock:
            now = self._monotonic()
            self._paid_until = max(self._paid_until, now) + size / self._rate
            pause = self._paid_until - now
        self._sleep(pause)


class Meter:
    """Turns the running count of one transfer into what was moved since it was last told.

    `start` is the count at which the transfer begins, in bytes: what an earlier try has moved costs nothing.
    """

    def __init__(self, bandwidth: Bandwidth, start: int = 0) -> None:
        self._bandwidth = bandwidth
        self._last = start

    def __call__(self, current: int) -> None:
        """`current` bytes have been moved so far."""
        moved, self._last = current - self._last, current
        self._bandwidth.spend(moved)
