"""A wire of a given speed, for the sites and stores that the tests talk to."""

import threading
import time

_CREDIT = 0.05
"""Seconds that a sleep that was too long may be made up for."""


class RateLimiter:
    """Makes all transfers together wait for their turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size: int, rate: float) -> None:
        """Until so many bytes have passed at `rate` bytes per second; 0: at once."""
        if not rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _CREDIT) + size / rate
            pause = self._free_at - now
        if pause > 0:
            time.sleep(pause)
