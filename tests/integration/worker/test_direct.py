"""A direct file is one version of it, whole, whatever the server does with ranges."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.faulty_site import content

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.direct import DurableHttpFD, FileReplaced, read_note
from enrollgate.worker.downloaders.fetcher import build_options
from enrollgate.worker.downloaders.guarded import open_youtube_dl
from enrollgate.worker.downloaders.yt_dlp_errors import errors_as_failures

OLD, NEW = content(300_000, 1), content(300_000, 2)
DATE = "Sat, 28 Nov 2026 06:00:00 GMT"


@dataclass
class Server:
    """Answers each request by `script`. Remembers the headers of the requests."""

    script: Callable[["Handler"], None]
    seen: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    host: str = ""

    def download(
        self, folder: Path, requested: str = "", downloader: DurableHttpFD | None = None
    ) -> bytes:
        """Download with yt-dlp's guarded network. Raises Failure."""
        ydl = open_youtube_dl(build_options(None), (self.host,), threading.Event())
        headers = {"Range": requested} if requested else {}
        info = {"url": self.url, "http_headers": headers}
        file = folder / "media-1.mp4"
        file.unlink(missing_ok=True)
        try:
            with errors_as_failures():
                tool = downloader or DurableHttpFD(ydl, ydl.params)
                tool.ydl = ydl
                assert tool.real_download(str(file), info)
        finally:
            ydl.close()
        return file.read_bytes()


