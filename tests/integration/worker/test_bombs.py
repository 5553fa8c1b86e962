"""Sites that never stop sending: each is refused, in little memory, with a reason that says why."""

import gzip
import itertools
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.raw_site import RawSite, Received, answer
from tests.repository import REPOSITORY

from enrollgate.domain.reasons import Reason

pytestmark = pytest.mark.slow
# MiB. yt-dlp alone takes about a third of it.
MOST_MEMORY = 300
PAGE = "text/html"
PLAYLIST = "application/vnd.apple.mpegurl"
# /proc has the peak of this program alone; `ru_maxrss` also counts what started it.
WORKER = """
import json, sys, threading
from pathlib import Path
from tests.orders import make_order
from enrollgate.worker.work import work
url, host, folder = sys.argv[1:]
order = make_order(Path(folder), course_url=url, allowed_hosts=(host,))
report = work(order, stop=threading.Event())
peak = next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]
print(json.dumps([report.reason, report.message, int(peak) // 1024]))
"""


@dataclass(frozen=True)
class Bomb:
    """What the site sends for its course page, and what the worker makes of it."""

    answer: Iterable[bytes]
    reason: Reason
    message: str


def head(*lines: str, status: str = "200 OK", kind: str = PAGE) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", *lines, "", ""]).encode()


def forever(start: bytes, block: bytes) -> Iterator[bytes]:
    return itertools.chain([start], itertools.repeat(block))


