"""kopf's watch and the loop run side by side: if one of them ends, so does the other."""

import asyncio
import os
import signal
import ssl
import threading
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from enrollgate.control.kopf_controller import Crashed, _run_both


class Loop:
    """The loop, in a thread: it ends when it is stopped, or as the test says."""

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
    """A stand-in for kopf: ready at once, it ends when it is stopped, or as the test says."""

    def __init__(
        self, ends: Callable[[], Awaitable[None]] | None = None, *, is_ready: bool = True
    ) -> None:
        self.ended = False
        self._ends = ends
        self._is_ready = is_ready

    async def run(self, ready: asyncio.Event, stopping: asyncio.Event) -> None:
        try:
            if self._is_ready:
                ready.set()
            await (self._ends() if self._ends is not None else stopping.wait())
        finally:
            self.ended = True


def run(watch: Watch, loop: Loop) -> None:
    asyncio.run(_run_both(watch.run, loop.run, loop.stopped.set))


def fail() -> None:
    raise ZeroDivisionError("an unexpected error")


async def fail_later() -> None:
    await asyncio.sleep(0)
    fail()


async def end() -> None:
    await asyncio.sleep(0)


def test_loop_error_ends_the_watch_and_is_raised() -> None:
    watch, loop = Watch(), Loop(fail)
    with capture_logs() as logs, pytest.raises(ZeroDivisionError, match="an unexpected error"):
        run(watch, loop)
    assert watch.ended
    assert [(entry["log_level"], entry["error"]) for entry in logs] == [
        ("error", "ZeroDivisionError: an unexpected error")
    ]


def test_loop_that_ends_unasked_is_a_crash() -> None:
    watch, loop = Watch(), Loop(lambda: None)
    with pytest.raises(Crashed, match="the loop ended without having been stopped"):
        run(watch, loop)
    assert watch.ended


def test_watch_error_stops_the_loop_and_is_a_crash_with_remedy() -> None:
    watch, loop = Watch(fail_later), Loop()
    with pytest.raises(
        Crashed,
        match="the watch of Jobs failed: ZeroDivisionError: an unexpected error; .*check that",
    ):
        run(watch, loop)
    assert loop.stopped.is_set() and loop.ended.is_set()


async def fail_at_certificate() -> None:
    await asyncio.sleep(0)
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed")
    refused.verify_message = "self-signed certificate in certificate chain"
    raise OSError("Cannot connect to host 10.0.0.1:443") from refused


def test_watch_that_fails_at_a_certificate_is_no_permission_error() -> None:
    watch, loop = Watch(fail_at_certificate), Loop()
    with pytest.raises(Crashed) as crash:
        run(watch, loop)
    text = str(crash.value)
    assert "its certificate is refused: self-signed certificate in certificate chain" in text
    assert "the CA certificate beside the service account's token" in text
    assert "list and watch" not in text


def test_watch_that_ends_unasked_stops_the_loop_and_is_a_crash() -> None:
    watch, loop = Watch(end), Loop()
    with pytest.raises(Crashed, match="the watch ended without having been stopped"):
        run(watch, loop)
    assert loop.ended.is_set()


def test_loop_error_is_raised_when_both_sides_fail() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Watch(fail_later), Loop(fail))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_both_sides_after_the_current_pass(
    number: signal.Signals,
) -> None:
    finished = threading.Event()

    def work() -> None:
        os.kill(os.getpid(), number)
        assert loop.stopped.wait(60), "nobody stopped it"
        finished.set()  # the current pass is completed

    async def signalled(ready: asyncio.Event, stopping: asyncio.Event) -> None:
        before = signal.getsignal(number)
        ready.set()
        while signal.getsignal(number) is before:
            await asyncio.sleep(0)  # until the signals are handled
        may_begin.set()
        await stopping.wait()

    def begin() -> None:
        assert may_begin.wait(60)
        work()

    may_begin = threading.Event()
    loop = Loop(begin)
    asyncio.run(_run_both(signalled, loop.run, loop.stopped.set))
    assert finished.is_set() and loop.ended.is_set()


def test_watch_ended_by_a_signal_before_it_is_ready_is_no_crash() -> None:
    """Until then kopf handles the signals itself, and returns."""
    loop = Loop()
    run(Watch(end, is_ready=False), loop)
    assert loop.ended.is_set()
