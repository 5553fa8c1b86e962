"""Two sides run beside each other, kopf's watch and the loop: neither outlives the other, and no end goes unnoticed."""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from enrollgate.control.kopf_controller import Crashed, _together


class Loop:
    """The work, in a thread: it ends when it is told to, or as the test says."""

    def __init__(self, ends: Callable[[], None] | None = None) -> None:
        self.stopped = threading.Event()
        self.ended = threading.Event()
        self._ends = ends

    def run(self) -> None:
        try:
            if self._ends is not None:
                self._ends()
            else:
                assert self.stopped.wait(60), "nobody stopped it"
        finally:
            self.ended.set()


class Watch:
    """What stands for kopf: ready at once, it ends when it is told to, or as the test says."""

    def __init__(
        self, ends: Callable[[], Awaitable[None]] | None = None, *, is_ready: bool = True
    ) -> None:
        self.ended = False
        self._ends = ends
        self._is_ready = is_ready

    async def run(self, ready: asyncio.Event, told: asyncio.Event) -> None:
        try:
            if self._is_ready:
                ready.set()
            await (self._ends() if self._ends is not None else told.wait())
        finally:
            self.ended = True


def run(watch: Watch, loop: Loop) -> None:
    asyncio.run(_together(watch.run, loop.run, loop.stopped.set))


def fail() -> None:
    raise ZeroDivisionError("nobody foresaw this")


async def fail_later() -> None:
    await asyncio.sleep(0)
    fail()


async def end() -> None:
    await asyncio.sleep(0)


def test_an_error_that_ends_the_loop_ends_the_watch_and_is_raised() -> None:
    watch, loop = Watch(), Loop(fail)
    with capture_logs() as logs, pytest.raises(ZeroDivisionError, match="nobody foresaw this"):
        run(watch, loop)
    assert watch.ended
    assert [(entry["log_level"], entry["error"]) for entry in logs] == [
        ("error", "ZeroDivisionError: nobody foresaw this")
    ]


def test_a_loop_that_ends_without_having_been_told_to_is_a_crash() -> None:
    watch, loop = Watch(), Loop(lambda: None)
    with pytest.raises(Crashed, match="the loop ended without having been told to"):
        run(watch, loop)
    assert watch.ended


def test_an_error_that_ends_the_watch_stops_the_loop_and_is_a_crash_with_a_remedy() -> None:
    watch, loop = Watch(fail_later), Loop()
    with pytest.raises(
        Crashed, match="the watch of Jobs broke: ZeroDivisionError: nobody foresaw this; .*see that"
    ):
        run(watch, loop)
    assert loop.stopped.is_set() and loop.ended.is_set()


def test_a_watch_that_ends_without_having_been_told_to_stops_the_loop_and_is_a_crash() -> None:
    watch, loop = Watch(end), Loop()
    with pytest.raises(Crashed, match="the watch ended without having been told to"):
        run(watch, loop)
    assert loop.ended.is_set()


def test_when_both_break_the_loops_error_is_the_one_that_is_told() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Watch(fail_later), Loop(fail))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_in_order_and_the_work_under_way_is_finished(
    number: signal.Signals,
) -> None:
    finished = threading.Event()

    def work() -> None:
        os.kill(os.getpid(), number)
        assert loop.stopped.wait(60), "nobody stopped it"
        finished.set()  # the pass under way goes to its end

    async def signalled(ready: asyncio.Event, told: asyncio.Event) -> None:
        before = signal.getsignal(number)
        ready.set()
        while signal.getsignal(number) is before:
            await asyncio.sleep(0)  # until the signals are taken
        may_begin.set()
        await told.wait()

    def begin() -> None:
        assert may_begin.wait(60)
        work()

    may_begin = threading.Event()
    loop = Loop(begin)
    asyncio.run(_together(signalled, loop.run, loop.stopped.set))
    assert finished.is_set() and loop.ended.is_set()


def test_a_watch_that_a_signal_ended_before_it_was_ready_is_no_crash() -> None:
    """Until then kopf takes the signals itself, and returns."""
    loop = Loop()
    run(Watch(end, is_ready=False), loop)
    assert loop.ended.is_set()
