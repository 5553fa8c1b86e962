"""How long to wait before another attempt: exponential back-off with a cap and jitter."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """The parameters of the back-off. Raises ValueError if one is out of range."""

    # Seconds after the first failure, before jitter.
    base: float = 5.0
    # Each further failure multiplies the wait by it; at least 1.
    factor: float = 2.0
    # Maximum seconds of a wait.
    cap: float = 300.0
    # The share of a wait, from 0 to 1, that is cut off at random at most.
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not (self.base >= 0 and self.cap >= 0 and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ValueError(
                "a back-off needs base and cap >= 0, factor >= 1 and jitter from 0 to 1, "
                f"not {self}"
            )


def delay(failures: int, policy: Backoff, random: Random) -> float:
    """Return how many seconds to wait after this many failures in a row (counted from 1)."""
    try:
        full = min(policy.cap, policy.base * policy.factor ** (failures - 1))
    except OverflowError:
        full = policy.cap if policy.base > 0 else 0.0
    return full * (1 - policy.jitter * random.random())
