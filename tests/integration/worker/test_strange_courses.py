"""Courses as sites list them: broken, locked, nested, signed. One strange lecture is one failed lecture."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faulty_site import FaultySite, Lecture, content
from tests.integration.worker.test_worker import delivered, order_for, run
from yt_dlp.extractor.generic import GenericIE

from enrollgate.domain.reasons import Reason

# yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_what_yt_dlp_left() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite([Lecture(f"Lecture {n}", content(20_000 + n, n)) for n in range(1, 9)]) as running:
        yield running


def feed(site: FaultySite, *urls: str) -> str:
    """The URL of a course of these lectures, named A, B, C, ..."""
    items = "".join(
        f"<item><title>{chr(65 + number)}</title>{_link(site, url)}</item>" for number, url in enumerate(urls)
    )
    body = f'<?xml version="1.0"?><rss version="2.0"><channel><title>Course</title>{items}</channel></rss>'
    site.pages["/course"] = ("application/rss+xml", body.encode())
    return f"{site.url}/course"


def _link(site: FaultySite, url: str) -> str:
    whole = url if "://" in url else site.url + url
    return f'<enclosure url="{whole}" type="video/mp4"/>' if ".mp4" in url else f"<link>{whole}</link>"


def page(site: FaultySite, path: str, *videos: str, title: str = "Lesson") -> None:
    """A page that shows these videos."""
    shown = "".join(f'<video src="{site.url}{video}"></video>' for video in videos)
    site.pages[path] = ("text/html", f"<html><head><title>{title}</title></head><body>{shown}</body></html>".encode())


def read_differently(monkeypatch: pytest.MonkeyPatch, at: Callable[[str], bool], failing: Callable[[Any], Any]) -> None:
    """yt-dlp's reader does something else for some URLs."""
    read = GenericIE._real_extract

    def other(self: Any, url: str) -> Any:
        return failing(self) if at(url) else read(self, url)

    monkeypatch.setattr(GenericIE, "_real_extract", other)


def stumble(error: Exception) -> Callable[[Any], Any]:
    def failing(_: Any) -> Any:
        raise error

    return failing


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("x"),
        AttributeError("x"),
        IndexError("x"),
        TypeError("https://h.example/x?sig=TOPSECRET"),
        ValueError("x"),
        ZeroDivisionError("x"),
    ],
)
def test_a_lecture_on_which_the_reader_stumbles_is_one_failed_lecture(
    site: FaultySite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    read_differently(monkeypatch, lambda url: "/2.mp4" in url, stumble(error))
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered, report.items_failed) == (Reason.UNSUPPORTED_COURSE, 7, 1), report
    name = type(error).__name__
    assert f"'Lecture 2': yt-dlp's reader of this site failed ({name}); a newer yt-dlp may mend it" in report.message
    log = capfd.readouterr().err
    assert f"{name}: " in log and "in failing" in log and "TOPSECRET" not in log, "where it stumbled is in the log"


def test_a_course_on_which_the_reader_stumbles_is_unsupported(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_differently(monkeypatch, lambda _url: True, stumble(TypeError("x")))
    assert run(order_for(site, tmp_path)).reason is Reason.UNSUPPORTED_COURSE


def test_a_malformed_url_in_a_course_is_one_failed_lecture(site: FaultySite, tmp_path: Path) -> None:
    report = run(order_for(site, tmp_path, course_url=feed(site, "/1.mp4", "https://[oops/2.mp4", "/3.mp4")))
    assert (report.items_delivered, report.items_failed) == (2, 1), report
    assert report.reason is Reason.UNSUPPORTED_COURSE and "'B': " in report.message, report


def test_an_emoji_that_a_page_writes_as_two_halves_is_one_in_every_name(site: FaultySite, tmp_path: Path) -> None:
    page(site, "/page", "/1.mp4", "/2.mp4", title="Intro &#55357;&#56832; and half &#55357; a one")
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/page"))
    assert (report.reason, report.items_delivered) == (None, 2), report
    assert all(name.startswith("Intro \N{GRINNING FACE} and half ") for name in delivered(tmp_path))
    assert all("\N{GRINNING FACE}" in name.partition("/")[2] for name in delivered(tmp_path))


def ask_for_a_login(reader: Any) -> Any:
    """As a site's own reader does that has no login of its own (LaracastsIE, for one)."""
    reader.raise_login_required("This video is only available for subscribers")


def test_a_course_that_asks_for_a_login_in_words_says_that_the_cookies_have_expired(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_differently(monkeypatch, lambda _url: True, ask_for_a_login)
    report = run(order_for(site, tmp_path))
    assert report.reason is Reason.COOKIES_EXPIRED, report
    assert report.message.endswith("This video is only available for subscribers"), "no options that nobody can give"


def test_one_locked_lecture_does_not_cost_those_after_it(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_differently(monkeypatch, lambda url: "/2.mp4" in url, ask_for_a_login)
    report = run(order_for(site, tmp_path, downloads=1))
    assert (report.reason, report.items_delivered, report.items_failed) == (Reason.ACCESS_DENIED, 7, 1), report
    again = run(order_for(site, tmp_path, try_number=2))
    assert (again.reason, again.items_skipped) == (Reason.ACCESS_DENIED, 7), again


def test_lectures_that_all_ask_for_a_login_say_that_the_cookies_have_expired(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_differently(monkeypatch, lambda url: ".mp4" in url, ask_for_a_login)
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_failed) == (Reason.COOKIES_EXPIRED, 8), report
