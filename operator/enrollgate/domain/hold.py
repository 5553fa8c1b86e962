"""A hold or a pause: what it is about, and whom it covers. `domain.holds` decides about it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from enrollgate.domain.hosts import host_spellings
from enrollgate.domain.run import Outcome


class Scope(StrEnum):
    """What a hold is about. Also the metric label `scope`."""

    ACCOUNT = "account"
    HOST = "host"
    DESTINATION = "destination"
    INSTALLATION = "installation"


class HoldKind(StrEnum):
    """Who has opened a hold: a failure, or a person."""

    HOLD = "hold"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Hold:
    """An open hold. `hold_id` is 0 before it is in the database.

    `subject` is the account's digest or the host; it is empty for the other scopes. `allowed` is
    how many runs claimed after `opened_at` may be unfinished at a time, apart from a probe.
    `reason` is one of `Reason`, or `Paused`. `cookies_sha256` is the digest of the account's
    cookies file when the hold was opened. Instants are UTC.
    """

    kind: HoldKind
    scope: Scope
    subject: str
    reason: str
    opened_at: datetime
    message: str = ""
    remedy: str = ""
    run_name: str | None = None
    cookies_sha256: str | None = None
    allowed: int = 0
    probes: int = 0
    probe_at: datetime | None = None
    ends_at: datetime | None = None
    hold_id: int = 0

    def live_limit(self, now: datetime) -> int:
        """Return how many runs in the scope may be unfinished at a time."""
        is_probe_due = self.probe_at is not None and self.probe_at <= now
        return max(self.allowed, int(is_probe_due))

    def covers(self, account: str | None, host: str | None) -> bool:
        """Return whether a run of this account and this course's host is in the scope."""
        if self.scope is Scope.ACCOUNT:
            return account == self.subject
        return self.scope is not Scope.HOST or host in host_spellings(self.subject)


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished run of a scope, for `count_in_a_row`."""

    task_id: int
    outcome: Outcome | None
    reason: str | None
