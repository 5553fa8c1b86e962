"""Sites that compress their answers, as nearly every site does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faulty_site import Fault, FaultySite, Lecture, content
from tests.orders import delivered, order_for, run

from enrollgate.domain.reasons import Reason

ENCODINGS = ["gzip", "deflate", "raw deflate", "gzip, deflate", "deflate, gzip", "gzip, gzip"]


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite(
        [Lecture(f"Lecture {n}", content(5_000 + n, n)) for n in range(1, 3)]
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
