"""What a launcher sees of a run."""

from dataclasses import dataclass
from enum import Enum, StrEnum

from enrollgate.domain.report import Report


class Phase(StrEnum):
    """Where an existing run stands."""

    LIVE = "live"
    """It exists and has not finished: queued, starting, running, waiting for its next try, or being stopped."""
    STUCK = "stuck"
    """It exists, has not begun in its time, and will not by itself; the report says why."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Observation:
    """One run as it stands. A finished run that was expected has a report: the worker's own, or the launcher's
    explanation.
    """

    name: str
    phase: Phase
    report: Report | None = None
    is_ending: bool = False
    """It is live only until its last process is gone, and nobody will tell of that: look again soon."""


class LaunchOutcome(Enum):
    """What came of one order to launch."""

    LAUNCHED = "launched"
    ADOPTED = "adopted"
    """The run was there already."""
    NAME_TAKEN = "name taken"
    """Something that is not ours has the name; no run will come of this order."""
