"""Two operators of one database in two places: neither takes the other's runs for lost."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import structlog
from structlog.testing import capture_logs
from tests.world import MemoryLauncher, World

from enrollgate.domain.policy import Policy
from enrollgate.domain.run import RunPlace

HERE = RunPlace("local", "dir-1", "host-1", "machine-1", "/var/lib/enrollgate", "boot-1")
OTHERS = {
    "another work directory": replace(HERE, place_id="dir-2", work_dir="/root/var"),
    "another host": RunPlace("local", "dir-2", "host-2", "machine-2", "/var/lib/x", "boot-2"),
    "a cluster": RunPlace("kubernetes", "courses"),
}


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with closing(World(database_url, Policy(max_concurrent_runs=2))) as world:
        world.launcher.place = HERE
        yield world


@pytest.mark.parametrize("place", OTHERS.values(), ids=OTHERS)
def test_each_of_two_operators_in_two_places_handles_its_own_runs(
    world: World, place: RunPlace
) -> None:
    launcher = MemoryLauncher(place=place)
    other = world.new_operator(launcher=launcher)
    first = world.add("enrolled")
    world.reconcile()
    for _ in range(3):
        other.reconcile()
        other.reconcile(["test-1-1"])  # a focused pass, as after a watch event
    assert world.launcher.live == ["test-1-1"] and launcher.orders == []
    second, third = world.add("enrolled"), world.add("enrolled")
    other.reconcile()
    world.reconcile()
    assert launcher.live == ["test-2-1"], "both count for the limit of two"
    assert world.launcher.live == ["test-1-1"]
    for task, ours in ((first, world.launcher), (second, launcher)):
        world.sql(f"UPDATE download_tasks SET status = 'failed' WHERE id = {task}")
        for operator in (world, other, world, other):
            operator.reconcile()
        assert f"test-{task}-1" not in ours.live, "stopped by the operator that can see it"
    live = [*world.launcher.live, *launcher.live]
    assert live == [f"test-{third}-1"]
    assert len(world.launcher.orders) + len(launcher.orders) == 3


def test_runs_elsewhere_are_logged_once_for_each_place(world: World) -> None:
    other = world.new_operator(launcher=MemoryLauncher(place=OTHERS["another host"]))
    for _ in range(2):
        world.add("enrolled")
    other.reconcile()
    structlog.reset_defaults()
    with capture_logs() as lines:
        for _ in range(3):
            world.reconcile()
    (line,) = [line for line in lines if "elsewhere" in line["event"]]
    assert line["place"] == "/var/lib/x on host host-2" and line["runs"] == 2
