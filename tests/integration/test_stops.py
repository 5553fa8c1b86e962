"""Many runs to stop, and a launcher that cannot stop them.

Other runs must not wait for long, and the operator must count as alive.
"""

from collections.abc import Callable, Iterator

import pytest
from tests.world import MemoryLauncher, World

from enrollgate.control.reconciler import Reconciler
from enrollgate.launchers import LauncherRefused, LauncherUnavailable
from enrollgate.telemetry.health import Health


class Troubled(MemoryLauncher):
    """A launcher in memory that calls `on_stop` at each request to stop a run."""

    on_stop: Callable[[str], None]

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def stop(self, name: str, uid: str | None, *, keep_name: bool = False) -> None:
        self.asked.append(name)
        self.on_stop(name)
        super().stop(name, uid, keep_name=keep_name)


@pytest.fixture
def launcher() -> Troubled:
    return Troubled()


@pytest.fixture
def world(sqlite_url: str, launcher: Troubled) -> Iterator[World]:
    made = World(sqlite_url)
    made.launcher = launcher
    made.restart()
    yield made
    made.close()


def deleted_while_running(world: World, count: int) -> list[str]:
    tasks = [world.add("enrolled") for _ in range(count)]
    world.reconcile()
    for task in tasks:
        world.delete(task)
    return [f"test-{task}-1" for task in tasks]


def test_stop_when_the_launcher_is_away_ends_the_pass_at_the_first_run(
    world: World, launcher: Troubled
) -> None:
    names = deleted_while_running(world, 5)

    def away(_name: str) -> None:
        raise LauncherUnavailable("the API server is away")

    launcher.on_stop = away
    with pytest.raises(LauncherUnavailable):
        world.reconcile()
    assert len(launcher.asked) == 1, "each further one would wait as long"
    launcher.on_stop = lambda _name: None
    world.reconcile()
    assert set(launcher.asked) == set(names)
    world.reconcile()
    assert {run.reason for run in world.runs()} == {"TaskNotFound"}


def test_run_that_cannot_be_stopped_delays_no_other(world: World, launcher: Troubled) -> None:
    new = world.add("processing")
    names = deleted_while_running(world, 5)

    def refuse_the_first(name: str) -> None:
        if name == names[0]:
            raise LauncherRefused("an admission webhook does not answer")

    launcher.on_stop = refuse_the_first
    world.set(new, "enrolled")
    world.reconcile()
    assert launcher.asked == names and f"test-{new}-1" in launcher.live
    world.reconcile()
    assert [run.outcome for run in world.runs() if run.name in names] == [None] + ["revoked"] * 4


def test_long_pass_that_makes_progress_counts_as_alive(world: World, launcher: Troubled) -> None:
    deleted_while_running(world, 10)
    now, alive = [0.0], list[bool]()
    health = Health(liveness_timeout=120, monotonic=lambda: now[0])
    operator = Reconciler(
        world.database,
        world.tables,
        launcher,
        world.policy,
        installation="test",
        progress=health.heartbeat,
    )

    def slowly(_name: str) -> None:
        now[0] += 60
        alive.append(health.is_alive())

    launcher.on_stop = slowly
    operator.reconcile()
    assert alive == [True] * 10 and not health.is_ready()
    now[0] += 120
    assert not health.is_alive(), "a pass that hangs is"
