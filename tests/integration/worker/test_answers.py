"""What the request handler makes of answers: the time they take, their ends, and the stop event."""

import itertools
import threading
import time
from collections.abc import Iterable, Iterator

import pytest
from tests.raw_site import RawSite, answer

from enrollgate.domain.reasons import Reason
from enrollgate.worker.downloaders.answers import AnswerLimits
from enrollgate.worker.downloaders.network_guard import GuardedRequestHandler
from enrollgate.worker.downloaders.refused import RequestRefused
from enrollgate.worker.downloaders.yt_dlp_compat import (
    HTTPError,
    IncompleteRead,
    Request,
    TransportError,
)

# Takes many reads from the connection.
BODY = b"<p>hello</p>" * 10_000


class Logger:
    def debug(self, _message: str) -> None: ...


@pytest.fixture
def site() -> Iterator[RawSite]:
    with RawSite() as running:
        yield running


def handler(
    site: RawSite, stop: threading.Event | None = None, step: float = 0
) -> GuardedRequestHandler:
    """Return a handler whose clock goes `step` seconds on at each look."""
    clock = itertools.count(step=step)
    limits = AnswerLimits(stop or threading.Event(), monotonic=lambda: float(next(clock)))
    return GuardedRequestHandler(logger=Logger(), allowed_hosts=(site.host,), limits=limits)


def test_a_page_that_takes_too_long_is_refused(site: RawSite) -> None:
    site.answers["/"] = lambda _: [answer(BODY)]
    with handler(site, step=100) as guarded:
        response = guarded.send(Request(f"{site.url}/"))
        with pytest.raises(RequestRefused, match="within 300 seconds") as refused:
            response.read()
    assert refused.value.failure.reason is Reason.SITE_ERROR


def test_media_may_take_any_time(site: RawSite) -> None:
    site.answers["/"] = lambda _: [answer(BODY)]
    with handler(site, step=100) as guarded:
        response = guarded.send(Request(f"{site.url}/"))
        blocks = iter(lambda: response.read(1000), b"")
        assert b"".join(blocks) == BODY


def test_headers_that_take_too_long_are_refused(site: RawSite) -> None:
    def drip(_: object) -> Iterable[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        for _number in range(20):
            time.sleep(0.02)  # so that they are read one by one
            yield b"X: 1\r\n"

    site.answers["/"] = drip
    with handler(site, step=100) as guarded:
        with pytest.raises(RequestRefused, match="within 300 seconds"):
            guarded.send(Request(f"{site.url}/"))


@pytest.mark.parametrize("status", [403, 404, 503])
def test_an_error_page_that_takes_too_long_keeps_its_status(site: RawSite, status: int) -> None:
    site.answers["/"] = lambda _: [answer(BODY, f"{status} X")]
    with handler(site, step=100) as guarded:
        with pytest.raises(HTTPError) as error:
            guarded.send(Request(f"{site.url}/"))
    assert error.value.status == status


def test_an_answer_is_read_although_nobody_keeps_it(site: RawSite) -> None:
    """Many extractors write `urlopen(url).read()`."""
    site.answers["/"] = lambda _: [answer(BODY)]
    with handler(site) as guarded:
        assert guarded.send(Request(f"{site.url}/")).read() == BODY


@pytest.mark.parametrize("start", [0, 100])
def test_a_page_that_was_cut_off_is_an_error(site: RawSite, start: int) -> None:
    site.answers["/"] = lambda _: [answer(BODY, Content_Length=str(len(BODY) + 7))]
    with handler(site) as guarded:
        response = guarded.send(Request(f"{site.url}/"))
        response.read(start)
        with pytest.raises(IncompleteRead) as cut:
            response.read()
    assert (cut.value.partial, cut.value.expected) == (len(BODY), 7)


def test_a_chunked_page_that_was_cut_off_is_an_error(site: RawSite) -> None:
    body = b"5\r\nhello\r\n9\r\nwor"
    site.answers["/"] = lambda _: [answer(body, Transfer_Encoding="chunked")]
    with handler(site) as guarded:
        with pytest.raises(TransportError):
            guarded.send(Request(f"{site.url}/")).read()


@pytest.mark.parametrize("url", ["https://a.example:99999/", "https://a:b/"])
def test_a_malformed_url_is_refused(site: RawSite, url: str) -> None:
    with handler(site) as guarded:
        with pytest.raises(RequestRefused, match="malformed"):
            guarded.send(Request(url))


def test_nothing_is_sent_after_the_stop(site: RawSite) -> None:
    stop = threading.Event()
    stop.set()
    with handler(site, stop) as guarded:
        with pytest.raises(RequestRefused) as refused:
            guarded.send(Request(f"{site.url}/"))
    assert refused.value.failure.reason is Reason.STOPPED
    assert site.requests == []


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_an_answer_is_not_read_on_after_the_stop(site: RawSite, status: str) -> None:
    stop = threading.Event()

    def endless(_: object) -> Iterable[bytes]:
        yield f"HTTP/1.1 {status}\r\n\r\n".encode()
        for number in itertools.count():
            yield b"x"
            if number > 100:
                stop.set()

    site.answers["/"] = endless
    with handler(site, stop) as guarded:
        with pytest.raises(RequestRefused) as refused:
            with guarded.send(Request(f"{site.url}/")) as response:
                while response.read(1000):
                    pass
    assert refused.value.failure.reason is Reason.STOPPED
