"""Whether the operator is alive and ready. The loop records it; Kubernetes asks for it.

*Alive* means that the loop works: lately a pass ended (successfully or not), a pass made progress,
or a replica tried to get the lease. While the database or the API server is away, the operator is
alive: a restart would not help. *Ready* means that the last pass succeeded, or that the replica
waits for the lease.
"""

import threading
from collections.abc import Callable


class Health:
    """The operator's health, for one writer and any number of readers.

    `liveness_timeout` is how many seconds may pass without a sign of life; `monotonic` returns
    seconds.
    """

    def __init__(self, *, liveness_timeout: float, monotonic: Callable[[], float]) -> None:
        self.liveness_timeout = liveness_timeout
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._last_sign_of_life = monotonic()
        self._is_ready = False

    def record_pass(self, *, is_ready: bool) -> None:
        """Record that a pass, or an attempt to get the lease, has ended."""
        with self._lock:
            self._last_sign_of_life = self._monotonic()
            self._is_ready = is_ready

    def heartbeat(self) -> None:
        """Record that a pass makes progress, so that a long pass does not look dead."""
        with self._lock:
            self._last_sign_of_life = self._monotonic()

    def is_alive(self) -> bool:
        """Return whether there was a sign of life within the liveness timeout."""
        with self._lock:
            return self._monotonic() - self._last_sign_of_life < self.liveness_timeout

    def is_ready(self) -> bool:
        """Return whether the last pass succeeded, or the replica waits for the lease."""
        with self._lock:
            return self._is_ready
