"""The loop: it repeats, it can be woken, it survives trouble, and it ends only when told to."""

import threading
from collections.abc import Collection
from dataclasses import replace
from random import Random

import pytest
from structlog.testing import capture_logs

from enrollgate.common.backoff import Backoff
from enrollgate.control.loop import FOCUS_LIMIT, LONGEST_PAUSE, Loop
from enrollgate.control.reconciler import PassSummary
from enrollgate.control.runner import TROUBLE_BACKOFF
from enrollgate.control.wiring import build_health
from enrollgate.database import DatabaseUnavailable
from enrollgate.launchers import LauncherUnavailable
from enrollgate.settings.operator import Settings

SUMMARY = PassSummary(
    waiting=0, enrolled=0, unfinished=0, launched=0, finished=0, expired=0, statements=3
)
NO_PAUSE = Backoff(base=0.001, factor=1.0, cap=0.001)


def make_loop(interval: float) -> Loop:
    return Loop(interval=interval, backoff=NO_PAUSE, random=Random(1))


def test_a_wake_brings_the_next_pass_at_once() -> None:
    loop = make_loop(interval=3600)  # without the wake the second pass would be an hour away
    passes: list[int] = []

    def reconcile(_changed: Collection[str] | None) -> PassSummary:
        passes.append(len(passes))
        if len(passes) == 1:
            loop.wake()
        else:
            loop.stop()
        return SUMMARY

    loop.run(reconcile)
    assert len(passes) == 2


def test_stop_ends_a_loop_that_sleeps() -> None:
    loop = make_loop(interval=3600)
    first = threading.Event()

    def reconcile(_changed: Collection[str] | None) -> PassSummary:
        first.set()
        return SUMMARY

    thread = threading.Thread(target=loop.run, args=(reconcile,))
    thread.start()
    first.wait()
    loop.stop()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_trouble_is_logged_once_for_each_cause_and_never_ends_the_loop() -> None:
    loop = make_loop(interval=0.001)
    troubles = ["gone", "gone", "gone", "slow", "gone"]

    def reconcile(_changed: Collection[str] | None) -> PassSummary:
        if troubles:
            raise DatabaseUnavailable(troubles.pop(0))
        loop.stop()
        return SUMMARY

    with capture_logs() as logs:
        loop.run(reconcile)
    errors = [entry["error"] for entry in logs if entry["log_level"] == "error"]
    assert errors == [f"DatabaseUnavailable: {word}" for word in ("gone", "slow", "gone")]
    assert [
        entry["failed_passes"] for entry in logs if entry["event"] == "passes succeed again"
    ] == [5]


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(45.0, 45.0, 54.0), (3600.0, LONGEST_PAUSE, LONGEST_PAUSE * 1.2)]
)
def test_a_launcher_that_wants_to_be_left_alone_is(asked: float, least: float, most: float) -> None:
    loop = make_loop(interval=0.001)

    def reconcile(_changed: Collection[str] | None) -> PassSummary:
        loop.stop()
        raise LauncherUnavailable("overloaded", retry_after=asked)

    with capture_logs() as logs:
        loop.run(reconcile)
    (pause,) = [entry["pause_seconds"] for entry in logs if "pause_seconds" in entry]
    assert least <= pause <= most


def test_the_longest_pause_does_not_look_like_death() -> None:
    assert LONGEST_PAUSE * (1 + TROUBLE_BACKOFF.jitter) < build_health(Settings()).liveness_timeout


def test_a_pass_that_left_work_is_followed_by_the_next_at_once() -> None:
    loop = make_loop(interval=3600)
    expired = [1000, 1000, 3]

    def reconcile(_changed: Collection[str] | None) -> PassSummary:
        count = expired.pop(0)
        if not expired:
            loop.stop()
        return PassSummary(
            waiting=0, enrolled=0, unfinished=0, launched=0, finished=0, expired=count, statements=3
        )

    loop.run(reconcile)
    assert expired == []


def test_what_has_changed_is_looked_at_by_a_focused_pass_and_a_full_pass_is_still_made_in_time() -> (
    None
):
    clock = iter(range(1_000_000))  # every look at the clock finds it a second later
    loop = Loop(
        interval=10, backoff=NO_PAUSE, random=Random(1), monotonic=lambda: float(next(clock))
    )
    looks: list[Collection[str] | None] = []

    def reconcile(changed: Collection[str] | None) -> PassSummary:
        looks.append(changed)
        loop.wake(f"run-{len(looks)}")
        if len(looks) == 12:
            loop.stop()
        return SUMMARY

    loop.run(reconcile)
    assert looks[0] is None
    assert looks[1] == {"run-1"}
    assert looks[2:].count(None) >= 2  # the wakes do not put the full pass off
    named = {name for look in looks if look is not None for name in look}
    assert named <= {f"run-{number}" for number in range(1, 12)}


def test_too_many_changes_make_one_full_pass() -> None:
    loop = make_loop(interval=3600)
    looks: list[Collection[str] | None] = []

    def reconcile(changed: Collection[str] | None) -> PassSummary:
        looks.append(changed)
        if len(looks) == 1:
            for number in range(FOCUS_LIMIT + 1):
                loop.wake(f"run-{number}")
        else:
            loop.stop()
        return SUMMARY

    loop.run(reconcile)
    assert looks == [None, None]


def test_after_a_pass_that_was_given_up_the_next_is_a_full_one() -> None:
    loop = make_loop(interval=3600)
    looks: list[Collection[str] | None] = []

    def reconcile(changed: Collection[str] | None) -> PassSummary:
        looks.append(changed)
        if len(looks) == 1:
            loop.wake("run-1")
            return SUMMARY
        if len(looks) == 2:
            loop.wake("run-2")
            raise DatabaseUnavailable("gone")
        loop.stop()
        return SUMMARY

    loop.run(reconcile)
    assert looks == [None, {"run-1"}, None]


def test_a_run_that_is_about_to_be_gone_is_looked_at_again_soon() -> None:
    loop = make_loop(interval=3600)
    looks: list[Collection[str] | None] = []

    def reconcile(changed: Collection[str] | None) -> PassSummary:
        looks.append(changed)
        if len(looks) == 2:
            loop.stop()
        return replace(SUMMARY, ending=frozenset({"run-1"}))

    loop.run(reconcile)  # or it would sleep for an hour
    assert looks == [None, {"run-1"}]