class Handler(BaseHTTPRequestHandler):
    server_of_test: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server_of_test.seen.append(dict(self.headers.items()))
        self.server_of_test.script(self)

    def answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        *,
        cut: int | None = None,
        length: bool = True,
    ) -> None:
        """Answer. `cut`: close the connection after so many bytes of the body."""
        self.send_response_only(status)
        self.close_connection = True
        for name, value in headers.items():
            self.send_header(name, value)
        if length and "Transfer-Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])

    def parse_range(self, body: bytes) -> tuple[int, int] | None:
        """Return the range that was asked for: start, and end exclusive."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return None
        return int(match[1]), int(match[2]) + 1 if match[2] else len(body)

    def ranged(self, body: bytes, headers: dict[str, str], shift: int = 0) -> None:
        """Answer 206 with the range that was asked for, moved by `shift` bytes."""
        start, stop = self.parse_range(body) or (0, len(body))
        start, stop = start + shift, min(stop + shift, len(body))
        where = {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}
        self.answer(206, body[start:stop], headers | where)


@contextmanager
def serve(script: Callable[[Handler], None]) -> Iterator[Server]:
    server = Server(script)

    class Bound(Handler):
        server_of_test = server

    with ThreadingHTTPServer(("127.0.0.1", 0), Bound) as http:
        http.daemon_threads = True
        server.host = f"127.0.0.1:{http.server_address[1]}"
        server.url = f"http://{server.host}/1.mp4"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def etag(value: str) -> dict[str, str]:
    return {"ETag": f'"{value}"'}


def leave_partial(folder: Path, headers: dict[str, str]) -> None:
    """Leave 100,000 bytes of the old file, as a worker does whose site broke three times."""
    with serve(lambda handler: handler.answer(200, OLD, headers, cut=100_000)) as server:
        with pytest.raises(Failure) as failure:
            server.download(folder)
    assert failure.value.reason is Reason.INCOMPLETE_DOWNLOAD
    assert (folder / "media-1.mp4.part").stat().st_size == 100_000


def test_a_resume_asks_for_the_same_version_and_goes_on(tmp_path: Path) -> None:
    leave_partial(tmp_path, etag("a"))
    with serve(lambda handler: handler.ranged(OLD, etag("a"))) as server:
        assert server.download(tmp_path) == OLD
    (headers,) = server.seen
    assert (headers["Range"], headers["If-Range"]) == ("bytes=100000-", '"a"')


def ignore_if_range(handler: Handler) -> None:
    """Answer ranges of the new file, whatever If-Range says."""
    if "Range" in handler.headers:
        handler.ranged(NEW, etag("b"))
    else:
        handler.answer(200, NEW, etag("b"))


def obey_if_range(handler: Handler) -> None:
    handler.answer(200, NEW, etag("b"))


def refuse_range(handler: Handler) -> None:
    """Answer 416: the new file is shorter than the leftover."""
    if "Range" in handler.headers:
        handler.answer(416, b"", {"Content-Range": "bytes */50000"})
    else:
        handler.answer(200, NEW[:50_000], etag("b"))


def wrong_range(handler: Handler) -> None:
    if "Range" in handler.headers:
        handler.ranged(OLD, etag("a"), shift=-10)
    else:
        handler.answer(200, OLD, etag("a"))


def encoded_range(handler: Handler) -> None:
    if "Range" in handler.headers:
        handler.ranged(OLD, etag("a") | {"Content-Encoding": "gzip"})
    else:
        handler.answer(200, OLD, etag("a"))


def range_without_etag(handler: Handler) -> None:
    if "Range" in handler.headers:
        handler.ranged(NEW, {})
    else:
        handler.answer(200, NEW, {})


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (ignore_if_range, NEW),
        (obey_if_range, NEW),
        (refuse_range, NEW[:50_000]),
        (wrong_range, OLD),
        (encoded_range, OLD),
        (range_without_etag, NEW),
    ],
)
def test_a_resume_that_does_not_fit_starts_over(
    tmp_path: Path, script: Callable[[Handler], None], expected: bytes
) -> None:
    leave_partial(tmp_path, etag("a"))
    with serve(script) as server:
        assert server.download(tmp_path) == expected


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({}, None),
        ({"ETag": 'W/"a"'}, None),
        ({"Last-Modified": DATE}, None),
        ({"Last-Modified": DATE, "Date": "Sat, 28 Nov 2026 06:00:01 GMT"}, None),
        ({"Last-Modified": DATE, "Date": "Sat, 28 Nov 2026 07:00:00 GMT"}, DATE),
    ],
)
def test_only_a_strong_validator_allows_a_resume(
    tmp_path: Path, headers: dict[str, str], condition: str | None
) -> None:
    leave_partial(tmp_path, headers)

    def script(handler: Handler) -> None:
        if "Range" in handler.headers:
            handler.ranged(OLD, headers)
        else:
            handler.answer(200, OLD, headers)

    with serve(script) as server:
        assert server.download(tmp_path) == OLD
    assert server.seen[0].get("If-Range") == condition
    assert ("Range" in server.seen[0]) is (condition is not None)


def test_a_server_that_caps_its_ranges_is_asked_for_the_rest(tmp_path: Path) -> None:
    leave_partial(tmp_path, etag("a"))

    def script(handler: Handler) -> None:
        start, _ = handler.parse_range(OLD) or (0, 0)
        where = {"Content-Range": f"bytes {start}-{min(start + 80_000, 300_000) - 1}/300000"}
        handler.answer(206, OLD[start : start + 80_000], etag("a") | where)

    with serve(script) as server:
        assert server.download(tmp_path) == OLD
    assert len(server.seen) == 3


def chunked_and_cut(handler: Handler) -> None:
    chunk = f"{len(OLD):x}\r\n".encode() + OLD + b"\r\n"
    handler.answer(200, chunk, {"Transfer-Encoding": "chunked"})


def chunked(handler: Handler) -> None:
    chunk = f"{len(OLD):x}\r\n".encode() + OLD + b"\r\n0\r\n\r\n"
    handler.answer(200, chunk, {"Transfer-Encoding": "chunked"})


def test_a_chunked_body_needs_its_last_chunk(tmp_path: Path) -> None:
    with serve(chunked_and_cut) as server, pytest.raises(Failure) as failure:
        server.download(tmp_path)
    assert failure.value.reason is Reason.INCOMPLETE_DOWNLOAD
    with serve(chunked) as server:
        assert server.download(tmp_path) == OLD


def test_a_byte_range_is_cut_from_the_whole_file_if_need_be(tmp_path: Path) -> None:
    with serve(lambda handler: handler.answer(200, OLD, etag("a"))) as server:
        assert server.download(tmp_path, "bytes=100-199999") == OLD[100:200_000]
    with serve(lambda handler: handler.ranged(OLD, etag("a"))) as server:
        assert server.download(tmp_path, "bytes=100-199999") == OLD[100:200_000]


@pytest.mark.parametrize(
    "script",
    [
        lambda handler: handler.ranged(OLD, {}, shift=5),
        lambda handler: handler.ranged(OLD, {"Content-Encoding": "gzip"}),
        lambda handler: handler.answer(200, OLD[:150_000], {}),
        lambda handler: handler.answer(206, OLD[100:200_000], {}),
        lambda handler: handler.answer(200, b"", {}),
    ],
)
def test_a_byte_range_that_is_not_the_one_asked_for_fails(
    tmp_path: Path, script: Callable[[Handler], None]
) -> None:
    with serve(script) as server, pytest.raises(Failure) as failure:
        server.download(tmp_path, "bytes=100-199999")
    assert failure.value.reason is Reason.INCOMPLETE_DOWNLOAD


def test_byte_ranges_of_two_versions_are_never_joined(tmp_path: Path) -> None:
    tool: list[DurableHttpFD] = []
    with serve(lambda handler: handler.ranged(OLD, etag("a"))) as server:
        ydl = open_youtube_dl(build_options(None), (server.host,), threading.Event())
        tool.append(DurableHttpFD(ydl, ydl.params))
        server.download(tmp_path, "bytes=0-99", tool[0])
        server.script = lambda handler: handler.ranged(NEW, etag("b"))
        with pytest.raises(FileReplaced):
            server.download(tmp_path, "bytes=100-199", tool[0])
        ydl.close()


def test_the_version_of_a_complete_file_is_kept(tmp_path: Path) -> None:
    answer = etag("a") | {"Last-Modified": DATE}
    with serve(lambda handler: handler.answer(200, OLD, answer)) as server:
        server.download(tmp_path)
    note = read_note(tmp_path / "media-1.mp4")
    assert note is not None
    validators = note.validators
    assert (validators.length, validators.etag, validators.last_modified) == (300_000, '"a"', DATE)
