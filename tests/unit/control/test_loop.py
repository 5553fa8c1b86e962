"""The loop repeats, can be woken, survives errors, and ends only when it is stopped."""

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from random import Random

import pytest
from structlog.testing import capture_logs

from enrollgate.common.backoff import Backoff
from enrollgate.control.look_interval import LookInterval
from enrollgate.control.loop import (
    FOCUS_LIMIT,
    LONGEST_PAUSE,
    UNFORESEEN_LIMIT,
    Loop,
    LoopFailed,
)
from enrollgate.control.reconciler import PassSummary
from enrollgate.control.runner import RETRY_BACKOFF
from enrollgate.control.wiring import build_health
from enrollgate.database import DatabaseUnavailable
from enrollgate.launchers import LauncherUnavailable
from enrollgate.settings.operator import Settings
from enrollgate.telemetry import metrics

SUMMARY = PassSummary(
    waiting=0, enrolled=0, unfinished=0, launched=0, finished=0, expired=0, statements=3
)
NO_PAUSE = Backoff(base=0.001, factor=1.0, cap=0.001)


def make_loop(interval: float) -> Loop:
    return Loop(interval=interval, backoff=NO_PAUSE, random=Random(1))


def test_wake_starts_the_next_pass_at_once() -> None:
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


def test_stop_ends_a_sleeping_loop() -> None:
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


def test_errors_are_logged_once_per_cause_and_never_end_the_loop() -> None:
    loop = make_loop(interval=0.001)
    errors_to_raise = ["gone", "gone", "gone", "slow", "gone"]

    def reconcile(_changed: Collection[str] | None) -> PassSummary:
        if errors_to_raise:
            raise DatabaseUnavailable(errors_to_raise.pop(0))
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
def test_retry_after_of_a_launcher_is_respected(asked: float, least: float, most: float) -> None:
    loop = make_loop(interval=0.001)

    def reconcile(_changed: Collection[str] | None) -> PassSummary:
        loop.stop()
        raise LauncherUnavailable("overloaded", retry_after=asked)

    with capture_logs() as logs:
        loop.run(reconcile)
    (pause,) = [entry["pause_seconds"] for entry in logs if "pause_seconds" in entry]
    assert least <= pause <= most


def test_longest_pause_is_shorter_than_the_liveness_timeout() -> None:
    assert LONGEST_PAUSE * (1 + RETRY_BACKOFF.jitter) < build_health(Settings()).liveness_timeout


def test_pass_that_left_work_is_followed_at_once() -> None:
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


def test_changes_get_focused_passes_and_full_passes_stay_on_time() -> None:
    clock = iter(range(1_000_000))  # each reading of the clock is a second later
    loop = Loop(
        interval=10, backoff=NO_PAUSE, random=Random(1), monotonic=lambda: float(next(clock))
    )
    passes_made: list[Collection[str] | None] = []

    def reconcile(changed: Collection[str] | None) -> PassSummary:
        passes_made.append(changed)
        loop.wake(f"run-{len(passes_made)}")
        if len(passes_made) == 12:
            loop.stop()
        return SUMMARY

    loop.run(reconcile)
    assert passes_made[0] is None
    assert passes_made[1] == {"run-1"}
    assert passes_made[2:].count(None) >= 2  # the wakes do not delay the full pass
    named = {name for look in passes_made if look is not None for name in look}
    assert named <= {f"run-{number}" for number in range(1, 12)}


def test_too_many_changes_make_one_full_pass() -> None:
    loop = make_loop(interval=3600)
    passes_made: list[Collection[str] | None] = []

    def reconcile(changed: Collection[str] | None) -> PassSummary:
        passes_made.append(changed)
        if len(passes_made) == 1:
            for number in range(FOCUS_LIMIT + 1):
                loop.wake(f"run-{number}")
        else:
            loop.stop()
        return SUMMARY

    loop.run(reconcile)
    assert passes_made == [None, None]


