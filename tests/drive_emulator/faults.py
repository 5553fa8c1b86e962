"""What goes wrong, and when: one scripted fault after the other, or a share of all requests, drawn from a seed."""

import threading
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True)
class Fault:
    """One thing that happens to one request."""

    kind: str = "status"
    """status, cut (the request's body is read by half, then the connection is reset), lost (done, but the answer is lost),
    truncated (half an answer), partial (half of a chunk is kept, 308), nothing_kept (308 without Range), corrupt (a wrong MD5
    is stored)."""
    status: int = 503
    reason: str = "backendError"
    message: str = "scripted"
    headers: dict[str, str] = field(default_factory=dict)


RANDOM = (
    Fault(status=503),
    Fault(status=500),
    Fault(status=429, reason="rateLimitExceeded"),
    Fault(status=403, reason="userRateLimitExceeded"),
    Fault("cut"),
    Fault("lost"),
    Fault("truncated"),
    Fault("partial"),
    Fault("nothing_kept"),
)


class Faults:
    """The script. Operations: generateIds, list, get, delete, create, session, chunk, probe, token."""

    def __init__(self, share: float = 0.0, seed: int = 1) -> None:
        self._random = Random(seed)
        self._share = share
        self._scripted: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()
        self.happened: list[str] = []

    def script(self, operation: str, *faults: Fault) -> None:
        """The operation's next requests end so."""
        with self._lock:
            self._scripted.setdefault(operation, []).extend(faults)

    def next(self, operation: str) -> Fault | None:
        with self._lock:
            waiting = self._scripted.get(operation)
            found = waiting.pop(0) if waiting else None
            if found is None and operation != "token" and self._random.random() < self._share:
                found = self._random.choice(RANDOM)
            if found is not None:
                self.happened.append(f"{operation} {found.kind} {found.status if found.kind == 'status' else ''}")
            return found
