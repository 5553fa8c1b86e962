"""What goes wrong, and when: one scripted fault after the other, or a share of all requests, drawn from a seed."""

import threading
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True)
class Fault:
    """One thing that happens to one request."""

    kind: str = "status"
    """status, cut (the request's body is read by half, then the connection is reset; of a chunk, whole 256 KiB are kept), stall
    (it is read by half, then nothing more happens until the other side hangs up), lost (done, but the answer is lost), truncated
    (half an answer), partial (half of a chunk is kept, 308), nothing_kept (308, and nothing of the chunk is kept), forgotten
    (all that was kept is lost, 308 without Range), corrupt (a wrong MD5 is stored), page (200 with a proxy's HTML)."""
    status: int = 503
    reason: str = "backendError"
    detail: str = ""
    """The newer word beside the reason."""
    message: str = "scripted"
    headers: dict[str, str] = field(default_factory=dict)

    def applies_to(self, operation: str) -> bool:
        """Whether it is anything else than an ordinary answer there."""
        return operation == "chunk" or self.kind not in (
            "partial",
            "nothing_kept",
            "forgotten",
            "corrupt",
        )


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
    """The script. Operations: generateIds, list, get, update, delete, create, session, chunk, probe, token."""

    def __init__(self, share: float = 0.0, seed: int = 1) -> None:
        self._random = Random(seed)
        self._share = share
        self._scripted: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._lock = threading.Lock()
        self.requests = 0
        self.happened: list[str] = []

    def script(self, operation: str, *faults: Fault) -> None:
        """The operation's next requests end so."""
        assert all(fault.applies_to(operation) for fault in faults), (
            "such a fault would do nothing there"
        )
        with self._lock:
            self._scripted.setdefault(operation, []).extend(faults)

    def always(self, operation: str, fault: Fault) -> None:
        """All of the operation's requests end so, from now on."""
        assert fault.applies_to(operation), "such a fault would do nothing there"
        self._always[operation] = fault

    def next(self, operation: str) -> Fault | None:
        with self._lock:
            self.requests += 1
            waiting = self._scripted.get(operation)
            found = waiting.pop(0) if waiting else self._always.get(operation)
            if found is None and operation != "token" and self._random.random() < self._share:
                found = self._random.choice(
                    [fault for fault in RANDOM if fault.applies_to(operation)]
                )
            if found is not None:
                self.happened.append(
                    f"{operation} {found.kind} {found.status if found.kind == 'status' else ''}"
                )
            return found
