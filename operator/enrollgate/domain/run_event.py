"""The events for people: of a run, in its log or on its Job; of a hold, on the operator."""

from dataclasses import dataclass
from enum import StrEnum

from enrollgate.domain.run import Outcome


class RunEventType(StrEnum):
    """The kinds of events in a run's life."""

    LAUNCHED = "Launched"
    COMPLETED = "Completed"
    FAILED = "Failed"
    REVOKED = "Revoked"
    LOST = "Lost"
    NODE_LOST = "NodeLost"

    @classmethod
    def of(cls, outcome: Outcome) -> "RunEventType":
        """Return the event that announces this outcome."""
        return cls.COMPLETED if outcome is Outcome.SUCCEEDED else cls[outcome.name]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One event, in a sentence without e-mail addresses and secrets."""

    kind: RunEventType
    message: str

    @property
    def is_warning(self) -> bool:
        """Return whether the event reports a problem."""
        return self.kind not in (RunEventType.LAUNCHED, RunEventType.COMPLETED)


@dataclass(frozen=True, slots=True)
class HoldEvent:
    """A hold or a pause was opened or closed, in a sentence without addresses and secrets."""

    is_pause: bool
    is_open: bool
    message: str

    @property
    def reason(self) -> str:
        """Return what happened, in one word."""
        if self.is_pause:
            return "Paused" if self.is_open else "Resumed"
        return "HoldOpened" if self.is_open else "HoldClosed"
