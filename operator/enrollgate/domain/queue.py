"""Which of the tasks that wait for a slot are launched next: within limits, and in turn.

`choose` is a pure function. The candidates come in a fair order (`database.claims.rank`): by
priority, then round robin over the accounts, oldest first within one.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from enrollgate.domain.hold import Hold


@dataclass(frozen=True, slots=True)
class OpenTask:
    """An enrolled task without an unfinished run: the gate is open, and nobody has claimed it.

    `was` is its status when last seen, and `since` since when it is known; None if it is new.
    `refusals` is how often in a row it was set aside. `account` is its account's digest, `host` the
    host of its course.
    """

    task_id: int
    was: str | None
    since: datetime | None
    refusals: int
    account: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class LiveRuns:
    """The unfinished runs that limits count.

    By account, by host, and by the id of an open hold: those in its scope that were claimed since
    it was opened. `last_run_id` is the id of the last run at that time, `now` that time (UTC).
    """

    now: datetime
    last_run_id: int
    accounts: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    holds: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What limits the runs besides the slots. 0 means no limit of that kind."""

    per_account: int = 0
    per_host: int = 0
    holds: tuple[Hold, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is any limit."""
        return bool(self.per_account or self.per_host or self.holds)

    def blocked(self, live: LiveRuns) -> "Blocked":
        """Return what these limits keep from being launched now."""
        return Blocked(
            tuple(h for h in self.holds if live.holds[h.hold_id] >= h.live_limit(live.now)),
            self.per_account if _is_reached(live.accounts, self.per_account) else 0,
            self.per_host if _is_reached(live.hosts, self.per_host) else 0,
        )


@dataclass(frozen=True, slots=True)
class Blocked:
    """What limits keep from being launched now.

    `holds` are those that allow no further run. `per_account` is the limit that an account has
    reached, 0 if none has; `per_host` likewise.
    """

    holds: tuple[Hold, ...] = ()
    per_account: int = 0
    per_host: int = 0

    @property
    def is_everything(self) -> bool:
        """Return whether no run at all is allowed now."""
        return any(hold.covers(None, None) for hold in self.holds)


def _is_reached(counts: Counter[str], limit: int) -> bool:
    return bool(limit) and max(counts.values(), default=0) >= limit


def choose(
    candidates: Iterable[OpenTask], live: LiveRuns, limits: RunLimits, slots: int
) -> list[OpenTask]:
    """Return the candidates to launch, `slots` at most, in their order.

    A candidate that a limit holds back takes no slot from those behind it.
    """
    accounts, hosts, held = live.accounts.copy(), live.hosts.copy(), live.holds.copy()
    chosen = list[OpenTask]()
    for each in candidates:
        if len(chosen) == slots:
            break
        if limits.per_account and accounts[each.account] >= limits.per_account:
            continue
        if limits.per_host and hosts[each.host] >= limits.per_host:
            continue
        of_holds = [hold for hold in limits.holds if hold.covers(each.account, each.host)]
        if any(held[hold.hold_id] >= hold.live_limit(live.now) for hold in of_holds):
            continue
        accounts[each.account] += 1
        hosts[each.host] += 1
        held.update(hold.hold_id for hold in of_holds)
        chosen.append(each)
    return chosen
