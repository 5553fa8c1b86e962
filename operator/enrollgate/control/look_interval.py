"""How often the gate is looked at: at an interval, but never for more of the database's time."""

from collections import deque

# Looks whose costs count. The least of them is taken: the others waited for a core, or for a disk.
_LOOKS = 9


class LookInterval:
    """Paces the looks at the gate by what they cost.

    `interval` is the seconds between two looks, at least. `share` is the part of the time for which
    the looks may keep the database busy: 0.01 is one percent of one core.
    """

    def __init__(self, *, interval: float, share: float) -> None:
        self._interval = interval
        self._share = share
        self._costs = deque[float](maxlen=_LOOKS)
        self._has_asked = False

    def record(self, cost: float) -> None:
        """Note the seconds that a look took in the database; 0 if it had nothing to ask."""
        self._has_asked = cost > 0
        if self._has_asked:
            self._costs.append(cost)

    @property
    def pause(self) -> float:
        """Return the seconds until the next look."""
        cost = min(self._costs) if self._has_asked else 0.0
        return max(self._interval, cost / self._share)
