"""Leader election by a Lease, so that of several replicas one does the work. Correctness does not rest on it.

The rules are client-go's (k8s.io/client-go/tools/leaderelection): a holder renews; others measure by their *own* clock how long
the record has stood unchanged, and take it over once that exceeds its duration; every write carries the resourceVersion it has
read, so that of two only one succeeds. Written here because the official client's election never retries a failed first create,
and neither awaits nor reports a leading task that has died.

A Lease that was there and is gone is made anew only after its duration: an uninstalled release takes its Lease with it, and a
replica that has not yet been told to stop must not leave one behind.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Literal

from enrollgate.launchers.base import LauncherUnavailable, LeaderElectionForbidden
from enrollgate.launchers.kubernetes.api import Api, ApiError, Json


@dataclass(frozen=True, slots=True)
class Seen:
    """A Lease as it was last read, and since when (own clock, seconds) it has read so."""

    holder: str
    metadata: Json
    """As it was read, the labels of others included: a write must not take them away. Empty once the Lease is gone."""
    transitions: int
    duration: float
    since: float


LONGEST_INTERVAL = 30.0
"""Seconds between two attempts, at most, however long the Lease lasts; and what one run_number may take, at most."""
_GONE = "nobody (the Lease was deleted)"


def may_take(seen: Seen | None, me: str, now: float) -> bool:
    """Whether the Lease is mine, nobody's, or its holder's time is over."""
    return seen is None or seen.holder in ("", me) or now - seen.since > seen.duration


class Lease:
    """One candidate for one Lease. `duration` in seconds; `monotonic` measures, `clock` is what others read."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        me: str,
        duration: float,
        monotonic: Callable[[], float],
        clock: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._me = me
        self._duration = duration
        self._monotonic = monotonic
        self._clock = clock
        self._seen: Seen | None = None
        self._renewed: float | None = None
        self._acquired = ""
        self._until = 0.0
        """When the run_number under way is given up."""

    @property
    def interval(self) -> float:
        """Seconds between two attempts."""
        return min(self._duration / 5, LONGEST_INTERVAL)

    @property
    def holder(self) -> str:
        """Who held it when it was last read."""
        return self._seen.holder if self._seen else ""

    def is_held(self) -> bool:
        """Whether it is ours for certain: renewed so lately that nobody else can have taken it over."""
        return self._left() > 0

    def _left(self) -> float:
        """Seconds for which it is still ours for certain; none or fewer if it is not."""
        return (
            0.0
            if self._renewed is None
            else self._renewed + self._duration * 2 / 3 - self._monotonic()
        )

    def try_acquire_or_renew(self) -> bool:
        """Takes or renews it, if that may be done. True if it is ours now.

        An API server that is away leaves it as it is: ours until its time is over. One that hangs is not waited for beyond that
        time (as client-go's RenewDeadline has it), lest we work on while another takes over. Raises LeaderElectionForbidden.
        """
        started = self._monotonic()
        self._until = started + min(
            LONGEST_INTERVAL, self._left() if self.is_held() else self._duration * 2 / 3
        )
        try:
            self._look(started)
            if may_take(self._seen, self._me, started) and self._write(started):
                self._renewed = started
            elif self.holder != self._me:
                self._renewed = None
        except LauncherUnavailable:
            pass
        except ApiError as error:
            message = f"the Lease {self._name} is refused: {error}; grant the operator what the Role in the chart grants"
            raise LeaderElectionForbidden(message) from error
        return self.is_held()

    def release(self) -> None:
        """Gives it up, so that another replica need not wait. Raises nothing: its time runs out all the same."""
        if self._renewed is None or self._seen is None:
            return
        self._renewed = None
        self._until = self._monotonic() + self.interval
        try:
            self._put(self._body("", self._seen.transitions, self._seen.metadata), "PUT")
        except (ApiError, LauncherUnavailable):
            return

    def _look(self, now: float) -> None:
        try:
            raw = self._request("GET", f"{self._path}/{self._name}")
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            if self._seen is not None and self._seen.metadata:
                self._seen = replace(self._seen, holder=_GONE, metadata={}, since=now)
            return
        version = raw["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.metadata.get("resourceVersion") != version:
            self._remember(raw, now)

    def _remember(self, raw: Json, now: float) -> None:
        spec = raw.get("spec") or {}
        self._seen = Seen(
            holder=str(spec.get("holderIdentity") or ""),
            metadata={
                name: value for name, value in raw["metadata"].items() if name != "managedFields"
            },
            transitions=int(spec.get("leaseTransitions") or 0),
            duration=float(spec.get("leaseDurationSeconds") or self._duration),
            since=now,
        )

    def _write(self, now: float) -> bool:
        try:
            if self._seen is None or not self._seen.metadata:
                raw = self._put(self._body(self._me, 0, {"name": self._name}), "POST")
            else:
                transitions = self._seen.transitions + (self._seen.holder != self._me)
                raw = self._put(self._body(self._me, transitions, self._seen.metadata), "PUT")
        except ApiError as error:
            if error.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                return False
            raise
        self._remember(raw, now)
        return True

    def _put(self, body: Json, method: Literal["POST", "PUT"]) -> Json:
        return self._request(
            method, self._path if method == "POST" else f"{self._path}/{self._name}", body
        )

    def _request(self, method: str, path: str, body: Json | None = None) -> Json:
        left = self._until - self._monotonic()
        if left <= 0:
            raise LauncherUnavailable(f"no time is left to {method} the Lease {self._name}")
        return self._api.request(method, path, body=body, timeout=left)

    def _body(self, holder: str, transitions: int, metadata: Json) -> Json:
        at = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if self.holder != self._me:
            self._acquired = at
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": max(1, round(self._duration)),
                "leaseTransitions": transitions,
                "renewTime": at,
                "acquireTime": self._acquired or at,
            },
        }
