"""The loop: it repeats, it can be woken, it survives trouble, and it ends only when told to."""

import threading
from random import Random

from structlog.testing import capture_logs

from enrollgate.database import DatabaseUnavailable
from enrollgate.domain.backoff import Backoff
from enrollgate.loop import Loop
from enrollgate.reconciler import PassSummary

SUMMARY = PassSummary(waiting=0, enrolled=0, unfinished=0, launched=0, finished=0, expired=0, statements=3)
NO_PAUSE = Backoff(base=0.001, factor=1.0, cap=0.001)


def make_loop(interval: float) -> Loop:
    return Loop(interval=interval, backoff=NO_PAUSE, random=Random(1))


def test_a_wake_brings_the_next_pass_at_once() -> None:
    loop = make_loop(interval=3600)  # without the wake the second pass would be an hour away
    passes: list[int] = []

    def reconcile() -> PassSummary:
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

    def reconcile() -> PassSummary:
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

    def reconcile() -> PassSummary:
        if troubles:
            raise DatabaseUnavailable(troubles.pop(0))
        loop.stop()
        return SUMMARY

    with capture_logs() as logs:
        loop.run(reconcile)
    errors = [entry["error"] for entry in logs if entry["log_level"] == "error"]
    assert errors == [f"DatabaseUnavailable: {word}" for word in ("gone", "slow", "gone")]
    assert [entry["failed_passes"] for entry in logs if entry["event"] == "passes succeed again"] == [5]


def test_a_pass_that_left_work_is_followed_by_the_next_at_once() -> None:
    loop = make_loop(interval=3600)
    expired = [1000, 1000, 3]

    def reconcile() -> PassSummary:
        count = expired.pop(0)
        if not expired:
            loop.stop()
        return PassSummary(waiting=0, enrolled=0, unfinished=0, launched=0, finished=0, expired=count, statements=3)

    loop.run(reconcile)
    assert expired == []
