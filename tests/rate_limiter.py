"""The time of transfers: a bandwidth for sites and stores, and a stop event that hardly waits."""

import threading
import time

# Seconds. A sleep that was too long shortens the next ones by at most this much.
_CREDIT = 0.05


class RateLimiter:
    """Limits the bandwidth of all transfers together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size: int, rate: float) -> None:
        """Wait until `size` bytes have passed at `rate` bytes per second (0: no limit)."""
        if not rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _CREDIT) + size / rate
            pause = self._free_at - now
        if pause > 0:
            time.sleep(pause)


class NoWaitEvent(threading.Event):
    """A stop event whose waits return after a millisecond at most.

    `longest` is the longest timeout (seconds) that was asked for. The waits of a bandwidth limit
    add up, so it is the time that all transfers together should take.
    """

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.longest = max(self.longest, timeout or 0)
        return super().wait(0 if timeout is None else min(timeout, 0.001))