def test_pass_after_an_aborted_one_is_full() -> None:
    loop = make_loop(interval=3600)
    passes_made: list[Collection[str] | None] = []

    def reconcile(changed: Collection[str] | None) -> PassSummary:
        passes_made.append(changed)
        if len(passes_made) == 1:
            loop.wake("run-1")
            return SUMMARY
        if len(passes_made) == 2:
            loop.wake("run-2")
            raise DatabaseUnavailable("gone")
        loop.stop()
        return SUMMARY

    loop.run(reconcile)
    assert passes_made == [None, {"run-1"}, None]


def test_ending_run_is_observed_again_soon() -> None:
    loop = make_loop(interval=3600)
    passes_made: list[Collection[str] | None] = []

    def reconcile(changed: Collection[str] | None) -> PassSummary:
        passes_made.append(changed)
        if len(passes_made) == 2:
            loop.stop()
        return replace(SUMMARY, ending=frozenset({"run-1"}))

    loop.run(reconcile)  # or it would sleep for an hour
    assert passes_made == [None, {"run-1"}]


def test_stopped_loop_works_again_after_a_reset() -> None:
    """As when a lease is lost and held again; meanwhile the other replica's runs change."""
    loop = make_loop(interval=3600)
    passes_made: list[Collection[str] | None] = []

    def reconcile(changed: Collection[str] | None) -> PassSummary:
        passes_made.append(changed)
        loop.stop()
        return SUMMARY

    loop.run(reconcile)
    for number in range(100 * FOCUS_LIMIT):
        loop.wake(f"run-{number}")
    loop.run(reconcile)
    assert passes_made == [None], "it is still stopped"
    loop.reset()
    loop.run(reconcile)
    assert passes_made == [None, None]


class ReadingLoop:
    """A loop whose full passes read until they may go on, and what it did, in order."""

    def __init__(self) -> None:
        self.loop = Loop(
            interval=3600,
            backoff=NO_PAUSE,
            random=Random(1),
            look_interval=LookInterval(interval=0.001, share=1.0),
        )
        self.done = list[str]()
        self.may_read = threading.Event()
        self.may_read.set()
        self.on_look: Callable[[], None] = lambda: None

    def begin(self) -> Callable[[], PassSummary]:
        assert self.may_read.wait(60)
        return lambda: self._note("full")

    def run(self) -> list[str]:
        self.loop.run(
            lambda changed: self._note(",".join(sorted(changed or ()))), self._look, self.begin
        )
        return self.done

    def _look(self) -> PassSummary:
        self.on_look()
        return self._note("look")

    def _note(self, what: str) -> PassSummary:
        self.done.append(what)
        if what == "full" and self.done.count("full") == 1:  # the second one reads for long
            self.may_read.clear()
            self.loop.wake()
        elif what == "full":
            self.loop.stop()
        return replace(SUMMARY, free=1)


def test_looks_and_changed_runs_do_not_wait_for_what_a_full_pass_reads() -> None:
    driven = ReadingLoop()

    def look() -> None:
        if driven.done.count("look") == 3:
            driven.loop.wake("run-1")
        if "run-1" in driven.done:
            driven.may_read.set()

    driven.on_look = look
    done = driven.run()
    assert done[0] == done[-1] == "full" and done.count("full") == 2
    assert done.count("run-1") == 1 and done.index("run-1") < done[1:].index("full")


def test_wake_while_a_full_pass_reads_makes_another_one() -> None:
    loop = make_loop(interval=3600)
    passes = list[str]()

    def begin() -> Callable[[], PassSummary]:
        if not passes:
            loop.wake()  # what it says may have happened after the read
        return rest

    def rest() -> PassSummary:
        passes.append("full")
        if len(passes) == 2:
            loop.stop()
        return SUMMARY

    loop.run(lambda _changed: SUMMARY, None, begin)
    assert passes == ["full", "full"]


