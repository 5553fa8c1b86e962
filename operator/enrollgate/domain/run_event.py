"""What is told of a run where people look at it: in the run's log, or as Kubernetes Events on its Job."""

from dataclasses import dataclass
from enum import StrEnum


class RunEventType(StrEnum):
    """The turns of a run's life."""

    LAUNCHED = "Launched"
    COMPLETED = "Completed"
    FAILED = "Failed"
    REVOKED = "Revoked"
    LOST = "Lost"


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One turn, in a sentence. Carries no e-mail and no secret."""

    kind: RunEventType
    message: str

    @property
    def is_warning(self) -> bool:
        """Whether it is nothing to be glad of."""
        return self.kind not in (RunEventType.LAUNCHED, RunEventType.COMPLETED)
