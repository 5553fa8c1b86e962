"""Limit the bytes per second of one direction, for all of its transfers together.

The pipeline reports bytes here after it has moved them; the call returns when the next bytes may
move.
"""

import threading
from collections.abc import Callable


class Bandwidth:
    """A token bucket that may go into debt: the wait comes after the bytes have moved.

    Safe for several threads.

    `rate` is in bytes per second; None: no limit. `monotonic` gives seconds. `sleep` waits that
    many seconds.
    """

    def __init__(
        self, rate: int | None, *, monotonic: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self._rate = rate
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        # The time at which all bytes so far would have moved at this rate.
        self._paid_until = monotonic()

    def spend(self, size: int) -> None:
        """Wait as long as the rate asks for, after `size` bytes have moved."""
        if self._rate is None or size <= 0:
            return
        with self._lock:
            now = self._monotonic()
            self._paid_until = max(self._paid_until, now) + size / self._rate
            pause = self._paid_until - now
        self._sleep(pause)


class Meter:
    """Spends a bandwidth by the running count of one transfer.

    `start` is the count at which this transfer begins, in bytes: what an earlier attempt moved
    costs nothing.
    """

    def __init__(self, bandwidth: Bandwidth, start: int = 0) -> None:
        self._bandwidth = bandwidth
        self._last = start

    def __call__(self, current: int) -> None:
        """Spend what has moved since the last call. `current` bytes have moved so far."""
        moved, self._last = current - self._last, current
        self._bandwidth.spend(moved)
