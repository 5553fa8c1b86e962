"""Decide which request fails, and how: scripted faults, or a random share of all requests."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any


@dataclass(frozen=True)
class Fault:
    """Describe what happens to one request. `kind` is one of:

    - status: answer with `status`, `reason`, `detail`, `message` and `headers`
    - cut: read half of the body, then reset the connection; of a chunk, whole 256 KiB are kept
    - stall: read half of the body, then do nothing until the client closes the connection
    - lost: do what is asked, then reset the connection instead of answering
    - truncated: send half of the answer
    - partial: keep half of a chunk and answer 308
    - nothing_kept: keep nothing of a chunk and answer 308
    - dropped: delete all that was kept of the upload and answer 308 without Range
    - corrupt: store a wrong MD5
    - page: answer 200 with a proxy's HTML page
    - raw: answer with `status`, `headers` and the text `body`, and do nothing
    - edit: do what is asked, and change the answer by `edit`
    - headers: do what is asked, and add or replace `headers`

    `detail` is the reason of the newer error format (google.rpc.ErrorInfo).
    """

    kind: str = "status"
    status: int = 503
    reason: str = "backendError"
    detail: str = ""
    message: str = "scripted"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | bytes = ""
    edit: Callable[[Any], Any] = lambda answer: answer

    def applies_to(self, operation: str) -> bool:
        """Say whether the fault changes the answer of this operation."""
        return operation == "chunk" or self.kind not in (
            "partial",
            "nothing_kept",
            "dropped",
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
    """Choose the fault of each request. Thread-safe.

    `share` is the part of the requests that fail by chance, from 0 to 1, drawn from `seed`. A test
    may change it at any time.
    Operations: generateIds, list, get, update, delete, create, session, chunk, probe, token.
    `happened` lists the faults so far, `requests` counts all requests.
    """

    def __init__(self, share: float = 0.0, seed: int = 1) -> None:
        self._random = Random(seed)
        self.share = share
        self._scripted: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._lock = threading.Lock()
        self.requests = 0
        self.happened: list[str] = []

    def script(self, operation: str, *faults: Fault) -> None:
        """Let the operation's next requests fail, one by one."""
        assert all(fault.applies_to(operation) for fault in faults), (
            "the operation ignores such a fault"
        )
        with self._lock:
            self._scripted.setdefault(operation, []).extend(faults)

    def always(self, operation: str, fault: Fault) -> None:
        """Let all of the operation's requests fail from now on."""
        assert fault.applies_to(operation), "the operation ignores such a fault"
        self._always[operation] = fault

    def next(self, operation: str) -> Fault | None:
        """Return the fault of the next request, or None."""
        with self._lock:
            self.requests += 1
            waiting = self._scripted.get(operation)
            found = waiting.pop(0) if waiting else self._always.get(operation)
            if found is None and operation != "token" and self._random.random() < self.share:
                found = self._random.choice(
                    [fault for fault in RANDOM if fault.applies_to(operation)]
                )
            if found is not None:
                self.happened.append(
                    f"{operation} {found.kind} {found.status if found.kind == 'status' else ''}"
                )
            return found