def test_too_many_changes_wait_for_the_full_pass_that_has_begun() -> None:
    driven = ReadingLoop()

    def look() -> None:
        if driven.done.count("look") == 1:
            for number in range(FOCUS_LIMIT + 1):
                driven.loop.wake(f"run-{number}")
        if driven.done.count("look") == 3:
            driven.may_read.set()

    driven.on_look = look
    assert set(driven.run()) == {"full", "look"}


def test_full_pass_that_could_not_read_is_aborted_and_tried_again() -> None:
    loop = make_loop(interval=0.001)
    errors = [DatabaseUnavailable("gone"), DatabaseUnavailable("slow")]

    def begin() -> Callable[[], PassSummary]:
        if errors:
            raise errors.pop(0)
        loop.stop()
        return lambda: SUMMARY

    with capture_logs() as logs:
        loop.run(lambda _changed: SUMMARY, None, begin)
    assert [entry["error"][-4:] for entry in logs if "error" in entry] == ["gone", "slow"]


def test_unforeseen_error_aborts_the_pass_and_the_next_one_goes_on() -> None:
    loop = make_loop(interval=0.001)
    raised = [KeyError("a"), DatabaseUnavailable("gone"), *[KeyError("b")] * (UNFORESEEN_LIMIT - 1)]

    def reconcile(_changed: Collection[str] | None) -> PassSummary:
        if raised:
            raise raised.pop(0)
        loop.stop()
        return SUMMARY

    before = metrics.UNEXPECTED_ERRORS._value.get()
    with capture_logs() as logs:
        loop.run(reconcile)
    assert metrics.UNEXPECTED_ERRORS._value.get() - before == UNFORESEEN_LIMIT
    found = [entry for entry in logs if "unexpected error" in str(entry["event"])]
    assert len(found) == UNFORESEEN_LIMIT
    assert all(isinstance(entry["exc_info"], KeyError) for entry in found)


def test_unforeseen_error_in_pass_after_pass_ends_the_loop() -> None:
    loop = make_loop(interval=0.001)
    passes = list[int]()

    def reconcile(_changed: Collection[str] | None) -> PassSummary:
        passes.append(1)
        raise KeyError("ada@example.com")

    with pytest.raises(LoopFailed, match="5 passes in a row failed.*KeyError.*report it") as raised:
        loop.run(reconcile)
    assert len(passes) == UNFORESEEN_LIMIT and "ada@" not in str(raised.value)


def test_unforeseen_error_after_a_pass_ends_the_loop_only_if_repeated() -> None:
    after = list[PassSummary | None]()

    def record(summary: PassSummary | None) -> None:
        after.append(summary)
        if summary is not None and len(after) == 1:
            raise OverflowError("cannot convert float infinity to integer")
        if len(after) == 3:
            loop.stop()

    loop = Loop(interval=0.001, backoff=NO_PAUSE, random=Random(1), after_pass=record)
    loop.run(lambda _changed: SUMMARY)
    assert after == [SUMMARY, None, SUMMARY]


