"""The example course site: an HTTP server that serves courses to enrolled accounts only.

    GET  /courses/<course>              the course's page
    GET  /courses/<course>/feed         its lectures as an RSS feed: the `course_url` of a task
    GET  /courses/<course>/<n>.mp4      a lecture (Range and If-Range are answered)
    POST /enroll {"account", "course"}  what the Node.js side does when it enrolls an account

Without a session cookie of a known account, it answers 401. If the account is not enrolled in the
course: 403 "Course not accessible". The access log has every request, its account and the bytes
sent.
"""

import argparse
import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from xml.sax.saxutils import escape

from examples.demo.media import make_lecture

# The name of each course, its title, and the titles of its lectures.
COURSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ceramics": (
        "Ceramics for beginners",
        ("Choosing the clay", "Centring", "Opening & pulling", "Firing"),
    ),
    "harmony": ("Harmony at the keyboard", ("Intervals", "Triads", "Cadences")),
    "bread": ("Bread from four ingredients", ("Flour", "Water", "Time")),
}
_CHUNK = 16384


@dataclass(frozen=True, slots=True)
class Record:
    """One request in the access log.

    `time` is when it arrived, in seconds since the epoch; `bytes` are those of the body, as sent.
    """

    time: float
    account: str | None
    method: str
    path: str
    status: int
    bytes: int


class CourseSite:
    """The site: a context manager that serves between enter and exit.

    `throttle` limits each transfer, in bytes per second.
    """

    def __init__(
        self, port: int = 0, *, throttle: float | None = None, log: Path | None = None
    ) -> None:
        self.throttle = throttle
        self.records: list[Record] = []
        # Bytes of lectures that were sent so far, those of transfers under way included.
        self.media_sent = 0
        self._log = log
        self._enrolled = set[tuple[str, str]]()
        self._sessions: dict[str, str] = {}
        self._lock = threading.Lock()
        site = self

        class Handler(_Handler):
            """A handler with its site."""

            course_site = site

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> Self:
        for course in COURSES:
            self.lectures(course)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def host(self) -> str:
        """Return host and port, as ENROLLGATE_ALLOWED_HOSTS expects them."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """Return the site's URL."""
        return f"http://{self.host}"

    @property
    def courses(self) -> tuple[str, ...]:
        """Return the names of all courses."""
        return tuple(COURSES)

    def course_url(self, course: str) -> str:
        """Return what Node.js writes into `course_url`."""
        return f"{self.url}/courses/{course}/feed"

    def lectures(self, course: str) -> list[bytes]:
        """Return the lectures of a course as MP4 files."""
        first = list(COURSES).index(course) * 10
        return [make_lecture(first + number) for number in range(len(COURSES[course][1]))]

    def enroll(self, account: str, course: str) -> None:
        """Enroll the account in the course."""
        with self._lock:
            self._enrolled.add((account, course))

    def is_enrolled(self, account: str, course: str) -> bool:
        """Return whether the account is enrolled in the course."""
        with self._lock:
            return (account, course) in self._enrolled

    def session(self, account: str) -> str:
        """Return the value of the account's session cookie."""
        token = hashlib.sha256(f"session of {account}".encode()).hexdigest()
        with self._lock:
            self._sessions[token] = account
        return token

    def find_account(self, token: str) -> str | None:
        """Return the account of a session cookie, None if there is none."""
        with self._lock:
            return self._sessions.get(token)

    def cookies_file(self, account: str) -> str:
        """Return the account's cookies as a browser extension exports them (Netscape format)."""
        fields = (
            "127.0.0.1",
            "FALSE",
            "/",
            "FALSE",
            "4102444800",
            "session",
            self.session(account),
        )
        return "# Netscape HTTP Cookie File\n" + "\t".join(fields) + "\n"

    def count_media(self, size: int) -> None:
        """Count bytes of a lecture that were just sent."""
        with self._lock:
            self.media_sent += size

    def record(self, record: Record) -> None:
        """Add a line to the access log."""
        with self._lock:
            self.records.append(record)
            if self._log is not None:
                with self._log.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(record)) + "\n")


