"""Is the operator alive, and is it ready? Told by the loop, asked by Kubernetes.

*Alive* means that it turns: a pass ended lately, well or not, or got on with its work, or (as a replica that waits for its turn)
a try at the lease ended. A database or an API server that is away does not make it dead: a restart would mend neither. *Ready*
means that its last pass went well, or that it stands by.
"""

import threading
from collections.abc import Callable


class Health:
    """`patience` is the seconds without a turn after which it counts as dead; `monotonic` gives seconds."""

    def __init__(self, *, patience: float, monotonic: Callable[[], float]) -> None:
        self.patience = patience
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._turned_at = monotonic()
        self._is_ready = False

    def turned(self, *, is_ready: bool) -> None:
        """A pass or a try at the lease has ended."""
        with self._lock:
            self._turned_at = self._monotonic()
            self._is_ready = is_ready

    def progressed(self) -> None:
        """A pass is under way, and has got on: a long one is not a dead one."""
        with self._lock:
            self._turned_at = self._monotonic()

    def is_alive(self) -> bool:
        """Whether it turned, or got on, lately."""
        with self._lock:
            return self._monotonic() - self._turned_at < self.patience

    def is_ready(self) -> bool:
        """Whether the last turn went well."""
        with self._lock:
            return self._is_ready