class DrivenLoop:
    """A loop on a clock that only its passes and looks move, and what it did, in order."""

    def __init__(self, *, interval: float = 10.0, gate_interval: float = 0.05) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.times: list[float] = []
        self.free = 1
        self.steps: list[Callable[[], PassSummary]] = []
        self.loop = Loop(
            interval=interval,
            backoff=NO_PAUSE,
            random=Random(1),
            look_interval=LookInterval(interval=gate_interval, share=0.01),
            monotonic=lambda: self.now,
        )
        # Sleeping moves the clock instead.
        self.loop._woken.wait = self._sleep  # type: ignore[method-assign]  # the hook of this test

    def _sleep(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        return False

    def run(self, *, passes: int, cost: float = 0.0) -> None:
        def note(what: str, summary: PassSummary) -> PassSummary:
            self.done.append(what)
            self.times.append(round(self.now, 6))
            if len(self.done) >= passes:
                self.loop.stop()
            return self.steps.pop(0)() if self.steps else summary

        def reconcile(changed: Collection[str] | None) -> PassSummary:
            name = "full" if changed is None else ",".join(sorted(changed))
            return note(name, replace(SUMMARY, free=self.free))

        self.loop.run(reconcile, lambda: note("look", replace(SUMMARY, free=self.free, cost=cost)))


def test_gate_is_looked_at_between_the_passes_at_its_interval() -> None:
    driven = DrivenLoop(interval=0.12)
    driven.run(passes=6)
    assert driven.done == ["full", "look", "look", "full", "look", "look"]
    assert driven.times == [0.0, 0.05, 0.1, 0.12, 0.15, 0.2]


def test_costly_looks_come_less_often() -> None:
    driven = DrivenLoop(interval=100)
    driven.run(passes=4, cost=0.08)
    assert driven.times == [0.0, 0.05, 8.05, 16.05]


def test_gate_is_not_looked_at_while_no_slot_is_free() -> None:
    driven = DrivenLoop(interval=10)
    driven.free = 0
    driven.run(passes=3)
    assert driven.done == ["full", "full", "full"] and driven.times == [0.0, 10.0, 20.0]


def test_slot_that_becomes_free_is_filled_at_once() -> None:
    driven = DrivenLoop(interval=10)

    def fill() -> PassSummary:
        driven.loop.wake("run-1")
        return SUMMARY

    driven.steps = [fill, lambda: replace(SUMMARY, finished=1, free=1)]
    driven.run(passes=3)
    assert driven.done == ["full", "run-1", "look"] and driven.times == [0.0, 0.0, 0.0]


def test_run_that_ends_while_slots_are_free_brings_no_look_forward() -> None:
    driven = DrivenLoop(interval=100)

    def end_run() -> PassSummary:
        driven.loop.wake("run-1")
        return replace(SUMMARY, free=1, cost=0.08)

    driven.steps = [lambda: replace(SUMMARY, free=1), end_run]
    driven.steps += [lambda: replace(SUMMARY, finished=1, free=2)]
    driven.run(passes=4)
    assert driven.done == ["full", "look", "run-1", "look"]
    assert driven.times == [0.0, 0.05, 0.05, 8.05]


def test_look_that_left_rows_is_followed_at_once() -> None:
    driven = DrivenLoop(interval=10)
    full = replace(SUMMARY, free=500, is_limited=True, launched=500)
    driven.steps = [lambda: replace(SUMMARY, free=1000), lambda: full]
    driven.run(passes=3)
    assert driven.done == ["full", "look", "look"] and driven.times[1:] == [0.05, 0.05]


def test_looks_and_results_take_turns_in_a_flood() -> None:
    driven = DrivenLoop(interval=1000, gate_interval=0.01)

    def step() -> PassSummary:
        driven.now += 1
        driven.loop.wake(f"run-{len(driven.done)}")
        return replace(SUMMARY, free=1)

    driven.steps = [step] * 7
    driven.run(passes=7)
    assert [each == "look" for each in driven.done] == [
        False,
        False,
        True,
        False,
        True,
        False,
        True,
    ]


def test_failed_look_is_followed_by_a_full_pass() -> None:
    driven = DrivenLoop(interval=1000)

    def fail() -> PassSummary:
        raise DatabaseUnavailable("gone")

    driven.steps = [lambda: replace(SUMMARY, free=1), fail]
    driven.run(passes=3)
    assert driven.done == ["full", "look", "full"]


def test_stop_during_a_look_begins_nothing_more() -> None:
    driven = DrivenLoop()

    def stop() -> PassSummary:
        driven.loop.stop()
        return replace(SUMMARY, free=1, is_limited=True)

    driven.steps = [lambda: replace(SUMMARY, free=1), stop]
    driven.run(passes=99)
    assert driven.done == ["full", "look"]
