"""Courses as sites list them: broken, locked, nested, signed. One strange lecture is one failed lecture."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faulty_site import Fault, FaultySite, Lecture, content
from tests.integration.worker.test_worker import delivered, order_for, run
from yt_dlp.extractor.generic import GenericIE

from enrollgate.domain.reasons import Reason, explain

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


def names(tmp_path: Path) -> list[str]:
    return [name.partition("/")[2] for name in delivered(tmp_path)]


@pytest.mark.parametrize("downloads", [1, 3])
def test_a_lecture_that_is_a_page_with_two_videos_is_delivered_as_two(
    site: FaultySite, tmp_path: Path, capsys: pytest.CaptureFixture[str], downloads: int
) -> None:
    page(site, "/lesson", "/1.mp4", "/2.mp4")
    course = feed(site, "/lesson", "/3.mp4")
    report = run(order_for(site, tmp_path, course_url=course, downloads=downloads))
    assert (report.reason, report.items_delivered) == (None, 3), report
    assert names(tmp_path) == ["01 - Lesson (1).mp4", "01 - Lesson (2).mp4", "02 - B.mp4"]
    assert list(delivered(tmp_path).values()) == [lecture.content for lecture in site.lectures[:3]]
    assert "100 % (3 of 3 items)" in capsys.readouterr().err
    sent = site.media_bytes
    again = run(order_for(site, tmp_path, course_url=course, try_number=2))
    assert (again.reason, again.items_skipped) == (None, 3), again
    assert names(tmp_path) == ["01 - Lesson (1).mp4", "01 - Lesson (2).mp4", "02 - B.mp4"]
    assert site.media_bytes == sent, "what is there is not asked for again"


def test_the_videos_of_a_lecture_are_fetched_in_their_order_before_the_next_lecture(
    site: FaultySite, tmp_path: Path
) -> None:
    page(site, "/lesson", "/3.mp4", "/1.mp4")
    assert run(order_for(site, tmp_path, course_url=feed(site, "/lesson", "/2.mp4"), downloads=1)).reason is None
    asked_for = [sent.path for sent in site.sent if sent.path.endswith(".mp4")]
    assert list(dict.fromkeys(asked_for)) == ["/3.mp4", "/1.mp4", "/2.mp4"]


def test_a_video_of_a_lecture_that_fails_is_named_and_costs_no_other(site: FaultySite, tmp_path: Path) -> None:
    page(site, "/lesson", "/1.mp4", "/2.mp4")
    site.faults["/2.mp4"] = Fault(status=403)
    report = run(order_for(site, tmp_path, course_url=feed(site, "/lesson", "/3.mp4")))
    assert (report.reason, report.items_delivered, report.items_failed) == (Reason.ACCESS_DENIED, 2, 1), report
    assert report.message.startswith("1 of 3 items failed: 'Lesson (2)': "), report
    assert [failed.item for failed in report.failed_items] == ["Lesson (2)"]
    assert names(tmp_path) == ["01 - Lesson (1).mp4", "02 - B.mp4"]


def test_videos_of_one_title_in_one_lecture_keep_their_names_on_every_try(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [{"_type": "url", "url": f"{site.url}/{n}.mp4", "title": "Same"} for n in (1, 2)]
    listed = {"_type": "playlist", "id": "x", "title": "Lesson", "entries": parts}
    read_differently(monkeypatch, lambda url: url.endswith("/lesson"), lambda _: listed)
    course = feed(site, "/lesson")
    site.faults["/1.mp4"] = Fault(status=503)
    assert run(order_for(site, tmp_path, course_url=course)).items_delivered == 1
    first = delivered(tmp_path)
    site.faults.clear()
    again = run(order_for(site, tmp_path, course_url=course, try_number=2))
    assert (again.reason, again.items_delivered, again.items_skipped) == (None, 1, 1), again
    assert first.items() <= delivered(tmp_path).items()
    assert sorted(delivered(tmp_path).values()) == sorted(lecture.content for lecture in site.lectures[:2])


def test_a_list_that_stands_in_the_course_s_own_list_is_delivered(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def videos(*numbers: int) -> list[dict[str, str]]:
        return [{"_type": "url", "url": f"{site.url}/{n}.mp4", "title": f"V{n}"} for n in numbers]

    inner = {"_type": "playlist", "id": "inner", "title": "Inner", "entries": iter(videos(2, 3))}
    week = {"_type": "playlist", "id": "week", "title": "Week", "entries": [*videos(1), inner, None]}
    whole = {"_type": "playlist", "id": "x", "title": "Course", "entries": [week, *videos(4)]}
    read_differently(monkeypatch, lambda url: url.endswith("/whole"), lambda _: whole)
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/whole"))
    assert (report.reason, report.items_delivered) == (None, 4), report
    assert names(tmp_path) == ["01 - V1.mp4", "01 - V2.mp4", "01 - V3.mp4", "02 - V4.mp4"]


@pytest.mark.parametrize("pages", [1, 2, 100], ids=["itself", "each other", "without end"])
def test_lists_within_lists_without_end_are_failed_lectures(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    def read(reader: Any, url: str) -> Any:
        number = int(url.rpartition("/")[2])
        links = [{"_type": "url", "url": f"{site.url}/list/{(number + 1) % pages}"} for _ in range(3)]
        return {"_type": "playlist", "id": str(number), "title": f"List {number}", "entries": links}

    ordinary = GenericIE._real_extract
    monkeypatch.setattr(
        GenericIE, "_real_extract", lambda self, url: read(self, url) if "/list/" in url else ordinary(self, url)
    )
    report = run(order_for(site, tmp_path, course_url=feed(site, "/list/0", "/1.mp4")))
    assert report.reason is Reason.UNSUPPORTED_COURSE and report.items_delivered == 1, report
    assert "a list that holds itself, or lists within lists without end" in report.message
    assert report.items_failed <= 81


def test_a_list_of_nothing_is_never_a_lecture_less_in_silence(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = {"_type": "playlist", "id": "x", "title": "Empty", "entries": [None]}
    read_differently(monkeypatch, lambda url: url.endswith("/lesson"), lambda _: empty)
    report = run(order_for(site, tmp_path, course_url=feed(site, "/lesson", "/3.mp4")))
    assert (report.reason, report.items_delivered, report.items_failed) == (Reason.UNSUPPORTED_COURSE, 1, 1), report


def test_a_lecture_whose_list_asks_for_a_login_is_one_failed_lecture(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listing(reader: Any) -> Any:
        yield {"_type": "url", "url": f"{site.url}/1.mp4"}
        ask_for_a_login(reader)

    locked = lambda reader: {"_type": "playlist", "id": "x", "title": "Locked", "entries": listing(reader)}  # noqa: E731
    read_differently(monkeypatch, lambda url: url.endswith("/lesson"), locked)
    report = run(order_for(site, tmp_path, course_url=feed(site, "/lesson", "/2.mp4", "/3.mp4"), downloads=1))
    assert (report.reason, report.items_delivered, report.items_failed) == (Reason.ACCESS_DENIED, 2, 1), report


def test_a_signature_that_expired_since_the_listing_is_mended_by_the_next_try(site: FaultySite, tmp_path: Path) -> None:
    page(site, "/page", *(f"/{n}.mp4?Expires=1&Signature=x" for n in (1, 2, 3)))
    site.faults["/3.mp4"] = Fault(status=403)
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/page"))
    assert (report.reason, report.items_delivered) == (Reason.INCOMPLETE_DOWNLOAD, 2), report
    assert report.message == "1 of 3 items failed: 'Lesson (3)': its signed address has expired"
    assert explain(Reason.INCOMPLETE_DOWNLOAD).retry_can_help
    site.faults.clear()
    again = run(order_for(site, tmp_path, course_url=f"{site.url}/page", try_number=2))
    assert (again.reason, again.items_delivered, again.items_skipped) == (None, 1, 2), again


def test_a_refused_address_that_nobody_signed_stays_refused(site: FaultySite, tmp_path: Path) -> None:
    page(site, "/page", *(f"/{n}.mp4?id=7#token=1" for n in (1, 2, 3)))
    site.faults["/3.mp4"] = Fault(status=403)
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/page"))
    assert (report.reason, report.items_delivered) == (Reason.ACCESS_DENIED, 2), report
