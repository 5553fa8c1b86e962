"""Interrupt a pass at any of its points.

A point is before and after each transaction and each call to the launcher, and between two
launches.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Executable
from tests.world import World

from enrollgate.control.reconciler import Reconciler
from enrollgate.database import Database
from enrollgate.database.engine import T
from enrollgate.domain.observation import LaunchResult, Observation
from enrollgate.domain.order import RunOrder
from enrollgate.domain.planner import Launch
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.run_event import HoldEvent, RunEvent


class PromiseBroken(BaseException):
    """A check within a pass has failed. The reconciler confines every Exception to its task."""


class Interruption:
    """Counts the points of a pass and calls `callback` once, at one of them."""

    def __init__(self) -> None:
        self.countdown: int | None = None
        self.callback: Callable[[], object] = lambda: None

    def point(self) -> None:
        if self.countdown is None:
            return
        if self.countdown > 0:
            self.countdown -= 1
            return
        self.countdown = None
        self.callback()

    @contextmanager
    def after(self, points: int, callback: Callable[[], object]) -> Iterator[None]:
        """Call `callback` after so many points of the pass that runs in this context."""
        self.countdown, self.callback = points, callback
        try:
            yield
        finally:
            self.countdown = None


class InterruptedDatabase(Database):
    """The real database, with a point before and after each transaction.

    `on_read` is called when a transaction begins that only reads.
    """

    def __init__(
        self, real: Database, interruption: Interruption, on_read: Callable[[], None]
    ) -> None:
        super().__init__(real.engine, real.autocommit_engine, real.clock)
        self._interruption = interruption
        self._on_read = on_read

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        self._interruption.point()
        self._on_read()
        with super().autocommit() as connection:
            yield connection
        self._interruption.point()

    @contextmanager
    def read_transaction(self) -> Iterator[Connection]:
        self._interruption.point()
        self._on_read()
        with super().read_transaction() as connection:
            yield connection
        self._interruption.point()

    def execute(self, statement: Executable) -> int:
        self._interruption.point()
        changed = super().execute(statement)
        self._interruption.point()
        return changed

    def run_in_transaction(
        self, change: Callable[[Connection], T], *, of_one_row: bool = False
    ) -> T:
        self._interruption.point()
        result = super().run_in_transaction(change, of_one_row=of_one_row)
        self._interruption.point()
        return result


class InterruptedLauncher:
    """The launcher in memory; `before_launch` is called just before each launch."""

    def __init__(
        self,
        world: World,
        interruption: Interruption,
        before_launch: Callable[[RunOrder], None] = lambda order: None,
    ) -> None:
        self._world = world
        self._interruption = interruption
        self._before_launch = before_launch
        self.place = world.launcher.place

    def observe(
        self, expected: Collection[str], *, only: bool = False
    ) -> Mapping[str, Observation]:
        self._interruption.point()
        seen = self._world.launcher.observe(expected, only=only)
        self._interruption.point()
        return seen

    def read_progress(
        self, names: Sequence[str], wait_for_turn: Callable[[], bool]
    ) -> Iterator[tuple[str, RunProgress]]:
        return self._world.launcher.read_progress(names, wait_for_turn)

    def record_event(self, name: str, uid: str | None, event: RunEvent) -> None:
        self._world.launcher.record_event(name, uid, event)

    def record_hold(self, event: HoldEvent) -> None:
        self._world.launcher.record_hold(event)

    def launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        for launch in launches:
            try:
                self._before_launch(launch.order)
            except AssertionError as error:
                raise PromiseBroken(str(error)) from error
            yield from self._world.launcher.launch([launch])
            self._interruption.point()

    def stop(self, name: str, uid: str | None, *, keep_name: bool = False) -> None:
        self._interruption.point()
        self._world.launcher.stop(name, uid, keep_name=keep_name)
        self._interruption.point()

    def discard(self, observations: Iterable[Observation]) -> None:
        self._interruption.point()
        self._world.launcher.discard(observations)
        self._interruption.point()

    def close(self) -> None: ...


def interrupted_operator(
    world: World,
    interruption: Interruption,
    before_launch: Callable[[RunOrder], None] = lambda order: None,
    on_read: Callable[[], None] = lambda: None,
) -> Reconciler:
    """Return an operator that has just started and whose passes can be interrupted."""
    return world.new_operator(
        InterruptedDatabase(world.database, interruption, on_read),
        InterruptedLauncher(world, interruption, before_launch),
    )
