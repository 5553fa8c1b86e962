"""A real HTTP course site that misbehaves on demand.

It serves a course as an RSS feed. A test may script the answer of each path, and reads from
`FaultySite.sent` which requests came and how many bytes were sent.
"""

import fcntl
import re
import socket
import struct
import termios
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Self
from xml.sax.saxutils import escape

from tests.rate_limiter import RateLimiter


@dataclass(frozen=True)
class Lecture:
    title: str
    content: bytes
    section: str = ""


@dataclass(frozen=True)
class Sent:
    method: str
    path: str
    status: int
    bytes: int
    range: str | None
    cookie: str | None


@dataclass
class Fault:
    """What a path does instead of serving, for the next `times` requests."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    # Reset the connection before more than so many bytes are sent. All bytes sent before arrive.
    reset_after: int | None = None
    # Announce so many bytes more than the body has.
    claim_more: int = 0
    # Wait for this event before sending the second half of the body.
    hold: threading.Event | None = None
    location: str | None = None
    times: int = 1_000_000


def content(size: int, seed: int = 1) -> bytes:
    """Return random bytes that are the same for the same seed."""
    return Random(seed).randbytes(size)


def encode(body: bytes, encoding: str) -> bytes:
    """Return the body as a server sends it with this Content-Encoding.

    Encodings are applied in the order of the header (RFC 9110, section 8.4).
    """
    for name in encoding.split(", "):
        wbits = {
            "gzip": zlib.MAX_WBITS | 16,
            "deflate": zlib.MAX_WBITS,
            "raw deflate": -zlib.MAX_WBITS,
        }[name]
        compressor = zlib.compressobj(wbits=wbits)
        body = compressor.compress(body) + compressor.flush()
    return body


class FaultySite:
    """Serves `/feed` (RSS) and `/1.mp4`, `/2.mp4`, ... on 127.0.0.1."""

    def __init__(self, lectures: list[Lecture]) -> None:
        self.lectures = lectures
        self.faults: dict[str, Fault] = {}
        self.sent: list[Sent] = []
        self.pages: dict[str, tuple[str, bytes]] = {}
        # A request whose Cookie header does not contain this is answered with 401.
        self.wants_cookie = ""
        # The same for lectures only, which are answered with 403.
        self.wants_cookie_for_media = ""
        # The Content-Encoding of a path, error pages included: `gzip`, `deflate`, `raw deflate`,
        # or several with commas.
        self.encodings: dict[str, str] = {}
        # The Set-Cookie header of a path.
        self.sets_cookie: dict[str, str] = {}
        # More headers of a page, by the name that it has in `pages`.
        self.headers: dict[str, dict[str, str]] = {}
        # Bytes per second of all connections together. 0 means no limit.
        self.rate = 0.0
        # Called with the size of each chunk of a body before it is sent.
        self.on_bytes: Callable[[int], None] = lambda _size: None
        self._rate_limiter = RateLimiter()
        self.on_request: Callable[[str], None] = lambda _path: None
        # Returns what `faults` and `pages` name a request's path by. The default drops the query.
        self.find_address: Callable[[str], str] = lambda path: path.partition("?")[0]
        site = self

        class Handler(_Handler):
            faulty_site = site
            disable_nagle_algorithm = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # Bytes that are sent but not yet read wait in buffers. These are kept small, so that the
        # bytes that are counted are nearly the bytes that arrive.
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def before_chunk(self, size: int) -> None:
        """Report a chunk of a body and wait until the rate allows to send it."""
        self.on_bytes(size)
        self._rate_limiter.wait(size, self.rate)

    @property
    def size(self) -> int:
        """Return the bytes of all lectures."""
        return sum(len(lecture.content) for lecture in self.lectures)

    @property
    def media_bytes(self) -> int:
        """Return the bytes of lectures that were sent."""
        return sum(sent.bytes for sent in self.sent if sent.path.endswith(".mp4"))

    def feed(self) -> bytes:
        """Return the course as an RSS feed."""
        items = "".join(
            f"<item><title>{escape(lecture.title)}</title><guid>lecture-{number}</guid>"
            f'<enclosure url="{self.url}/{number}.mp4?token=secret" type="video/mp4"/></item>'
            for number, lecture in enumerate(self.lectures, 1)
        )
        channel = f"<channel><title>A course</title>{items}</channel>"
        return f'<?xml version="1.0"?><rss version="2.0">{channel}</rss>'.encode()


class _Handler(BaseHTTPRequestHandler):
    faulty_site: FaultySite
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def _serve(self, *, with_body: bool) -> None:
        site, path = self.faulty_site, self.faulty_site.find_address(self.path)
        site.on_request(path)
        fault = site.faults.get(path, Fault())
        if fault.times <= 0:
            fault = Fault()
        else:
            fault.times -= 1
        if site.wants_cookie not in (self.headers.get("Cookie") or ""):
            self._send(401, b"log in", "text/plain", {}, fault, with_body)
        elif path.endswith(".mp4") and site.wants_cookie_for_media not in (
            self.headers.get("Cookie") or ""
        ):
            self._send(403, b"no", "text/plain", {}, fault, with_body)
        elif fault.location:
            self._send(302, b"", "text/plain", {"Location": fault.location}, fault, with_body)
        elif fault.status:
            self._send(fault.status, b"no", "text/plain", fault.headers, fault, with_body)
        elif path == "/feed":
            self._send(200, site.feed(), "application/rss+xml", {}, fault, with_body)
        # A page is registered with its query or without.
        elif page := site.pages.get(self.path) or site.pages.get(path):
            kind, body = page
            cookie = {"Set-Cookie": site.sets_cookie[path]} if path in site.sets_cookie else {}
            cookie |= site.headers.get(self.path) or site.headers.get(path) or {}
            self._send(200, body, kind, cookie, fault, with_body)
        elif (match := re.fullmatch(r"/(\d+)\.mp4", path)) and 1 <= int(match[1]) <= len(
            site.lectures
        ):
            self._send(
                200, site.lectures[int(match[1]) - 1].content, "video/mp4", {}, fault, with_body
            )
        else:
            self._send(404, b"no such page", "text/plain", {}, fault, with_body)

    def _send(
        self,
        status: int,
        body: bytes,
        kind: str,
        headers: dict[str, str],
        fault: Fault,
        with_body: bool,
    ) -> None:
        encoding = self.faulty_site.encodings.get(self.path.partition("?")[0], "")
        if encoding:
            body, headers = (
                encode(body, encoding),
                {**headers, "Content-Encoding": encoding.replace("raw ", "")},
            )
        requested_range = self.headers.get("Range")
        start, whole = 0, len(body)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", requested_range or "")
        etag = f'"{zlib.crc32(body):08x}"'
        if self.headers.get("If-Range") not in (None, etag):
            match = None
        if status == 200:
            headers = {"ETag": etag, **headers}
        if status == 200 and match and int(match[1]) < len(body):
            start, status = int(match[1]), 206
            body = body[: int(match[2]) + 1] if match[2] else body
        sent = 0
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) - start + fault.claim_more))
            self.send_header("Accept-Ranges", "bytes")
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{whole}")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            half = (len(body) - start) // 2
            chunk_size = 16384 if self.faulty_site.rate else 8192
            for offset in range(start, len(body), chunk_size) if with_body else ():
                if fault.hold is not None and offset - start >= half:
                    fault.hold.wait(60)
                chunk = body[offset : offset + chunk_size]
                self.faulty_site.before_chunk(len(chunk))
                if fault.reset_after is not None and sent + len(chunk) > fault.reset_after:
                    self._reset_connection()
                    return
                self.wfile.write(chunk)
                sent += len(chunk)
            if fault.claim_more:
                self.close_connection = True
        except (BrokenPipeError, ConnectionResetError, ValueError):
            self.close_connection = True
        finally:
            record = Sent(
                self.command,
                self.path.partition("?")[0],
                status,
                sent,
                requested_range,
                self.headers.get("Cookie"),
            )
            self.faulty_site.sent.append(record)

    def _reset_connection(self) -> None:
        """Wait until the client's kernel has every byte that was sent, then send a TCP reset.

        A reset discards bytes that are not sent yet, so without the wait the client would get a
        random number of bytes. TIOCOUTQ is the number of bytes not acknowledged yet.
        """
        self.wfile.flush()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if not any(fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4))):
                break
            time.sleep(0.001)
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()