def gzip_of_3_gb(start: bytes = b"<p>") -> bytes:
    """1.5 MB that decompress to 3 GB: the same 24 MiB, compressed once and repeated."""
    compressor = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    start = compressor.compress(start) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(bytes(24 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return start + block * 128


GZIP = "Content-Encoding: gzip"
CHUNKED = "Transfer-Encoding: chunked"
EMPTY_GZIP_BLOCKS = zlib.compressobj(wbits=zlib.MAX_WBITS | 16).flush(zlib.Z_FULL_FLUSH)
BOMBS = {
    "1.5 MB of gzip that are 3 GB": lambda: Bomb(
        [head(GZIP), gzip_of_3_gb()], Reason.SITE_ERROR, "more than 64 MiB"
    ),
    "a playlist of 3 GB": lambda: Bomb(
        [head(GZIP, kind=PLAYLIST), gzip_of_3_gb(b"#EXTM3U\n")],
        Reason.SITE_ERROR,
        "more than 64 MiB",
    ),
    "an endless page": lambda: Bomb(
        forever(head(), b"<p>" * 20_000), Reason.SITE_ERROR, "more than 64 MiB"
    ),
    "an endless page of chunks": lambda: Bomb(
        forever(head(CHUNKED), b"c00\r\n" + b"<p>" * 1024 + b"\r\n"), Reason.SITE_ERROR, "64 MiB"
    ),
    "endless gzip without data": lambda: Bomb(
        forever(head(GZIP) + EMPTY_GZIP_BLOCKS, b"\x00\x00\x00\xff\xff" * 10_000),
        Reason.NETWORK_ERROR,
        "holds no data",
    ),
    "endless gzip members without data": lambda: Bomb(
        forever(head(GZIP), zlib.compressobj(wbits=31).flush() * 3_000),
        Reason.NETWORK_ERROR,
        "holds no data",
    ),
    "endless headers": lambda: Bomb(
        forever(b"HTTP/1.1 200 OK\r\n", b"X-Header: 1\r\n" * 1_000), Reason.NETWORK_ERROR, "headers"
    ),
    "one endless header": lambda: Bomb(
        forever(b"HTTP/1.1 200 OK\r\nX-Header: ", b"x" * 60_000), Reason.NETWORK_ERROR, "header"
    ),
    "endless interim answers": lambda: Bomb(
        forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000), Reason.SITE_ERROR, "headers or"
    ),
    "endless trailers": lambda: Bomb(
        forever(head(CHUNKED) + b"3\r\n<p>\r\n0\r\n", b"X-Trailer: 1\r\n" * 1_000),
        Reason.SITE_ERROR,
        "headers or empty chunks",
    ),
    "chunks that are all extension": lambda: Bomb(
        forever(head(CHUNKED), b"1;" + b"x" * 60_000 + b"\r\n<\r\n"),
        Reason.SITE_ERROR,
        "headers or empty chunks",
    ),
    "an endless error page": lambda: Bomb(
        forever(head(status="404 Not Found"), b"<p>" * 20_000), Reason.COURSE_NOT_FOUND, "404"
    ),
    "an error page of 3 GB": lambda: Bomb(
        [head(GZIP, status="429 Slow Down"), gzip_of_3_gb()], Reason.RATE_LIMITED, "429"
    ),
    "a redirect with an endless body": lambda: Bomb(
        forever(head("Location: /gone", status="302 Found"), b"<p>" * 20_000),
        Reason.COURSE_NOT_FOUND,
        "404",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_memory(name: str, tmp_path: Path) -> None:
    bomb = BOMBS[name]()
    with RawSite() as site:
        site.answers["/course"] = lambda _: bomb.answer
        reason, message, peak = run_measured(site, tmp_path)
    assert (reason, bomb.message in message) == (bomb.reason, True), (reason, message)
    assert peak < MOST_MEMORY


MANIFESTS = [
    ("/s.m3u8", PLAYLIST),
    ("/s.m3u8", "application/octet-stream"),
    ("/s.m3u8", "video/mp2t"),
    ("/s.mpd", "application/octet-stream"),
    ("/s.f4m", "application/octet-stream"),
    ("/s.f4m", "video/f4m"),
    ("/watch", "application/dash+xml"),
    ("/watch", PLAYLIST),
]


@pytest.mark.parametrize(("path", "kind"), MANIFESTS)
@pytest.mark.parametrize("body", ["zeros", "text"])
def test_what_comes_instead_of_a_manifest_costs_little_memory(
    tmp_path: Path, path: str, kind: str, body: str
) -> None:
    """1 GB of zeros in gzip, or a line of text.

    What is in an `.f4m` does not matter: only another program could fetch its stream.
    """
    zeros = gzip.compress(bytes(8 << 20)) * 128
    with RawSite() as site:
        site.answers[path] = lambda _: (
            [head(GZIP, kind=kind), zeros]
            if body == "zeros"
            else [answer(b"Internal error. Please contact support.", kind=kind)]
        )
        reason, message, peak = run_measured(site, tmp_path, path)
    is_f4m = "f4m" in message and path.endswith("f4m")
    assert reason is (Reason.UNSUPPORTED_COURSE if is_f4m else Reason.SITE_ERROR), message
    assert peak < MOST_MEMORY


def test_endless_redirects_are_refused(tmp_path: Path) -> None:
    counter = itertools.count()

    def redirect(_: Received) -> list[bytes]:
        return [answer(status="302 Found", Location=f"/course?{next(counter)}")]

    with RawSite() as site:
        site.answers["/course"] = redirect
        reason, _, peak = run_measured(site, tmp_path)
    assert reason is not None
    assert next(counter) < 50
    assert peak < MOST_MEMORY


def test_pages_that_lead_to_the_next_without_end_are_refused(tmp_path: Path) -> None:
    counter = itertools.count()

    def page(_: Received) -> list[bytes]:
        target = f"/page?{next(counter)}"
        return [answer(f'<meta http-equiv="refresh" content="0;url={target}">'.encode())]

    feed = "<rss><channel><title>A</title><item><title>1</title><link>/page</link></item></channel>"
    with RawSite() as site:
        site.answers["/course"] = lambda _: [
            answer(f"{feed}</rss>".replace("/page<", f"{site.url}/page<").encode(), kind="text/xml")
        ]
        site.answers["/page"] = page
        reason, message, _ = run_measured(site, tmp_path)
    assert (reason, "lead from one to the next" in message) == (Reason.UNSUPPORTED_COURSE, True)
    assert next(counter) < 100


def run_measured(
    site: RawSite, tmp_path: Path, path: str = "/course"
) -> tuple[Reason | None, str, int]:
    """Run the worker as a process. Return its reason, its message and its peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, f"{site.url}{path}", site.host, tmp_path],
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reason, message, peak = json.loads(done.stdout.splitlines()[-1])
    return Reason(reason) if reason else None, message, peak
