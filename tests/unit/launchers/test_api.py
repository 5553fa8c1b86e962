"""Requests to an API server that is slow, overloaded or unreachable. A test clock.

Only texts are read from a real server, on loopback.
"""

import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from random import Random
from typing import Any

import pytest
import urllib3
from kubernetes import client

from enrollgate.launchers import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes import Api
from enrollgate.launchers.kubernetes.api import MAX_ATTEMPTS, TEXT_LIMIT, TIMEOUT, ApiError

POOL = urllib3.HTTPConnectionPool("api.example.com")
Answer = tuple[int, Mapping[str, str], bytes]


class ScriptedApi(Api):
    """Gives the test's answers; None hangs until the timeout. Waiting advances the clock."""

    def __init__(self, *answers: Answer | None, is_stopping: bool = False) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.timeouts: list[Any] = []
        self.answers: Iterator[Answer | None] = iter(answers)
        self.is_stopping = is_stopping
        self.kinds: list[str] = []
        configuration = client.Configuration()
        super().__init__(
            configuration,
            random=Random(1),
            sleep=self.wait,
            monotonic=lambda: self.now,
            on_error=self.kinds.append,
        )

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += 0 if self.is_stopping else seconds
        return self.is_stopping

    def _send(self, *arguments: Any) -> Answer:
        timeout = arguments[-1]
        self.timeouts.append(timeout)
        answer = next(self.answers)
        if answer is None:
            self.now += timeout if isinstance(timeout, float) else sum(timeout)
            raise urllib3.exceptions.ReadTimeoutError(POOL, "/x", "timed out")
        return answer


def refusal(status: int, **headers: str) -> Answer:
    return (
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        b'{"message": "no"}',
    )


OK: Answer = (200, {}, b'{"kind": "Job"}')


def test_a_short_retry_after_is_waited_within_the_request() -> None:
    api = ScriptedApi(refusal(429, Retry_After="7"), OK)
    assert api.request("GET", "/x") == {"kind": "Job"} and api.waits == [7.0]


def test_a_retry_after_date_is_measured_by_the_server_s_clock() -> None:
    until, now = "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:27:51 GMT"
    api = ScriptedApi(refusal(503, Retry_After=until, Date=now), OK)
    assert api.request("GET", "/x") == {"kind": "Job"} and api.waits == [9.0]


def test_each_failed_try_is_counted_by_its_kind() -> None:
    api = ScriptedApi(refusal(429), None, refusal(503), OK)
    api.request("GET", "/x")
    assert api.kinds == ["throttled", "unreachable", "server"]
    for status in (401, 403, 404, 409, 413, 422):
        api.answers = iter([refusal(status)])
        with suppress(ApiError):
            api.request("POST", "/x")
    assert api.kinds[3:] == ["denied", "denied", "invalid", "invalid"]
    api.answers = iter([refusal(400)])
    with suppress(ApiError):
        api.read_text("/log", query={})
    assert len(api.kinds) == 7, "the container of the pod is still waiting to start"


@pytest.mark.parametrize("status", [429, 503])
def test_a_long_retry_after_ends_the_request_and_is_reported(status: int) -> None:
    api = ScriptedApi(refusal(status, Retry_After="75"))
    with pytest.raises(LauncherUnavailable) as raised:
        api.request("GET", "/x")
    assert raised.value.retry_after == 75 and api.waits == []


def test_http_500_counts_as_a_refusal_of_this_request_only() -> None:
    api = ScriptedApi(*[refusal(500)] * MAX_ATTEMPTS)
    with pytest.raises(LauncherRefused):
        api.request("DELETE", "/x")


@pytest.mark.parametrize(
    "answer", [None, refusal(503), refusal(429), (200, {}, b"<html>"), (200, {}, b"[]")]
)
def test_an_unavailable_server_raises_launcher_unavailable(answer: Answer | None) -> None:
    api = ScriptedApi(*[answer] * MAX_ATTEMPTS)
    with pytest.raises(LauncherUnavailable) as raised:
        api.request("DELETE", "/x")
    assert not isinstance(raised.value, LauncherRefused) and raised.value.retry_after == 0
    assert api.timeouts == [TIMEOUT] * MAX_ATTEMPTS


def test_an_answer_that_is_not_json_is_retried() -> None:
    assert ScriptedApi((200, {}, b"<html>"), OK).request("GET", "/x") == {"kind": "Job"}


def test_nothing_is_tried_again_once_the_operator_is_is_stopping() -> None:
    api = ScriptedApi(None, OK, is_stopping=True)
    with pytest.raises(LauncherUnavailable):
        api.request("GET", "/x")
    assert len(api.timeouts) == 1


def test_a_request_with_a_timeout_ends_in_time_and_is_sent_twice() -> None:
    api = ScriptedApi(*[None] * MAX_ATTEMPTS)
    with pytest.raises(LauncherUnavailable):
        api.request("GET", "/x", timeout=4.0)
    assert api.now <= 4.0 and len(api.timeouts) == 2
    assert ScriptedApi(refusal(503), OK).request("GET", "/x", timeout=4.0) == json.loads(OK[2])


@contextmanager
def endless_server(*, is_slow: bool) -> Iterator[str]:
    """Serve a text of lines that never ends; if it is slow, line by line."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b"line\n" * (1 if is_slow else 100))
                    time.sleep(0.001 if is_slow else 0)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("is_slow", [False, True])
def test_text_without_an_end_is_read_up_to_a_size_and_a_time(is_slow: bool) -> None:
    seconds = itertools.count(0, 1 if is_slow else 0)
    configuration = client.Configuration()
    configuration.retries = False
    with endless_server(is_slow=is_slow) as configuration.host:
        api = Api(
            configuration,
            random=Random(1),
            sleep=lambda _seconds: True,
            monotonic=lambda: next(seconds),
        )
        with closing(api):
            text = api.read_text("/log", query={"tailLines": "40"})
    assert text.startswith("line\nline\n")
    assert len(text) < TEXT_LIMIT if is_slow else len(text) == TEXT_LIMIT
