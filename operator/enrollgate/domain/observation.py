"""What a launcher sees of a run, and what it answers to a request to launch one."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum

from enrollgate.domain.report import Report


class Phase(StrEnum):
    """The state of a run that exists."""

    # Queued, starting, running, waiting for its next attempt, or being stopped.
    LIVE = "live"
    # It did not start in time and will not start by itself; the report says why.
    STUCK = "stuck"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Observation:
    """One run as its launcher sees it.

    `uid` is the UID of its Job; None for a local run, and for a run whose Job is gone while its pod
    still ends. A finished run that was expected has a `report`: the worker's own, or the launcher's
    explanation. A live one has one only if something keeps it from going on (its node is lost).
    `is_ending` is true for a run that is live only until its last process ends. No event announces
    that end: observe it again soon.

    `claim_id` is the claim that the run was launched for; None if that cannot be read any more.
    `launched_at`, `started_at` and `finished_at` say when the run was created, its worker began and
    it ended, as far as the launcher knows; they have a time zone.
    """

    name: str
    phase: Phase
    report: Report | None = None
    is_ending: bool = False
    uid: str | None = None
    claim_id: str | None = None
    launched_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_live(self) -> bool:
        """Whether the run has not finished."""
        return self.phase in (Phase.LIVE, Phase.STUCK)


class LaunchOutcome(Enum):
    """What a request to launch a run led to."""

    LAUNCHED = "launched"
    # The run existed already: the same claim's.
    ADOPTED = "adopted"
    # An object that is not ours has the name. This run can never be launched.
    NAME_TAKEN = "name taken"
    # This one launch was refused; those of other runs are not concerned. Try it again later.
    REFUSED = "refused"
    # There is no room for it now: a quota is used up. The next pass tries it again.
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class LaunchResult:
    """The answer to one launch.

    `uid` is the Job's UID; None for a local run, and if there is no Job. `launched_at` is when the
    run was created; it has a time zone. `refusal` says why a launch was refused or waits.
    """

    outcome: LaunchOutcome
    uid: str | None = None
    launched_at: datetime | None = None
    refusal: str = ""
