"""Requests to an API server that is slow, overloaded, or not there at all; on a driven clock, without a network."""

import json
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import pytest
import urllib3
from kubernetes import client

from enrollgate.launchers import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes import Api
from enrollgate.launchers.kubernetes.api import TIMEOUT, TRIES

Answer = tuple[int, Mapping[str, str], bytes]


class Scripted(Api):
    """Answers are the test's; None hangs until the time-out. Waiting moves the clock."""

    def __init__(self, *answers: Answer | None, told_to_stop: bool = False) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.timeouts: list[Any] = []
        self.answers: Iterator[Answer | None] = iter(answers)
        self.told_to_stop = told_to_stop
        configuration = client.Configuration()
        super().__init__(
            configuration, random=Random(1), sleep=self.wait, monotonic=lambda: self.now
        )

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += 0 if self.told_to_stop else seconds
        return self.told_to_stop

    def _send(self, *arguments: Any) -> Answer:
        timeout = arguments[-1]
        self.timeouts.append(timeout)
        answer = next(self.answers)
        if answer is None:
            self.now += timeout if isinstance(timeout, float) else sum(timeout)
            raise urllib3.exceptions.ReadTimeoutError(None, "/x", "timed out")  # type: ignore[arg-type]  # no pool here
        return answer


def refusal(status: int, **headers: str) -> Answer:
    return (
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        b'{"message": "no"}',
    )


FINE: Answer = (200, {}, b'{"kind": "Job"}')


def test_a_short_wish_to_be_left_alone_is_honoured_within_the_request() -> None:
    api = Scripted(refusal(429, Retry_After="7"), FINE)
    assert api.request("GET", "/x") == {"kind": "Job"} and api.waits == [7.0]


def test_a_wish_to_be_left_alone_until_a_moment_is_reckoned_by_the_server_s_clock() -> None:
    until, now = "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:27:51 GMT"
    api = Scripted(refusal(503, Retry_After=until, Date=now), FINE)
    assert api.request("GET", "/x") == {"kind": "Job"} and api.waits == [9.0]


@pytest.mark.parametrize("status", [429, 503])
def test_a_long_wish_to_be_left_alone_gives_the_request_up_and_is_passed_on(status: int) -> None:
    api = Scripted(refusal(status, Retry_After="75"))
    with pytest.raises(LauncherUnavailable) as given_up:
        api.request("GET", "/x")
    assert given_up.value.retry_after == 75 and api.waits == []


def test_a_request_that_makes_the_server_fail_says_nothing_of_other_requests() -> None:
    api = Scripted(*[refusal(500)] * TRIES)
    with pytest.raises(LauncherRefused):
        api.request("DELETE", "/x")


@pytest.mark.parametrize(
    "answer", [None, refusal(503), refusal(429), (200, {}, b"<html>"), (200, {}, b"[]")]
)
def test_a_server_that_is_away_is_away_for_all_requests(answer: Answer | None) -> None:
    api = Scripted(*[answer] * TRIES)
    with pytest.raises(LauncherUnavailable) as given_up:
        api.request("DELETE", "/x")
    assert not isinstance(given_up.value, LauncherRefused) and given_up.value.retry_after == 0
    assert api.timeouts == [TIMEOUT] * TRIES


def test_what_a_proxy_answers_in_its_place_is_asked_again() -> None:
    assert Scripted((200, {}, b"<html>"), FINE).request("GET", "/x") == {"kind": "Job"}


def test_nothing_is_tried_again_once_the_operator_is_told_to_stop() -> None:
    api = Scripted(None, FINE, told_to_stop=True)
    with pytest.raises(LauncherUnavailable):
        api.request("GET", "/x")
    assert len(api.timeouts) == 1


def test_a_request_with_a_deadline_never_outlives_it_and_is_tried_twice() -> None:
    api = Scripted(*[None] * TRIES)
    with pytest.raises(LauncherUnavailable):
        api.request("GET", "/x", within=4.0)
    assert api.now <= 4.0 and len(api.timeouts) == 2
    assert Scripted(refusal(503), FINE).request("GET", "/x", within=4.0) == json.loads(FINE[2])
