"""The runner works only while it holds the lease, however the lease is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from random import Random

import pytest
from tests.world import World

from enrollgate.control.housekeeping import Housekeeping
from enrollgate.control.leader_election import LeaderElectionForbidden, LeaderElector
from enrollgate.control.look_interval import LookInterval
from enrollgate.control.progress import ProgressReader
from enrollgate.control.reconciler import PassSummary, Reconciler
from enrollgate.control.runner import OperatorRunner
from enrollgate.launchers import LauncherUnavailable
from enrollgate.telemetry import metrics
from enrollgate.telemetry.health import Health

TIMEOUT = 60


class ScriptedElector(LeaderElector):
    """Gives the scripted answers, the last one for ever. An answer may be an exception."""

    interval = 0.01
    holder = "another replica"

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.released = 0
        self.refused = threading.Event()

    def try_acquire_or_renew(self) -> bool:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if not answer:
            self.refused.set()
        return answer

    def release(self) -> None:
        self.released += 1


class Work:
    """A runner in a thread of its own, its passes counted, and how it ended."""

    def __init__(self, world: World, elector: ScriptedElector | None) -> None:
        self.passes = 0
        self.ended: BaseException | None = None
        self.world = world
        self.runner = OperatorRunner(
            database=world.database,
            installation="test",
            tables=world.tables,
            build_reconciler=self.build_reconciler,
            launcher=lambda: world.launcher,
            housekeeping=Housekeeping(
                world.database,
                "test",
                about={},
                history=timedelta(days=1),
                monotonic=time.monotonic,
            ),
            progress=ProgressReader(world.database, "test", rate=100, monotonic=time.monotonic),
            check_interval=0.01,
            look_interval=LookInterval(interval=0.01, share=1.0),
            health=Health(liveness_timeout=60, monotonic=lambda: 0.0),
            random=Random(1),
            elector=elector,
        )
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def build_reconciler(self) -> Reconciler:
        reconciler = self.world.new_operator()
        begin = reconciler.begin_full_pass

        def count() -> Callable[[], PassSummary]:
            rest = begin()

            def counted() -> PassSummary:
                self.passes += 1
                return rest()

            return counted

        reconciler.begin_full_pass = count  # type: ignore[method-assign]  # the hook of this test
        return reconciler

    def run(self) -> None:
        try:
            self.runner.run()
        except Exception as error:
            self.ended = error

    def join(self) -> None:
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    world = World(sqlite_url)
    yield world
    world.close()


def test_lost_lease_ends_the_passes_until_it_is_held_again(world: World) -> None:
    elector = ScriptedElector(True, True, False)
    work = Work(world, elector)
    assert elector.refused.wait(TIMEOUT)
    while elector.released == 0:
        work.thread.join(0.01)
    passes = work.passes
    work.thread.join(0.2)
    assert work.passes == passes, "a pass without the lease"
    elector.answers = [True]
    while work.passes == passes:
        work.thread.join(0.01)
    work.runner.stop()
    work.join()
    assert work.ended is None and elector.released == 2


@pytest.mark.parametrize("error", [ValueError("no JSON"), LeaderElectionForbidden("not allowed")])
def test_failed_renewal_ends_the_work_with_its_error(world: World, error: Exception) -> None:
    elector = ScriptedElector(True, True, error)
    work = Work(world, elector)
    work.join()
    assert work.ended is error and elector.released == 1


def test_runner_without_leader_election_works_until_stopped(world: World) -> None:
    task = world.add("enrolled")
    work = Work(world, None)
    while work.passes == 0:
        work.thread.join(0.01)
    work.runner.stop()
    work.join()
    assert work.ended is None and world.launcher.live == [f"test-{task}-1"]


def test_replica_without_the_lease_reports_no_task_metrics(
    world: World,
) -> None:
    world.add("processing")
    elector = ScriptedElector(True)
    work = Work(world, elector)
    while work.passes == 0:
        work.thread.join(0.01)
    elector.answers = [False]
    assert elector.refused.wait(TIMEOUT)
    work.runner.stop()
    work.join()
    assert metrics.REGISTRY.get_sample_value("enrollgate_tasks", {"state": "waiting"}) is None
    assert metrics.REGISTRY.get_sample_value("enrollgate_leading") == 0


def test_aborted_pass_is_not_measured(world: World) -> None:
    def passes() -> float | None:
        return metrics.REGISTRY.get_sample_value(
            "enrollgate_reconcile_duration_seconds_count", {"kind": "full"}
        )

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
