"""A limit on bytes per second, for the sites and stores that the tests talk to.

Each server calls `RateLimiter.wait` before it sends or reads bytes.
"""

import threading
import time

# A sleep may last too long. The next bytes make up for at most so many seconds of it.
_CREDIT = 0.05


class RateLimiter:
    """Limits the rate of all transfers together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size: int, rate: float) -> None:
        """Wait as long as `size` bytes take at `rate` bytes per second. A rate of 0 never waits."""
        if not rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _CREDIT) + size / rate
            pause = self._free_at - now
        if pause > 0:
            time.sleep(pause)
