"""Sites that compress their answers, as nearly every site does."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture, ts_segment
from tests.orders import delivered, make_order, order_for, run
from tests.raw_site import Answer, RawSite, answer

from enrollgate.domain.reasons import Reason

ENCODINGS = ["gzip", "deflate", "raw deflate", "gzip, deflate", "deflate, gzip", "gzip, gzip"]


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite(
        [Lecture(f"Lecture {n}", lecture(5_000 + n, n)) for n in range(1, 3)]
    ) as running:
        yield running


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_compressed_feed_is_read(site: FaultySite, tmp_path: Path, encoding: str) -> None:
    site.encodings["/feed"] = encoding
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered) == (None, 2), report
    assert sorted(delivered(tmp_path).values()) == sorted(
        lecture.content for lecture in site.lectures
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_compressed_page_is_read(site: FaultySite, tmp_path: Path, encoding: str) -> None:
    site.pages["/page"] = (
        "text/html",
        b'<title>M</title><video src="/1.mp4"></video><video src="/2.mp4"></video>',
    )
    site.encodings["/page"] = encoding
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/page"))
    assert (report.reason, report.items_delivered) == (None, 2), report


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, Reason.COOKIES_EXPIRED),
        (403, Reason.ACCESS_DENIED),
        (404, Reason.COURSE_NOT_FOUND),
        (429, Reason.RATE_LIMITED),
        (503, Reason.SITE_ERROR),
    ],
)
def test_a_compressed_error_page_keeps_its_meaning(
    site: FaultySite, tmp_path: Path, encoding: str, status: int, reason: Reason
) -> None:
    site.faults["/feed"] = Fault(status=status)
    site.encodings["/feed"] = encoding
    assert run(order_for(site, tmp_path)).reason is reason


def test_a_page_that_decompresses_beyond_a_bound_is_refused(
    site: FaultySite, tmp_path: Path
) -> None:
    site.pages["/bomb"] = ("text/html", b"<p>" * (25 << 20))
    site.encodings["/bomb"] = "gzip, gzip"
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/bomb"))
    assert report.reason is Reason.SITE_ERROR, report
    assert "more than 64 MiB" in report.message


def test_an_endless_page_is_refused(site: FaultySite, tmp_path: Path) -> None:
    site.pages["/endless"] = ("text/html", b"<p>" * (25 << 20))
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/endless"))
    assert report.reason is Reason.SITE_ERROR, report
    assert "more than 64 MiB" in report.message


def test_a_compressed_lecture_is_delivered_decompressed(site: FaultySite, tmp_path: Path) -> None:
    site.encodings["/1.mp4"] = "gzip"
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered) == (None, 2), report
    assert sorted(delivered(tmp_path).values()) == sorted(each.content for each in site.lectures)


FEED = (
    "<rss><channel><title>A</title><item><title>1</title><guid>1</guid>"
    '<enclosure url="{url}/1.mp4" type="video/mp4"/></item></channel></rss>'
)


def serve_feed(site: RawSite, encoding: str, encode: Callable[[bytes], bytes]) -> None:
    """Serve a course of one lecture, whose feed has this Content-Encoding."""
    body = encode(FEED.format(url=site.url).encode())
    site.answers["/course"] = lambda _: [answer(body, kind="text/xml", Content_Encoding=encoding)]
    site.answers["/1.mp4"] = lambda _: [answer(LECTURE, kind="video/mp4")]


LECTURE = lecture(5_000)
SPELLINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("x-gzip", gzip.compress),
    ("GZIP", gzip.compress),
    (" gzip ", gzip.compress),
    ("identity", bytes),
    ("identity, gzip", gzip.compress),
    ("gzip\r\nContent-Encoding: deflate", lambda body: zlib.compress(gzip.compress(body))),
    ("utf-8", bytes),
    ("none", bytes),
    ("gzip", lambda body: gzip.compress(body[:100]) + gzip.compress(body[100:])),
    ("gzip", lambda body: gzip.compress(body) + b"garbage"),
]


@pytest.mark.parametrize(("encoding", "encode"), SPELLINGS)
def test_encodings_are_read_as_sites_write_them(
    tmp_path: Path, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    with RawSite() as site:
        serve_feed(site, encoding, encode)
        order = make_order(tmp_path, course_url=f"{site.url}/course", allowed_hosts=(site.host,))
        report = run(order)
    assert report.reason is None, report
    assert list(delivered(tmp_path).values()) == [LECTURE]


@pytest.mark.parametrize(
    ("encoding", "encode", "reason"),
    [
        ("br", bytes, Reason.SITE_ERROR),
        ("zstd", bytes, Reason.SITE_ERROR),
        ("gzip", lambda body: gzip.compress(body)[:-20], Reason.NETWORK_ERROR),
        ("gzip", bytes, Reason.NETWORK_ERROR),
    ],
)
def test_a_feed_that_cannot_be_decoded_may_be_retried(
    tmp_path: Path, encoding: str, encode: Callable[[bytes], bytes], reason: Reason
) -> None:
    with RawSite() as site:
        serve_feed(site, encoding, encode)
        order = make_order(tmp_path, course_url=f"{site.url}/course", allowed_hosts=(site.host,))
        report = run(order)
        offered = {each.headers["Accept-Encoding"] for each in site.requests}
    assert report.reason is reason, report
    assert offered <= {"gzip, deflate", "identity"}


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip", "utf-8"])
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("401 X", Reason.COOKIES_EXPIRED),
        ("403 X", Reason.ACCESS_DENIED),
        ("404 X", Reason.COURSE_NOT_FOUND),
        ("429 X", Reason.RATE_LIMITED),
    ],
)
def test_an_error_page_that_cannot_be_decoded_keeps_its_meaning(
    tmp_path: Path, encoding: str, status: str, reason: Reason
) -> None:
    with RawSite() as site:
        site.answers["/course"] = lambda _: [
            answer(b"not compressed at all", status, Content_Encoding=encoding)
        ]
        order = make_order(tmp_path, course_url=f"{site.url}/course", allowed_hosts=(site.host,))
        assert run(order).reason is reason


def test_a_page_that_is_shorter_than_announced_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    with RawSite() as site:
        serve_feed(site, "", bytes)
        body = FEED.format(url=site.url).encode()
        whole = str(len(body) + 500)
        site.answers["/course"] = lambda _: [answer(body, kind="text/xml", Content_Length=whole)]
        order = make_order(tmp_path, course_url=f"{site.url}/course", allowed_hosts=(site.host,))
        report = run(order)
    assert report.reason in (Reason.INCOMPLETE_DOWNLOAD, Reason.NETWORK_ERROR), report
    assert report.items_delivered == 0


@pytest.mark.parametrize(
    "encode", [gzip.compress, lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])]
)
def test_compressed_segments_of_a_stream_make_the_same_file(
    tmp_path: Path, encode: Callable[[bytes], bytes]
) -> None:
    plain = deliver_stream(tmp_path / "plain", "", bytes)
    assert len(plain) == 1
    assert deliver_stream(tmp_path / "gzip", "gzip", encode) == plain


def deliver_stream(folder: Path, encoding: str, encode: Callable[[bytes], bytes]) -> list[bytes]:
    """Run the worker on an HLS stream of two segments. Return the contents it delivered."""

    def respond(body: bytes, kind: str) -> Answer:
        return lambda _: [answer(encode(body), kind=kind, Content_Encoding=encoding)]

    folder.mkdir()
    with RawSite() as site:
        lines = "".join(f"#EXTINF:0.5,\n{site.url}/{number}.ts\n" for number in range(2))
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{lines}#EXT-X-ENDLIST\n".encode()
        site.answers["/course"] = respond(playlist, "application/vnd.apple.mpegurl")
        for number in range(2):
            site.answers[f"/{number}.ts"] = respond(ts_segment(20_000, number), "video/mp2t")
        order = make_order(folder, course_url=f"{site.url}/course", allowed_hosts=(site.host,))
        report = run(order)
    assert report.reason is None, report
    return list(delivered(folder).values())
