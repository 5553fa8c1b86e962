"""The one interface between the reconciler and whatever runs the runs."""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from enrollgate.domain.observation import LaunchOutcome, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.run_event import RunEvent, RunEventType

__all__ = [
    "LaunchOutcome",
    "Launcher",
    "LauncherRefused",
    "LauncherUnavailable",
    "Observation",
    "Phase",
    "RunEvent",
    "RunEventType",
]


class LauncherUnavailable(Exception):
    """The runs cannot be seen or touched just now. The pass is given up; nothing may be concluded from it.

    `retry_after` is the seconds for which whoever is away has asked to be left alone; 0 if it has not.
    """

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LauncherRefused(LauncherUnavailable):
    """What runs the runs was reached, and refused this one request: the next, about another run, may fare better."""


class LeaderElectionForbidden(Exception):
    """This replica may not take part in leader election; the message has the remedy. It would be refused again."""


class Launcher(Protocol):
    """Starts, watches and stops runs by name. Every method may be called again after a crash at any point."""

    def observe(
        self, expected: Collection[str], *, only: bool = False
    ) -> Mapping[str, Observation]:
        """All runs of this installation that exist, by name: live ones, and finished ones not yet discarded.

        `expected` are the names of the unfinished runs: what is not there under one of them is looked for twice. With `only`,
        no other runs are looked at. A run that died without a verdict is not in the answer. Raises LauncherUnavailable; never
        returns a part.
        """
        ...

    def launch(self, orders: Iterable[RunOrder]) -> Mapping[str, LaunchOutcome]:
        """Starts each run under its name; a run that is there already is adopted, not started twice.

        An order is taken out of `orders` only shortly before it is carried out: until then it may still be withdrawn.
        An order missing from the answer could not be started just now (a full machine, a quota): try it again later.
        """
        ...

    def stop(self, name: str) -> None:
        """Asks a run to end and returns at once. The run is gone when `observe` no longer shows it live. Idempotent.

        Raises LauncherRefused if this run cannot be stopped now, and LauncherUnavailable if none can.
        """
        ...

    def record_event(self, name: str, event: RunEvent) -> None:
        """Tells a turn of a run's life where people look at the run. Never fails, and nothing rests on it."""
        ...

    def discard(self, names: Iterable[str]) -> None:
        """Says that these runs are recorded: `observe` need not show them again. Idempotent."""
        ...

    def close(self) -> None:
        """Lets go of what the launcher holds. The runs themselves go on."""
        ...
