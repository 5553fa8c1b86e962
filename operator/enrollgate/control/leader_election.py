"""Leader election by a Lease, so that one of several replicas works.

Correctness does not depend on it.

The rules are client-go's (k8s.io/client-go/tools/leaderelection). A holder renews. The others
measure by their *own* clock how long the record has not changed, and take it over once that exceeds
its duration. Every write carries the resourceVersion that was read, so that only one of two writes
succeeds. It is written here because the official client's election never retries a failed first
create, and neither awaits nor reports a leader's work that has died.

A Lease that existed and is gone is created again only after its duration: an uninstalled release
deletes its Lease, and a replica that has not been stopped yet must not leave one behind.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Literal

from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.kubernetes.api import Api, ApiError, Json

# Seconds between two attempts, at most, however long the Lease lasts; also the longest that one
# attempt may take.
LONGEST_INTERVAL = 30.0
_UNKNOWN = "somebody whose name cannot be read"
_GONE = "nobody (the Lease was deleted)"


class LeaderElectionForbidden(Exception):
    """The API server refuses access to the Lease, and would refuse again.

    The message has the remedy.
    """


@dataclass(frozen=True, slots=True)
class _LeaseRecord:
    """A Lease as it was last read.

    `metadata` is kept as it was read, labels of others included, because a write must not remove
    them; it is empty once the Lease is gone. `duration` is in seconds. The record has not changed
    since `since` (own clock, seconds).
    """

    holder: str
    metadata: Json
    transitions: int
    duration: float
    since: float


class LeaderElector:
    """One candidate for one Lease.

    `identity` is this replica's name in the Lease, `duration` the seconds after which others may
    take it over. `monotonic` measures time; `clock` is the time that others read.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration: float,
        monotonic: Callable[[], float],
        clock: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._duration = duration
        self._monotonic = monotonic
        self._clock = clock
        self._record: _LeaseRecord | None = None
        self._renewed_at: float | None = None
        self._acquired = ""
        # When the current attempt is abandoned.
        self._deadline = 0.0

    @property
    def interval(self) -> float:
        """Return the seconds between two attempts."""
        return min(self._duration / 5, LONGEST_INTERVAL)

    @property
    def holder(self) -> str:
        """Return who held the Lease when it was last read."""
        return self._record.holder if self._record else ""

    def is_held(self) -> bool:
        """Return whether this replica holds it for certain: no other can have it yet."""
        return self._seconds_left() > 0

    def _seconds_left(self) -> float:
        """Return for how many seconds it is still held for certain; 0 or less if it is not."""
        if self._renewed_at is None:
            return 0.0
        return self._renewed_at + self._duration * 2 / 3 - self._monotonic()

    def try_acquire_or_renew(self) -> bool:
        """Acquire or renew the Lease if that is allowed now. Return whether this replica holds it.

        While the API server is away, nothing changes: the Lease is held until its time is over. A
        request that hangs is abandoned by then (as with client-go's RenewDeadline), so that no two
        replicas work at the same time.

        Raises LeaderElectionForbidden.
        """
        started = self._monotonic()
        left = self._seconds_left() if self.is_held() else self._duration * 2 / 3
        self._deadline = started + min(LONGEST_INTERVAL, left)
        try:
            self._read(started)
            seen = self._record
            is_free = (
                seen is None
                or seen.holder in ("", self._identity)
                or started - seen.since > seen.duration
            )
            if is_free and self._write(started):
                self._renewed_at = started
            elif self.holder != self._identity:
                self._renewed_at = None
        except LauncherUnavailable:
            pass
        except ApiError as error:
            raise LeaderElectionForbidden(
                f"the Lease {self._name} is refused: {error}; "
                "grant the operator what the Role in the chart grants"
            ) from error
        return self.is_held()

    def release(self) -> None:
        """Release the Lease, so that another replica need not wait.

        Never raises: its time runs out anyway.
        """
        if self._renewed_at is None or self._record is None:
            return
        self._renewed_at = None
        self._deadline = self._monotonic() + self.interval
        body = self._build_lease("", self._record.transitions, self._record.metadata)
        try:
            self._request("PUT", f"{self._path}/{self._name}", body)
        except (ApiError, LauncherUnavailable):
            return

    def _read(self, now: float) -> None:
        """Read the Lease, and remember since when it has not changed."""
        try:
            raw = self._request("GET", f"{self._path}/{self._name}")
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            if self._record is not None and self._record.metadata:
                self._record = replace(self._record, holder=_GONE, metadata={}, since=now)
            return
        self._remember(raw, now)

    def _remember(self, raw: Json, now: float) -> None:
        """Remember the Lease, unless this version is known. Raises LauncherUnavailable."""
        metadata, spec = raw.get("metadata"), raw.get("spec") or {}
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if not (isinstance(metadata, dict) and isinstance(spec, dict) and isinstance(version, str)):
            raise LauncherUnavailable(f"what was read is not the Lease {self._name}")
        if self._record and self._record.metadata.get("resourceVersion") == version:
            return
        holder = spec.get("holderIdentity") or ""
        transitions, seconds = spec.get("leaseTransitions"), spec.get("leaseDurationSeconds")
        self._record = _LeaseRecord(
            # An odd holder is somebody else, until its time is over.
            holder=holder if isinstance(holder, str) else _UNKNOWN,
            metadata={name: value for name, value in metadata.items() if name != "managedFields"},
            transitions=transitions if isinstance(transitions, int) else 0,
            duration=seconds if isinstance(seconds, int) and seconds > 0 else self._duration,
            since=now,
        )

    def _write(self, now: float) -> bool:
        """Write this replica as the holder. Return False if another one was faster."""
        record = self._record
        try:
            if record is None or not record.metadata:
                body = self._build_lease(self._identity, 0, {"name": self._name})
                raw = self._request("POST", self._path, body)
            else:
                transitions = record.transitions + (record.holder != self._identity)
                body = self._build_lease(self._identity, transitions, record.metadata)
                raw = self._request("PUT", f"{self._path}/{self._name}", body)
        except ApiError as error:
            if error.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                return False
            raise
        self._remember(raw, now)
        return True

    def _request(
        self, method: Literal["GET", "POST", "PUT"], path: str, body: Json | None = None
    ) -> Json:
        left = self._deadline - self._monotonic()
        if left <= 0:
            raise LauncherUnavailable(f"no time is left to {method} the Lease {self._name}")
        return self._api.request(method, path, body=body, timeout=left)

    def _build_lease(self, holder: str, transitions: int, metadata: Json) -> Json:
        now = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if self.holder != self._identity:
            self._acquired = now
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": max(1, round(self._duration)),
                "leaseTransitions": transitions,
                "renewTime": now,
                "acquireTime": self._acquired or now,
            },
        }
