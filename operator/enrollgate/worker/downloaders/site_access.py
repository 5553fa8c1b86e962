"""Respect what a site answers: wait when it asks for it, and stop when it says stop.

All requests of a run share one `SiteAccess`, whichever thread sends them and whatever they are for:
pages, media, fragments of streams, keys. After a rate limit or a bot check nothing more is sent to
that host. After a short `Retry-After` all requests to the host wait, and the refused one is
repeated.
"""

import ssl
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from enrollgate.common.retry_after import retry_after
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.answers import AnswerLimits
from enrollgate.worker.downloaders.refused import RequestRefused
from enrollgate.worker.downloaders.site_answers import LOOKED_AT, Answer, explain_answer
from enrollgate.worker.downloaders.yt_dlp_compat import HTTPError, Request, Response

# Answers that say when to come back (RFC 9110, 10.2.3; RFC 6585, 4).
_BUSY = frozenset({429, 503})
# How often one request is repeated.
_MAX_REPEATS = 3
# Seconds to wait at least, also if the site says 0.
_MIN_WAIT = 1.0
_CLOSING = frozenset({Reason.RATE_LIMITED, Reason.BOT_CHECK})
# The beginnings of the Content-Types whose body may be a page or an answer in words.
_TEXT = ("text/", "application/json", "application/xml", "application/xhtml", "application/problem")


class SiteAccess:
    """What the hosts of one run allow at the moment. Safe for several threads.

    `max_wait` is how many seconds a request waits at most, in all, because a site asks for it.
    `min_rate` is how many bytes per second each connection must send; 0: no minimum. `monotonic`
    gives seconds. `stop` ends each wait and each answer.
    """

    def __init__(
        self,
        *,
        max_wait: float,
        min_rate: int = 0,
        stop: threading.Event,
        monotonic: Callable[[], float],
    ) -> None:
        self.limits = AnswerLimits(stop, min_rate=min_rate, monotonic=monotonic)
        # By whether old servers are supported. To load the authorities takes a while.
        self.tls_contexts = dict[bool | None, ssl.SSLContext]()
        self._max_wait = max_wait
        self._stop = stop
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # By host: what closed it, and until when it asked us to wait.
        self._closed = dict[str, Failure]()
        self._paused = dict[str, float]()

    def send(self, request: Request, send: Callable[[], Response]) -> Response:
        """Send a request, when the host allows it.

        Raises RequestRefused if it does not, or if the answer is a bot check or a login page. An
        error of yt-dlp's passes; the Failure that its answer means is then its cause.
        """
        host = urlsplit(request.url).hostname or ""
        waited = 0.0
        for repeats in range(_MAX_REPEATS + 1):
            with self._lock:
                closed = self._closed.get(host)
                left = self._paused.get(host, 0.0) - self._monotonic()
            if closed is not None:
                raise RequestRefused(closed)
            if left > 0 and self._stop.wait(left):
                message = "asked to stop while waiting for the site; the next attempt goes on"
                raise RequestRefused(Failure(Reason.STOPPED, message))
            try:
                response = send()
            except HTTPError as error:
                head = error.response.fp.read(LOOKED_AT)
                error.response.fp.seek(0)  # it is in memory, and may be read again
                answer = _build_answer(request, error.response, head)
                failure = explain_answer(answer)
                asked = retry_after(answer.headers.get("retry-after"), answer.headers.get("date"))
                wait = max(asked or 0.0, _MIN_WAIT)
                is_final = failure is not None and failure.reason is not Reason.RATE_LIMITED
                may_repeat = answer.status in _BUSY and not is_final and repeats < _MAX_REPEATS
                if may_repeat and asked is not None and waited + wait <= self._max_wait:
                    waited += wait
                    with self._lock:
                        until = max(self._paused.get(host, 0.0), self._monotonic() + wait)
                        self._paused[host] = until
                    continue
                self._close_if_final(host, failure)
                raise error from failure or error.__cause__
            return self._inspect(host, request, response)
        raise AssertionError("the last repetition returns or raises")

    def _inspect(self, host: str, request: Request, response: Response) -> Response:
        """Return the response; of a page, one that is inspected as it is read."""
        failure = explain_answer(_build_answer(request, response, b""))
        if failure is not None:
            response.close()
            self._close_if_final(host, failure)
            raise RequestRefused(failure)
        kind = (response.headers.get("Content-Type") or _TEXT[0]).strip().lower()
        if not kind.startswith(_TEXT):
            return response
        return InspectedResponse(request, response, lambda found: self._close_if_final(host, found))

    def _close_if_final(self, host: str, failure: Failure | None) -> None:
        if failure is not None and failure.reason in _CLOSING:
            with self._lock:
                self._closed.setdefault(host, failure)


class InspectedResponse(Response):  # type: ignore[misc]  # yt-dlp has no types
    """The response of a page. Once it is read as a whole, it is looked at.

    yt-dlp may read the beginning of a page before the rest.
    """

    def __init__(
        self, request: Request, source: Response, on_failure: Callable[[Failure], None]
    ) -> None:
        super().__init__(source, source.url, source.headers, source.status, source.reason)
        self._request = request
        self._on_failure = on_failure
        self._head = b""
        # The page, once it is read.
        self.answer: Answer | None = None

    def __del__(self) -> None:
        """Leave the source open. A later request for the same address may read it again."""

    def read(self, amt: int | None = None) -> bytes:
        """Return at most `amt` bytes, or the rest if it is None.

        Raises RequestRefused if the page as a whole is a login page or a bot check.
        """
        data: bytes = self.fp.read(amt)
        if len(self._head) < LOOKED_AT:
            self._head += data[:LOOKED_AT]
        if amt is None or amt < 0:
            self.answer = _build_answer(self._request, self, self._head)
            if (failure := explain_answer(self.answer)) is not None:
                self.close()
                self._on_failure(failure)
                raise RequestRefused(failure)
        if self.fp.closed:
            self.close()
        return data


def _build_answer(request: Request, response: Response, head: bytes) -> Answer:
    headers = {name.lower(): str(value) for name, value in response.headers.items()}
    return Answer(response.status, request.url, response.url, headers, head)
