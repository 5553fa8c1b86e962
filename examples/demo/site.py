"""The example course site: a real HTTP server that lets in only the enrolled.

    GET  /courses/<course>              the course's page
    GET  /courses/<course>/feed         its lectures as an RSS feed: the URL to write into a task row
    GET  /courses/<course>/<n>.mp4      a lecture (Range requests are answered)
    POST /enroll {"account", "course"}  what the Node.js side does when it enrolls an account

Without a session cookie of a known account: 401. Of an account that is not enrolled in the course: 403 "Course not
accessible". Every request is in the access log, with its account and the bytes sent.
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

COURSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ceramics": (
        "Ceramics for beginners",
        ("Choosing the clay", "Centring", "Opening & pulling", "Firing"),
    ),
    "harmony": ("Harmony at the keyboard", ("Intervals", "Triads", "Cadences")),
    "bread": ("Bread from four ingredients", ("Flour", "Water", "Time")),
}
"""Course, its title, and the titles of its lectures."""
_CHUNK = 16384


@dataclass(frozen=True, slots=True)
class Record:
    """One request, as the access log has it. `time` is in seconds since the epoch, when the request arrived."""

    time: float
    account: str | None
    method: str
    path: str
    status: int
    bytes: int
    """Of the body, as sent."""


class CourseSite:
    """The site as a context manager: it serves between enter and exit. `throttle` limits each transfer, in bytes per second."""

    def __init__(
        self, port: int = 0, *, throttle: float | None = None, log: Path | None = None
    ) -> None:
        self.throttle = throttle
        self.records: list[Record] = []
        self._log = log
        self._enrolled = set[tuple[str, str]]()
        self._sessions: dict[str, str] = {}
        self._lock = threading.Lock()
        site = self

        class Handler(_Handler):
            """A handler that knows its site."""

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
        """Host and port, as ENROLLGATE_ALLOWED_HOSTS takes them."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """The site's address."""
        return f"http://{self.host}"

    @property
    def courses(self) -> tuple[str, ...]:
        """All courses."""
        return tuple(COURSES)

    def course_url(self, course: str) -> str:
        """What Node.js writes into `course_url`."""
        return f"{self.url}/courses/{course}/feed"

    def lectures(self, course: str) -> list[bytes]:
        """The lectures of a course."""
        first = list(COURSES).index(course) * 10
        return [make_lecture(first + number) for number in range(len(COURSES[course][1]))]

    def enroll(self, account: str, course: str) -> None:
        """From now on the account is let in."""
        with self._lock:
            self._enrolled.add((account, course))

    def is_enrolled(self, account: str, course: str) -> bool:
        """Whether it is let in."""
        with self._lock:
            return (account, course) in self._enrolled

    def session(self, account: str) -> str:
        """The value of the account's session cookie."""
        token = hashlib.sha256(f"session of {account}".encode()).hexdigest()
        with self._lock:
            self._sessions[token] = account
        return token

    def account_of(self, token: str) -> str | None:
        """The account of a session cookie, None if it is nobody's."""
        with self._lock:
            return self._sessions.get(token)

    def cookies_file(self, account: str) -> str:
        """The account's cookies as a browser extension exports them (Netscape format)."""
        return f"# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tsession\t{self.session(account)}\n"

    def record(self, record: Record) -> None:
        """Adds a line to the access log."""
        with self._lock:
            self.records.append(record)
            if self._log is not None:
                with self._log.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(record)) + "\n")


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    course_site: CourseSite
    protocol_version = "HTTP/1.1"
    server_version = "ExampleCourses"

    def do_GET(self) -> None:
        """Pages, feeds and lectures."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """The same without a body."""
        self._answer(with_body=False)

    def do_POST(self) -> None:
        """Enrolls an account."""
        arrived = time.time()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            wanted: dict[str, Any] = json.loads(body)
            account, course = str(wanted["account"]), str(wanted["course"])
        except (ValueError, KeyError, TypeError):
            self._send(
                arrived,
                None,
                HTTPStatus.BAD_REQUEST,
                b'send {"account": ..., "course": ...}\n',
                "text/plain",
            )
            return
        if self.path != "/enroll" or course not in COURSES:
            self._send(arrived, None, HTTPStatus.NOT_FOUND, b"no such course\n", "text/plain")
            return
        self.course_site.enroll(account, course)
        self._send(arrived, None, HTTPStatus.OK, b"enrolled\n", "text/plain")

    def log_message(self, *_: object) -> None:
        """The access log is the site's own."""

    def _account(self) -> str | None:
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("session")
        return self.course_site.account_of(cookie.value) if cookie else None

    def _answer(self, *, with_body: bool) -> None:
        arrived, account = time.time(), self._account()
        match = re.fullmatch(r"/courses/([a-z]+)(?:/(feed|\d+\.mp4))?", self.path.partition("?")[0])
        if match is None or match[1] not in COURSES:
            self._send(
                arrived,
                account,
                HTTPStatus.NOT_FOUND,
                b"no such page\n",
                "text/plain",
                with_body=with_body,
            )
        elif account is None:
            self._send(
                arrived,
                None,
                HTTPStatus.UNAUTHORIZED,
                b"please log in\n",
                "text/plain",
                with_body=with_body,
            )
        elif not self.course_site.is_enrolled(account, match[1]):
            text = b"Course not accessible\n"
            self._send(
                arrived, account, HTTPStatus.FORBIDDEN, text, "text/plain", with_body=with_body
            )
        else:
            self._serve(arrived, account, match[1], match[2], with_body=with_body)

    def _serve(
        self, arrived: float, account: str, course: str, what: str | None, *, with_body: bool
    ) -> None:
        if what is None:
            page = _page(self.course_site, course).encode()
            self._send(
                arrived,
                account,
                HTTPStatus.OK,
                page,
                "text/html; charset=utf-8",
                with_body=with_body,
            )
        elif what == "feed":
            feed = _feed(self.course_site, course).encode()
            self._send(
                arrived, account, HTTPStatus.OK, feed, "application/rss+xml", with_body=with_body
            )
        else:
            lectures = self.course_site.lectures(course)
            number = int(what.removesuffix(".mp4"))
            if not 1 <= number <= len(lectures):
                self._send(
                    arrived, account, HTTPStatus.NOT_FOUND, b"no such lecture\n", "text/plain"
                )
                return
            self._send(
                arrived,
                account,
                HTTPStatus.OK,
                lectures[number - 1],
                "video/mp4",
                with_body=with_body,
            )

    def _send(
        self,
        arrived: float,
        account: str | None,
        status: HTTPStatus,
        body: bytes,
        content_type: str,
        *,
        with_body: bool = True,
    ) -> None:
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        total = len(body)
        if asked and status is HTTPStatus.OK and int(asked[1]) < total:
            start, status = int(asked[1]), HTTPStatus.PARTIAL_CONTENT
        sent = 0
        try:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(total - start))
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.end_headers()
            for offset in range(start, total, _CHUNK) if with_body else ():
                chunk = body[offset : offset + _CHUNK]
                if self.course_site.throttle:
                    time.sleep(len(chunk) / self.course_site.throttle)
                self.wfile.write(chunk)
                sent += len(chunk)
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
    return f'<!doctype html><title>{escape(title)}</title><h1>{escape(title)}</h1><ol>{links}</ol><a href="{feed}">Feed</a>'


def _feed(site: CourseSite, course: str) -> str:
    title, lectures = COURSES[course]
    items = "".join(
        f"<item><title>{escape(lecture)}</title><guid>{course}-{number}</guid>"
        f'<enclosure url="{site.url}/courses/{course}/{number}.mp4" type="video/mp4"/></item>'
        for number, lecture in enumerate(lectures, 1)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><rss version="2.0"><channel>'
        f"<title>{escape(title)}</title><link>{site.url}/courses/{course}</link>{items}</channel></rss>"
    )


def main(arguments: list[str]) -> None:
    """Serves until Ctrl-C."""
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
