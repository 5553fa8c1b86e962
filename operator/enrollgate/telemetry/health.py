"""Is the operator alive, and is it ready? Told by the loop, asked by Kubernetes.

*Alive* means that it turns: a pass ended lately, well or not, or got on with its work, or (as a replica that waits for its turn)
a try at the lease ended. A database or an API server that is away does not make it dead: a restart would mend neither. *Ready*
means that its last pass went well, or that it stands by.
"""

import threading
from collections.abc import Callable


class Health:
    """`liveness_timeout` is the seconds without a turn after which it counts as dead; `monotonic` gives seconds."""

    def __init__(self, *, liveness_timeout: float, monotonic: Callable[[], float]) -> None:
        self.liveness_timeout = liveness_timeout
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._turned_at = monotonic()
        self._is_ready = False

    def record_pass(self, *, is_ready: bool) -> None:
        """A pass or a try at the lease has ended."""
        with self._lock:
            self._turned_at = self._monotonic()
            self._is_ready = is_ready

    def heartbeat(self) -> None:
        """A pass is under way, and has got on: a long one is not a dead one."""
        with self._lock:
            self._turned_at = self._monotonic()

    def is_alive(self) -> bool:
        """Whether it record_pass, or got on, lately."""
        with self._lock:
            return self._monotonic() - self._turned_at < self.liveness_timeout

    def is_ready(self) -> bool:
        """Whether the last turn went well."""
        with self._lock:
            return self._is_ready
