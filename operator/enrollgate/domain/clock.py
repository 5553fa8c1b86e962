"""Tells a clock that was set from time that passed."""

from dataclasses import dataclass
from datetime import datetime, timedelta

# Seconds. Less is left alone: clocks are set by so little while they run, without a step.
SMALLEST_STEP = 1.0


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The database's clock, and the seconds before and after it was read by one that nobody sets.

    `corrected` is how many steps of the clock the tracked tasks had been corrected for by then.
    """

    now: datetime
    before: float
    after: float
    corrected: int

    def step_since(self, earlier: "ClockReading") -> timedelta:
        """Return by how much the clock was set since the earlier reading; zero if it was not.

        If the reading took long, the exact moment is unknown. Then the answer is the one by which
        tasks wait longer.
        """
        advance = (self.now - earlier.now).total_seconds()
        shortest, longest = self.before - earlier.after, self.after - earlier.before
        if shortest - SMALLEST_STEP < advance < longest + SMALLEST_STEP:
            return timedelta()
        return timedelta(seconds=advance - shortest)
