"""How long to wait before trying again: longer each time, up to a cap, and not all at the same moment."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """The knobs of a capped exponential back-off. Raises ValueError if they make no sense."""

    base: float = 5.0
    """Seconds after the first failure, before jitter."""
    factor: float = 2.0
    """What each further failure multiplies the wait by; at least 1."""
    cap: float = 300.0
    """Seconds that no wait exceeds."""
    jitter: float = 0.2
    """The share of a wait, from 0 to 1, that chance may take off."""

    def __post_init__(self) -> None:
        if not (self.base >= 0 and self.cap >= 0 and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ValueError(
                f"a back-off needs base and cap >= 0, factor >= 1 and jitter from 0 to 1, not {self}"
            )


def delay(failures: int, policy: Backoff, random: Random) -> float:
    """The seconds to wait after this many failures in a row (counted from 1): never negative, never above the cap."""
    try:
        full = min(policy.cap, policy.base * policy.factor ** (failures - 1))
    except OverflowError:
        full = policy.cap if policy.base > 0 else 0.0
    return full * (1 - policy.jitter * random.random())
