"""Sites that send a login page in place of a lecture (HTTP 200): it never becomes a lecture."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faulty_site import Fault, FaultySite, Lecture, content
from tests.media import ts_segment
from tests.orders import delivered, order_for, run

from enrollgate.domain.reasons import Reason

# yt-dlp leaves responses that it did not read to the end to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("no_ffmpeg"),
]

LOGIN = (
    b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Please log in</body></html>"
)


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite(
        [Lecture(f"Lecture {n}", ts_segment(300_000, n)) for n in range(1, 4)]
    ) as running:
        lines = "".join(f"#EXTINF:0.4,\n{n}.mp4\n" for n in (1, 2, 3))
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n{lines}#EXT-X-ENDLIST\n"
        running.pages["/course.m3u8"] = ("application/vnd.apple.mpegurl", playlist.encode())
        videos = "".join(f'<video src="/{n}.mp4"></video>' for n in (1, 2, 3))
        running.pages["/page"] = ("text/html", f"<title>Course</title>{videos}".encode())
        running.pages["/welcome"] = ("text/html; charset=utf-8", LOGIN)
        yield running


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (LOGIN, Reason.COOKIES_EXPIRED),
        (b"\xef\xbb\xbf \r\n<HTML lang=en><input type=password>", Reason.COOKIES_EXPIRED),
        (b"<!doctype\nhtml>Maintenance" + content(800_000), Reason.SITE_ERROR),
        (b"<!doctype html><title>Just a moment...</title>_cf_chl_opt", Reason.BOT_CHECK),
    ],
    ids=["small", "mark", "large", "wall"],
)
@pytest.mark.parametrize("course", ["page", "course.m3u8"], ids=["files", "fragments"])
def test_a_login_page_instead_of_media_is_not_delivered_or_kept(
    site: FaultySite, tmp_path: Path, page: bytes, reason: Reason, course: str
) -> None:
    site.pages["/welcome"] = ("text/html", page)
    site.faults["/2.mp4"] = Fault(location="/welcome")
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/{course}"))
    assert report.reason is reason, report
    assert set(delivered(tmp_path).values()) <= {site.lectures[n].content for n in (0, 2)}
    site.faults.clear()
    assert (
        run(order_for(site, tmp_path, course_url=f"{site.url}/{course}", attempt=2)).reason is None
    )
    assert b"".join(delivered(tmp_path).values()) == b"".join(
        lecture.content for lecture in site.lectures
    )


@pytest.mark.parametrize("course", ["page", "course.m3u8"], ids=["files", "fragments"])
def test_a_partial_login_page_is_not_continued_with_a_lecture(
    site: FaultySite, tmp_path: Path, course: str
) -> None:
    site.pages["/welcome"] = ("text/html", LOGIN + content(900_000))
    site.faults |= {"/2.mp4": Fault(location="/welcome"), "/welcome": Fault(reset_after=100_000)}
    assert run(order_for(site, tmp_path, course_url=f"{site.url}/{course}")).reason is not None
    assert [
        path
        for path in (tmp_path / "scratch").rglob("*.part")
        if path.read_bytes().startswith(LOGIN)
    ]
    site.faults.clear()
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/{course}", attempt=2))
    assert report.reason is None, report
    assert b"".join(delivered(tmp_path).values()) == b"".join(
        lecture.content for lecture in site.lectures
    )
