"""Limit what a site may send, so that neither memory nor time grows with it.

A site may answer with endless headers, with chunks that hold no data, with a page that never ends,
or with one byte an hour. Each answer is read as a `WatchedAnswer`, which looks at the stop event,
the time and the amount after each read from the connection. yt-dlp gets it as a `BoundedResponse`,
which refuses a page that is too large and notices one that was cut off. Media are read block by
block: they may have any size, and take any time that keeps the minimum rate.
"""

import contextlib
import http.client
import io
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from typing_extensions import Buffer

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.refused import RequestRefused
from enrollgate.worker.downloaders.yt_dlp_compat import (
    IncompleteRead,
    Response,
    TransportError,
    UrllibResponseAdapter,
)

# Bytes of a page, a playlist or an answer of an API, decompressed.
MAX_PAGE = 64 << 20
# Bytes of an error page that are kept.
_MAX_ERROR_PAGE = 1 << 20
_BLOCK = 1 << 16
# Bytes of headers and of chunked framing: so many, and so many more for each byte of data.
_MAX_OVERHEAD = 2 << 20
_OVERHEAD_PER_BYTE = 16
# Seconds of waiting for a connection after which its rate is looked at. Only the time counts in
# which we wait: a worker that is slow itself finds the bytes there.
_RATE_WINDOW = 60.0


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """What ends the reading of an answer."""

    stop: threading.Event
    # Seconds for the headers of an answer, and again for a page as a whole.
    page_timeout: float = 300.0
    # Bytes per second that each connection must send; 0: no minimum.
    min_rate: int = 0
    monotonic: Callable[[], float] = time.monotonic


class WatchedAnswer(http.client.HTTPResponse):
    """An answer whose reads from the connection are checked. They raise RequestRefused."""

    def __init__(
        self, sock: socket.socket, *arguments: Any, limits: AnswerLimits, **options: Any
    ) -> None:
        super().__init__(sock, *arguments, **options)
        self._limits = limits
        self._received = self._delivered = 0  # bytes from the connection; bytes of the body
        self._deadline: float | None = None
        # Seconds that we waited for the connection, and the bytes that arrived meanwhile.
        self._waited, self._arrived = 0.0, 0
        self.limit_time()
        checked = _CheckedSocket(self.fp.detach(), self.check, limits.monotonic)
        self.fp = io.BufferedReader(checked)

    def begin(self) -> None:
        """Read the headers."""
        super().begin()
        self._deadline = None

    def read(self, amt: int | None = None) -> bytes:
        """Return at most `amt` bytes of the body, nothing at its end."""
        data = super().read(amt)
        self._delivered += len(data)
        return data

    def limit_time(self) -> None:
        """From now on, refuse the answer if it takes longer than a page may take."""
        self._deadline = self._limits.monotonic() + self._limits.page_timeout

    def check(self, received: int, waited: float) -> None:
        """Count the bytes that arrived after so many seconds.

        Raises RequestRefused if nothing more is to be read.
        """
        self._received += received
        self._waited += waited
        self._arrived += received
        if self._waited >= _RATE_WINDOW:
            rate = self._arrived / self._waited
            if rate < self._limits.min_rate:
                seconds = self._waited
                message = f"the site sent {rate:.0f} bytes per second for {seconds:.0f} seconds"
                raise RequestRefused(Failure(Reason.NETWORK_ERROR, message))
            self._waited, self._arrived = 0.0, 0
        if self._limits.stop.is_set():
            raise RequestRefused(Failure(Reason.STOPPED, "asked to stop while the site answered"))
        if self._received > _MAX_OVERHEAD + _OVERHEAD_PER_BYTE * (self._delivered + _BLOCK):
            message = f"the site sent over {_MAX_OVERHEAD >> 20} MiB of headers or empty chunks"
            raise RequestRefused(Failure(Reason.SITE_ERROR, message))
        if self._deadline is not None and self._limits.monotonic() > self._deadline:
            seconds = self._limits.page_timeout
            message = f"the site did not finish its answer within {seconds:.0f} seconds"
            raise RequestRefused(Failure(Reason.SITE_ERROR, message))


class _Readable(Protocol):
    """What `socket.makefile` reads from."""

    def readinto(self, buffer: Buffer, /) -> int | None:
        """Fill the buffer as far as data is there."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class _CheckedSocket(io.RawIOBase):
    """The bytes of a connection, as they arrive."""

    def __init__(
        self,
        source: _Readable,
        check: Callable[[int, float], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._source = source
        self._check = check
        self._monotonic = monotonic

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int | None:
        start = self._monotonic()
        size = self._source.readinto(buffer)
        self._check(size or 0, self._monotonic() - start)
        return size

    def close(self) -> None:
        self._source.close()
        super().close()


# Bytes of an answer that are kept, so that it can be read from its start.
_LOOKED_AT = 1024


class BoundedResponse(Response):  # type: ignore[misc]  # yt-dlp has no types
    """A response of yt-dlp's that reads no more than a page as a whole."""

    def __init__(self, source: UrllibResponseAdapter) -> None:
        super().__init__(source.fp, source.url, source.headers, source.status, source.reason)
        self._source = source
        # An answer that is decompressed is below a wrapper.
        self._answer: WatchedAnswer = getattr(source.fp, "answer", source.fp)
        self._size = 0  # bytes of the body so far
        # What was read, while that is little: an extractor looks at the start of a file.
        self._head = b""
        self._again = b""
        self._is_spent = False

    def rewind(self) -> bool:
        """Let the body be read from its start. Returns False if too much of it was read."""
        if self.closed or self._is_spent or self._size != len(self._head):
            return False
        self._again = self._head
        return True

    def read(self, amt: int | None = None) -> bytes:
        """Return at most `amt` bytes, or the rest of the page if it is None.

        Raises RequestRefused if the page is too large or takes too long, and IncompleteRead if it
        was cut off.
        """
        if amt is not None and amt >= 0:
            return self._read_block(amt)
        answer = self._answer
        answer.limit_time()
        page = bytearray()
        with contextlib.closing(self):
            while block := self._read_block(_BLOCK):
                page += block
                if len(page) > MAX_PAGE:
                    message = f"a page of the site has more than {MAX_PAGE >> 20} MiB"
                    raise RequestRefused(Failure(Reason.SITE_ERROR, message))
            if self.fp is answer and answer.length:
                raise IncompleteRead(partial=self._size, expected=answer.length)
        return bytes(page)

    def _read_block(self, amt: int) -> bytes:
        if self._again:
            again, self._again = self._again[:amt], self._again[amt:]
            return again
        self._is_spent = True  # unless this read succeeds
        block: bytes = self._source.read(amt)
        self._is_spent = not block
        if self._size == len(self._head) < _LOOKED_AT:
            self._head += block[:_LOOKED_AT]
        self._size += len(block)
        if self._source.closed:
            self.close()
        return block

    def keep_error_page(self) -> Response:
        """Close the connection and return a copy with the start of the page in memory.

        Its status keeps its meaning, whatever the page is. Raises RequestRefused if the run is to
        stop.
        """
        self._answer.limit_time()
        page = bytearray()
        try:
            while len(page) < _MAX_ERROR_PAGE and (block := self._read_block(_BLOCK)):
                page += block
        except RequestRefused as refused:
            if refused.failure.reason is Reason.STOPPED:
                raise
        except TransportError:
            pass  # the page was cut off or damaged
        finally:
            self.close()
        return Response(io.BytesIO(page), self.url, self.headers, self.status, self.reason)
