"""Whose turn it is: nobody works without one, however it is lost."""

import threading
from collections.abc import Iterator
from random import Random

import pytest
from tests.world import World

from enrollgate.control.reconciler import PassSummary, Reconciler
from enrollgate.control.runner import OperatorRunner
from enrollgate.launchers import LauncherUnavailable, LeaderElectionForbidden
from enrollgate.telemetry import metrics
from enrollgate.telemetry.health import Health

PATIENCE = 60


class ScriptedTurn:
    """Answers as told, an exception by raising it, the last answer for ever; its time passes quickly."""

    interval = 0.01
    holder = "another replica"

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.released = 0
        self.asked_in_vain = threading.Event()

    def try_acquire_or_renew(self) -> bool:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if not answer:
            self.asked_in_vain.set()
        return answer

    def release(self) -> None:
        self.released += 1


class Work:
    """An operation on a thread of its own, and how it ended."""

    def __init__(self, world: World, turn: ScriptedTurn | None) -> None:
        self.passes = 0
        self.ended: BaseException | None = None
        self.world = world
        self.operation = OperatorRunner(
            database=world.database,
            tables=world.tables,
            make_reconciler=self.new_reconciler,
            check_interval=0.01,
            health=Health(liveness_timeout=60, monotonic=lambda: 0.0),
            random=Random(1),
            elector=turn,
            after_pass=self.count,
        )
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def new_reconciler(self) -> Reconciler:
        return self.world.new_operator()

    def count(self, _summary: PassSummary) -> None:
        self.passes += 1

    def run(self) -> None:
        try:
            self.operation.run()
        except Exception as error:
            self.ended = error

    def join(self) -> None:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    world = World(sqlite_url)
    yield world
    world.close()


def test_a_turn_that_is_lost_ends_the_passes_until_it_is_ours_again(world: World) -> None:
    turn = ScriptedTurn(True, True, False)
    work = Work(world, turn)
    assert turn.asked_in_vain.wait(PATIENCE)
    while turn.released == 0:
        work.thread.join(0.01)
    passes = work.passes
    work.thread.join(0.2)
    assert work.passes == passes, "a pass without a turn"
    turn.answers = [True]
    while work.passes == passes:
        work.thread.join(0.01)
    work.operation.stop()
    work.join()
    assert work.ended is None and turn.released == 2


@pytest.mark.parametrize("error", [ValueError("no JSON"), LeaderElectionForbidden("not allowed")])
def test_a_turn_that_cannot_be_kept_ends_the_work_with_what_was_wrong(
    world: World, error: Exception
) -> None:
    turn = ScriptedTurn(True, True, error)
    work = Work(world, turn)
    work.join()
    assert work.ended is error and turn.released == 1


def test_without_turns_it_works_until_it_is_stopped(world: World) -> None:
    task = world.add("enrolled")
    work = Work(world, None)
    while work.passes == 0:
        work.thread.join(0.01)
    work.operation.stop()
    work.join()
    assert work.ended is None and world.launcher.live == [f"test-{task}-1"]


def test_who_has_lost_its_turn_tells_no_numbers_of_tasks_which_the_next_one_tells(
    world: World,
) -> None:
    world.add("processing")
    turn = ScriptedTurn(True, True, True, False)
    work = Work(world, turn)
    assert turn.asked_in_vain.wait(PATIENCE)
    work.operation.stop()
    work.join()
    assert work.passes > 0, "it had told them before"
    assert metrics.REGISTRY.get_sample_value("enrollgate_tasks", {"state": "waiting"}) is None
    assert metrics.REGISTRY.get_sample_value("enrollgate_leading") == 0


def test_a_pass_that_is_given_up_counts_for_nothing_in_how_long_passes_take(world: World) -> None:
    def passes() -> float | None:
        return metrics.REGISTRY.get_sample_value("enrollgate_reconcile_duration_seconds_count")

    world.reconcile()
    before = passes()
    world.add("enrolled")
    world.launcher.available = False
    with pytest.raises(LauncherUnavailable):
        world.reconcile()
    assert passes() == before
    world.launcher.available = True
    world.reconcile()
    assert before is not None and passes() == before + 1