class _Handler(BaseHTTPRequestHandler):
    """Handle one connection."""

    course_site: CourseSite
    protocol_version = "HTTP/1.1"
    server_version = "ExampleCourses"

    def do_GET(self) -> None:
        """Answer with a page, a feed or a lecture."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer like GET, without a body."""
        self._answer()

    def do_POST(self) -> None:
        """Enroll an account."""
        arrived = time.time()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            wanted: dict[str, Any] = json.loads(body)
            account, course = str(wanted["account"]), str(wanted["course"])
        except (ValueError, KeyError, TypeError):
            text = b'send {"account": ..., "course": ...}\n'
            self._send(arrived, None, HTTPStatus.BAD_REQUEST, text)
            return
        if self.path != "/enroll" or course not in COURSES:
            self._send(arrived, None, HTTPStatus.NOT_FOUND, b"no such course\n")
            return
        self.course_site.enroll(account, course)
        self._send(arrived, None, HTTPStatus.OK, b"enrolled\n")

    def log_message(self, *_: object) -> None:
        """Log nothing: the site has its own access log."""

    def _answer(self) -> None:
        arrived, site = time.time(), self.course_site
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("session")
        account = site.find_account(cookie.value) if cookie else None
        path = self.path.partition("?")[0]
        match = re.fullmatch(r"/courses/([a-z]+)(?:/(?:(feed)|(\d+)\.mp4))?", path)
        if match is None or match[1] not in COURSES:
            self._send(arrived, account, HTTPStatus.NOT_FOUND, b"no such page\n")
            return
        course, feed, number = match.groups()
        if account is None:
            self._send(arrived, None, HTTPStatus.UNAUTHORIZED, b"please log in\n")
        elif not site.is_enrolled(account, course):
            self._send(arrived, account, HTTPStatus.FORBIDDEN, b"Course not accessible\n")
        elif feed:
            body = _feed(site, course).encode()
            self._send(arrived, account, HTTPStatus.OK, body, "application/rss+xml")
        elif number is None:
            body = _page(site, course).encode()
            self._send(arrived, account, HTTPStatus.OK, body, "text/html; charset=utf-8")
        elif not 1 <= int(number) <= len(site.lectures(course)):
            self._send(arrived, account, HTTPStatus.NOT_FOUND, b"no such lecture\n")
        else:
            lecture = site.lectures(course)[int(number) - 1]
            self._send(arrived, account, HTTPStatus.OK, lecture, "video/mp4")

    def _send(
        self,
        arrived: float,
        account: str | None,
        status: HTTPStatus,
        body: bytes,
        content_type: str = "text/plain",
    ) -> None:
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        total = len(body)
        version = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if self.headers.get("If-Range", version) != version:
            asked = None
        if asked and status is HTTPStatus.OK and int(asked[1]) < total:
            start, status = int(asked[1]), HTTPStatus.PARTIAL_CONTENT
        sent = 0
        try:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(total - start))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", version)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.end_headers()
            for offset in range(start, total, _CHUNK) if self.command != "HEAD" else ():
                chunk = body[offset : offset + _CHUNK]
                if self.course_site.throttle:
                    time.sleep(len(chunk) / self.course_site.throttle)
                self.wfile.write(chunk)
                sent += len(chunk)
                if content_type == "video/mp4":
                    self.course_site.count_media(len(chunk))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.course_site.record(Record(arrived, account, self.command, self.path, status, sent))


def _page(site: CourseSite, course: str) -> str:
    title, lectures = COURSES[course]
    links = "".join(
        f'<li><a href="/courses/{course}/{number}.mp4">{escape(lecture)}</a></li>'
        for number, lecture in enumerate(lectures, 1)
    )
    feed = site.course_url(course)
    return (
        f"<!doctype html><title>{escape(title)}</title><h1>{escape(title)}</h1>"
        f'<ol>{links}</ol><a href="{feed}">Feed</a>'
    )


def _feed(site: CourseSite, course: str) -> str:
    title, lectures = COURSES[course]
    items = "".join(
        f"<item><title>{escape(lecture)}</title><guid>{course}-{number}</guid>"
        f'<enclosure url="{site.url}/courses/{course}/{number}.mp4" type="video/mp4"/></item>'
        for number, lecture in enumerate(lectures, 1)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><rss version="2.0"><channel>'
        f"<title>{escape(title)}</title><link>{site.url}/courses/{course}</link>{items}"
        "</channel></rss>"
    )


def main(arguments: list[str]) -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo.site", description="The example course site."
    )
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--throttle", type=float, help="bytes per second of each transfer")
    parser.add_argument("--log", type=Path, help="write the access log here, as JSON lines")
    parser.add_argument(
        "--account", action="append", default=[], help="an account to print a cookies file for"
    )
    options = parser.parse_args(arguments)
    with CourseSite(options.port, throttle=options.throttle, log=options.log) as site:
        print(f"The course site is at {site.url}; courses: {', '.join(site.courses)}", flush=True)
        for course in site.courses:
            print(f"  course_url: {site.course_url(course)}", flush=True)
        for account in options.account:
            print(f"cookies file of {account}:\n{site.cookies_file(account)}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("bye")


if __name__ == "__main__":
    main(sys.argv[1:])
