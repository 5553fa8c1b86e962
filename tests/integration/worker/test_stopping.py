"""A worker that is asked to stop does so by itself, wherever it is: it need not be killed."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from Cryptodome.Cipher import AES
from Cryptodome.Util.Padding import pad
from tests.raw_site import RawSite, Received, answer
from tests.repository import REPOSITORY

from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report

pytestmark = pytest.mark.slow
SEGMENTS = 100_000
SEGMENT = b"G" * 188
KEY = b"k" * 16
# Seconds. A worker that does not see the event exits by itself near the end of it.
GRACE = 200
FORCED = "the run was asked to stop; the next attempt resumes partial files"


@dataclass
class Stopper:
    """Sends SIGTERM to the worker at the request that a test chooses."""

    process: subprocess.Popen[bytes] | None = None
    sent_at: int | None = None

    def at(self, number: int, path: str, site: RawSite) -> Callable[[Received], None]:
        def look(_: Received) -> None:
            if self.process and self.sent_at is None and len(site.requests_for(path)) == number:
                self.process.send_signal(signal.SIGTERM)
                self.sent_at = len(site.requests)

        return look


def playlist(site: RawSite, line: str = "") -> bytes:
    entries = "".join(
        f"{line.format(number=n)}#EXTINF:2,\n{site.url}/1.ts?{n}\n" for n in range(SEGMENTS)
    )
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{entries}#EXT-X-ENDLIST\n".encode()


@pytest.mark.parametrize(
    ("path", "number"),
    [
        # The worker requests the playlist twice to list it, and once more to download it.
        pytest.param("/course", 1, id="while the playlist is listed"),
        pytest.param("/course", 3, id="while the playlist is parsed"),
        pytest.param("/1.ts", 1, id="at the first segment"),
        pytest.param("/1.ts", 50, id="between segments"),
        pytest.param("/key", 30, id="at a key"),
    ],
)
def test_a_playlist_of_100_000_segments_stops_when_asked(
    tmp_path: Path, path: str, number: int
) -> None:
    stopper = Stopper()
    with RawSite() as site:
        key = f'#EXT-X-KEY:METHOD=AES-128,URI="{site.url}/key?{{number}}",IV=0x{bytes(16).hex()}\n'
        body = playlist(site, key if path == "/key" else "")
        look = stopper.at(number, path, site)

        def respond(
            content: bytes | Iterator[bytes], kind: str
        ) -> Callable[[Received], list[bytes]]:
            def send(request: Received) -> list[bytes]:
                look(request)
                return [answer(content if isinstance(content, bytes) else next(content), kind=kind)]

            return send

        def segments() -> Iterator[bytes]:
            for number in itertools.count():
                # A packet of padding (ISO/IEC 13818-1, section 2.4.3.3) makes each another one.
                segment = SEGMENT + b"\x47\x1f\xff\x10" + number.to_bytes(184)
                if path == "/key":
                    cipher = AES.new(KEY, AES.MODE_CBC, bytes(16))
                    segment = cipher.encrypt(pad(segment, AES.block_size))
                yield segment

        site.answers["/course"] = respond(body, "application/vnd.apple.mpegurl")
        site.answers["/1.ts"] = respond(segments(), "video/mp2t")
        site.answers["/key"] = respond(KEY, "application/octet-stream")
        report = stopped_run(site, tmp_path, stopper)
        assert stopper.sent_at is not None
        # The request during which it was asked, and one that was under way.
        assert len(site.requests) <= stopper.sent_at + 1
    assert (report.reason, report.message != FORCED) == (Reason.STOPPED, True), report


def test_a_feed_of_100_000_items_stops_when_asked(tmp_path: Path) -> None:
    """It takes yt-dlp about 20 seconds to read it."""
    stopper = Stopper()
    with RawSite() as site:
        items = "".join(
            f"<item><title>L{n}</title><guid>{n}</guid><pubDate>Tue, 02 Jan 2024 10:00:00 GMT"
            f'</pubDate><enclosure url="{site.url}/{n}.mp4" type="video/mp4"/></item>'
            for n in range(100_000)
        )
        feed = f"<rss><channel><title>A course</title>{items}</channel></rss>".encode()

        def respond(_: Received) -> Iterator[bytes]:
            yield answer(feed, kind="application/rss+xml")
            assert stopper.process is not None
            stopper.process.send_signal(signal.SIGTERM)

        site.answers["/course"] = respond
        report = stopped_run(site, tmp_path, stopper)
        assert len(site.requests) == 1
    assert (report.reason, report.message != FORCED) == (Reason.STOPPED, True), report


def test_a_page_that_drips_stops_when_asked(tmp_path: Path) -> None:
    stopper = Stopper()

    def drip(_: Received) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>"
        assert stopper.process is not None
        stopper.process.send_signal(signal.SIGTERM)
        while True:
            yield b"x"
            time.sleep(0.2)

    with RawSite() as site:
        site.answers["/course"] = drip
        report = stopped_run(site, tmp_path, stopper)
    assert (report.reason, report.message != FORCED) == (Reason.STOPPED, True), report


def stopped_run(site: RawSite, tmp_path: Path, stopper: Stopper) -> Report:
    """Run the worker until the stopper has ended it. Return its report."""
    report = tmp_path / "report.json"
    settings = {
        "TASK_ID": "7",
        "COURSE_URL": f"{site.url}/course",
        "SCRATCH_DIR": str(tmp_path / "scratch"),
        "REPORT_PATH": str(report),
        "ALLOWED_HOSTS": site.host,
        "DESTINATION": f"directory:{tmp_path / 'out'}",
        "STOP_GRACE": str(GRACE),
    }
    stopper.process = subprocess.Popen(
        [sys.executable, "-m", "enrollgate", "work"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(REPOSITORY / "operator"),
        }
        | {f"ENROLLGATE_{name}": value for name, value in settings.items()},
        stderr=subprocess.DEVNULL,
    )
    try:
        stopper.process.wait(timeout=GRACE + 60)
    finally:
        stopper.process.kill()
        stopper.process.wait()
    return Report.decode(report.read_text())
