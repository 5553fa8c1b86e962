"""The interface between the reconciler and the runs.

It is implemented with local processes, with Kubernetes Jobs, and in a test's memory.

The reconciler passes the planner's `Launch` actions in and gets each back with its `LaunchResult`.
It passes the observations of finished runs back to `discard`. So a launcher never has to remember
what it has seen.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from enrollgate.domain.observation import LaunchOutcome, LaunchResult, Observation, Phase
from enrollgate.domain.planner import Launch
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.run import RunPlace
from enrollgate.domain.run_event import HoldEvent, RunEvent, RunEventType

__all__ = [
    "HoldEvent",
    "Launch",
    "LaunchOutcome",
    "LaunchResult",
    "Launcher",
    "LauncherRefused",
    "LauncherUnavailable",
    "Observation",
    "Phase",
    "RunEvent",
    "RunEventType",
]


class LauncherUnavailable(Exception):
    """The runs cannot be observed or changed now.

    The reconcile pass ends; nothing may be concluded from it.

    `retry_after` is how many seconds the server asked us to wait; 0 if it did not ask.
    """

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LauncherRefused(LauncherUnavailable):
    """This one request was refused. A request about another run may succeed.

    `concerns_all` says that it does not seem so: a permission or the namespace is missing.
    """

    def __init__(
        self, message: str, *, retry_after: float = 0.0, concerns_all: bool = False
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.concerns_all = concerns_all


class Launcher(Protocol):
    """Starts, observes and stops runs.

    Every method may be called again after a crash at any point.
    """

    @property
    def place(self) -> RunPlace:
        """Return where this launcher's runs are.

        Of the runs that `observe` did not find, only those that were claimed at this place, as it
        is returned afterwards, are lost. Called from several threads. Raises LauncherUnavailable.
        """
        ...

    def observe(
        self, expected: Collection[str], *, only: bool = False
    ) -> Mapping[str, Observation]:
        """Return every run of this installation that exists, by name.

        Finished runs are included until they are discarded. A run that died without a result is not
        included.

        Parameters:
            expected: the names of the unfinished runs. One that is not found is looked for twice.
            only: look at the expected runs and at no others.

        Raises LauncherUnavailable; never returns a part of the runs.
        """
        ...

    def launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        """Start each run under its name and yield it with the result.

        A run of the same claim that exists already is adopted. One of another claim (the database
        was restored) is asked to end, or discarded, and the launch is not yielded.

        A launch is taken from `launches` only shortly before it is carried out, so that it can be
        checked as late as possible. A launch that is not yielded could not be started now: try it
        again later. So does one that `WAITS`, and it says why. One that is `REFUSED` concerns no
        other run.
        Nothing is started before the first result is asked for.

        Raises LauncherUnavailable, LauncherRefused if no run can be launched.
        """
        ...

    def stop(self, name: str, uid: str | None, *, keep_name: bool = False) -> None:
        """Ask a run to end, and return at once.

        It has ended when `observe` no longer shows it as live. Idempotent.

        `uid` is the Job's UID as it was observed: another Job of the same name is not touched. With
        `keep_name`, its name stays taken until its last process has ended.
        Raises LauncherRefused if this run cannot be stopped now, LauncherUnavailable if no run can.
        """
        ...

    def read_progress(
        self, names: Sequence[str], wait_for_turn: Callable[[], bool]
    ) -> Iterator[tuple[str, RunProgress]]:
        """Yield how far these runs are, as far as that is known. No decision depends on it.

        `wait_for_turn` is called before each request to a server; if it returns False, nothing more
        is read. Called from another thread than the other methods.

        Raises LauncherUnavailable if no run's progress can be read now.
        """
        ...

    def record_event(self, name: str, uid: str | None, event: RunEvent) -> None:
        """Show an event where people look at the run. Never fails, and no decision depends on it.

        `uid` is the UID of the Job to attach it to; None if there is no such object.
        """
        ...

    def record_hold(self, event: HoldEvent) -> None:
        """Show where people look at the operator that a hold was opened or closed. Never fails."""
        ...

    def discard(self, observations: Iterable[Observation]) -> None:
        """Mark these runs as recorded: `observe` need not return them again. Idempotent.

        A run that is live is left alone. Raises LauncherRefused or LauncherUnavailable.
        """
        ...

    def close(self) -> None:
        """Release what the launcher holds. The runs themselves continue."""
        ...
