"""A course site that watches its visitors: the witness of the chaos suite.

Each course belongs to one row as Node.js wrote it (`12-1` is the first course of task 12), so the
log of requests says what was asked for whom. Lectures are small real videos, sent slowly, so that
faults hit transfers.

The site itself notes what must never happen: a request for a course that is not enrolled yet, and
two processes that load a task's course at the same moment. It looks up which process has the other
end of a connection, so a download that is frozen or about to die counts as long as it lives.
"""

import functools
import re
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import psutil
from tests.media import lecture

LECTURES = 3
_CHUNK = 4096


@dataclass(frozen=True)
class Course:
    """A course of a task: its first, or one that replaced it."""

    task_id: int
    version: int

    @property
    def name(self) -> str:
        return f"{self.task_id}-{self.version}"

    @property
    def title(self) -> str:
        return f"Course {self.name}"

    @property
    def lectures(self) -> list[bytes]:
        """Return the files that the course lists. Each has bytes of its own."""
        return [_make_lecture(f"{self.name}/{number}") for number in range(1, LECTURES + 1)]


@dataclass(frozen=True)
class Request:
    """One line of the site's log."""

    course: str
    account: str
    path: str
    status: int


@functools.cache
def _make_lecture(name: str) -> bytes:
    seed = zlib.crc32(name.encode())
    return lecture(Random(seed).randint(4_000, 60_000), seed)


def find_clients(port: int) -> dict[int, int]:
    """Return the living process at the other end of each connection to this port, by its port."""
    return {
        connection.laddr.port: connection.pid
        for connection in psutil.net_connections("tcp4")
        if connection.status == psutil.CONN_ESTABLISHED
        and connection.laddr
        and port in connection.raddr
        and connection.pid is not None
    }


class WatchfulSite:
    """Serves `/courses/<task>-<version>/feed` and the lectures that it lists, on 127.0.0.1.

    `rate` is in bytes per second of each transfer.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.log: list[Request] = []
        # What must never happen, in words.
        self.violations: list[str] = []
        # Requests that are answered with 503 instead.
        self.refuse_next = 0
        # Accounts, without the domain of their e-mail, and courses.
        self._enrolled = set[tuple[str, str]]()
        self._lock = threading.Lock()
        # The task that each open connection is for, by the client's port.
        self._connections: dict[int, int] = {}
        site = self

        class Handler(_Handler):
            watchful_site = site

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.host = f"127.0.0.1:{self.port}"

    @contextmanager
    def serving(self) -> Iterator["WatchfulSite"]:
        """Serve while in this context."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def course_url(self, course: str) -> str:
        """Return what Node.js writes into `course_url`."""
        return f"http://{self.host}/courses/{course}/feed"

    def enroll(self, account: str, course: str) -> None:
        """Enroll the account: from now on, requests for the course are right."""
        with self._lock:
            self._enrolled.add((account.partition("@")[0], course))

    def cookies_file(self, account: str) -> str:
        """Return the account's cookies in the Netscape format."""
        return (
            "# Netscape HTTP Cookie File\n"
            f"127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tsession\t{account.partition('@')[0]}\n"
        )

    def admit(self, course: Course, account: str, port: int) -> int:
        """Note who asks for a course over the connection from this port. Returns a status."""
        with self._lock:
            is_enrolled = (account, course.name) in self._enrolled
            others = [
                other
                for other, task_id in self._connections.items()
                if task_id == course.task_id and other != port
            ]
            self._connections[port] = course.task_id
            refused = self.refuse_next > 0
            self.refuse_next -= refused
        if not is_enrolled:
            self.violations.append(f"early: {account} is not enrolled in {course.name}")
            return 403
        if others:
            owners = find_clients(self.port)
            mine = owners.get(port)
            rivals = {owners[other] for other in others if other in owners} - {mine}
            if mine is not None and rivals:
                self.violations.append(
                    f"twice: processes {mine} and {rivals} load a course of task {course.task_id}"
                )
        return 503 if refused else 200

    def drop(self, port: int) -> None:
        """Note that a connection is closed."""
        with self._lock:
            self._connections.pop(port, None)

    def record(self, request: Request) -> None:
        """Add a line to the log."""
        with self._lock:
            self.log.append(request)


class _Handler(BaseHTTPRequestHandler):
    watchful_site: WatchfulSite
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def finish(self) -> None:
        self.watchful_site.drop(self.client_address[1])
        super().finish()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        site, path = self.watchful_site, self.path.partition("?")[0]
        match = re.fullmatch(r"/courses/(\d+)-(\d+)/(?:feed|([1-9])\.mp4)", path)
        if match is None or (match[3] and int(match[3]) > LECTURES):
            self._send(404, b"no such page", "text/plain")
            return
        course = Course(int(match[1]), int(match[2]))
        session = re.search(r"session=([\w-]+)", self.headers.get("Cookie") or "")
        account = session[1] if session else "nobody"
        status = site.admit(course, account, self.client_address[1])
        site.record(Request(course.name, account, path, status))
        if status != 200:
            self._send(status, b"not now", "text/plain")
        elif match[3] is None:
            self._send(200, _feed(site, course), "application/rss+xml")
        else:
            self._send(200, course.lectures[int(match[3]) - 1], "video/mp4")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        start, whole = 0, len(body)
        version = f'"{zlib.crc32(body):08x}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if self.headers.get("If-Range", version) != version:
            asked = None
        if status == 200 and asked and int(asked[1]) < whole:
            start, status = int(asked[1]), 206
        try:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(whole - start))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", version)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            self.end_headers()
            for offset in range(start, whole, _CHUNK) if self.command != "HEAD" else ():
                self.wfile.write(body[offset : offset + _CHUNK])
                time.sleep(_CHUNK / self.watchful_site.rate)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def _feed(site: WatchfulSite, course: Course) -> bytes:
    """Return the course as an RSS feed."""
    items = "".join(
        f"<item><title>Lecture {number}</title><guid>{course.name}-{number}</guid>"
        f'<enclosure url="http://{site.host}/courses/{course.name}/{number}.mp4?token=secret" '
        'type="video/mp4"/></item>'
        for number in range(1, LECTURES + 1)
    )
    channel = f"<channel><title>{course.title}</title>{items}</channel>"
    return f'<?xml version="1.0"?><rss version="2.0">{channel}</rss>'.encode()
