"""Single lectures that are unreadable, locked, several in one, or behind an expired signature."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.orders import delivered, order_for, run
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.extractor.generic import GenericIE
from yt_dlp.extractor.laracasts import LaracastsIE
from yt_dlp.extractor.teachable import TeachableIE
from yt_dlp.utils import NO_DEFAULT

from enrollgate.domain.reasons import Reason

# yt-dlp leaves responses that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def rss(site: FaultySite, path: str, *items: str) -> str:
    """Serve a course of these items at `path` and return its URL."""
    channel = f"<channel><title>A course</title>{''.join(items)}</channel>"
    text = f'<?xml version="1.0"?><rss version="2.0">{channel}</rss>'
    site.pages[path] = ("application/rss+xml", text.encode())
    return site.url + path


def media(title: str, url: str) -> str:
    return f'<item><title>{title}</title><enclosure url={quoteattr(url)} type="video/mp4"/></item>'


def link(title: str, url: str) -> str:
    return f"<item><title>{title}</title><link>{escape(url)}</link></item>"


def page(site: FaultySite, path: str, title: str, *videos: str) -> str:
    """Serve a page with these videos at `path` and return its URL."""
    tags = "".join(f'<video src="{video}"></video>' for video in videos)
    text = f"<html><head><title>{title}</title></head><body>{tags}</body></html>"
    site.pages[path] = ("text/html", text.encode())
    return site.url + path


# Call a function at the start of each extraction of a URL that contains the path.
ReplaceExtraction = Callable[[str, Callable[[GenericIE], None]], None]


@pytest.fixture
def replace_extraction(monkeypatch: pytest.MonkeyPatch) -> ReplaceExtraction:
    def make(path: str, function: Callable[[GenericIE], None]) -> None:
        reads = GenericIE._real_extract

        def read(self: GenericIE, url: str) -> object:
            if path in url:
                function(self)
            return reads(self, url)

        monkeypatch.setattr(GenericIE, "_real_extract", read)

    return make


@pytest.mark.parametrize(
    "error", [TypeError, AttributeError, ValueError, ZeroDivisionError, RuntimeError]
)
def test_a_lecture_on_which_the_extractor_fails_does_not_end_the_run(
    site: FaultySite,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    replace_extraction: ReplaceExtraction,
    error: type[Exception],
) -> None:
    def fail(_: GenericIE) -> None:
        raise error("no such key in https://h.example/x?sig=TOPSECRET")

    replace_extraction("/2.mp4", fail)
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered, report.items_failed) == (
        Reason.UNSUPPORTED_COURSE,
        3,
        1,
    )
    words = f"yt-dlp's extractor for this site failed ({error.__name__})"
    assert report.message == f"1 of 4 items failed: 'Lecture 2': {words}"
    assert report.remedy == "Update yt-dlp: a newer version may fix it."
    log = capfd.readouterr().err
    assert "Traceback" in log and "TOPSECRET" not in log, (
        "who fixes yt-dlp needs the traceback, without secrets"
    )


def test_a_course_on_which_the_extractor_fails_says_so(
    site: FaultySite, tmp_path: Path, replace_extraction: ReplaceExtraction
) -> None:
    def fail(_: GenericIE) -> None:
        raise TypeError("x")

    replace_extraction("/feed", fail)
    report = run(order_for(site, tmp_path))
    assert (
        report.reason is Reason.UNSUPPORTED_COURSE
        and "extractor for this site failed (TypeError)" in report.message
    )
    assert report.remedy == "Update yt-dlp: a newer version may fix it."


@pytest.mark.parametrize(
    "bad", ["https://[oops/2.mp4?sig=x", "https://h.example/2.mp4#__youtubedl_smuggle=oops"]
)
def test_a_malformed_url_in_a_feed_fails_its_own_lecture_only(
    site: FaultySite, tmp_path: Path, bad: str
) -> None:
    lectures = media("A", f"{site.url}/1.mp4"), media("B", bad), media("C", f"{site.url}/3.mp4")
    report = run(order_for(site, tmp_path, course_url=rss(site, "/course", *lectures)))
    assert (report.reason, report.items_delivered) == (Reason.UNSUPPORTED_COURSE, 2), report
    assert [failed.item for failed in report.failed_items] == ["B"]


def test_an_emoji_written_in_two_halves_is_one_in_every_name(
    site: FaultySite, tmp_path: Path
) -> None:
    """The second title has one half only, which file names and UTF-8 cannot hold."""
    whole = page(site, "/whole", "Intro &#55357;&#56832;", f"{site.url}/1.mp4", f"{site.url}/2.mp4")
    report = run(order_for(site, tmp_path, course_url=whole))
    assert (report.reason, report.items_delivered) == (None, 2), report
    names = [f"Intro \U0001f600 [task-7]/{n:02d} - Intro \U0001f600 ({n}).mp4" for n in (1, 2)]
    assert list(delivered(tmp_path)) == names
    half = page(site, "/half", "Half &#55357;", f"{site.url}/3.mp4", f"{site.url}/4.mp4")
    assert run(order_for(site, tmp_path, course_url=half)).reason is None
    assert [name for name in delivered(tmp_path) if name.startswith("Half \ufffd [task-7]/")]


def require_login(extractor: GenericIE) -> None:
    """Do as an extractor does if the site requires a login in words, not by a status."""
    extractor.raise_login_required("Lecture contents locked", method="any")


def test_a_locked_lecture_does_not_end_the_run(
    tmp_path: Path, replace_extraction: ReplaceExtraction
) -> None:
    replace_extraction("/2.mp4", require_login)
    with FaultySite([Lecture(f"Lecture {n}", lecture(3000 + n, n)) for n in range(1, 9)]) as site:
        report = run(order_for(site, tmp_path, downloads=1))
        assert (report.reason, report.items_delivered, report.items_failed) == (
            Reason.ACCESS_DENIED,
            7,
            1,
        )
        assert report.message.startswith(
            "1 of 8 items failed: 'Lecture 2': the site asks for a login: "
        )
        assert "Lecture contents locked" in report.message
        again = run(order_for(site, tmp_path, downloads=1, run_number=2))
        assert (again.reason, again.items_skipped) == (Reason.ACCESS_DENIED, 7), (
            "the others are delivered"
        )


def test_if_every_lecture_requires_a_login_the_cookies_have_expired(
    site: FaultySite, tmp_path: Path, replace_extraction: ReplaceExtraction
) -> None:
    replace_extraction(".mp4", require_login)
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_failed) == (Reason.COOKIES_EXPIRED, 4)
    assert "the site asks for a login" in report.message


def test_if_the_course_page_requires_a_login_the_cookies_have_expired(
    site: FaultySite, tmp_path: Path, replace_extraction: ReplaceExtraction
) -> None:
    replace_extraction("/feed", require_login)
    report = run(order_for(site, tmp_path))
    assert report.reason is Reason.COOKIES_EXPIRED and site.media_bytes == 0


@pytest.mark.parametrize("kind", [LaracastsIE, TeachableIE])
@pytest.mark.parametrize("method", [NO_DEFAULT, "any", "cookies", "password", "session_cookies"])
def test_a_required_login_is_recognised_whatever_yt_dlp_proposes(
    kind: type[InfoExtractor],
    method: object,
    site: FaultySite,
    tmp_path: Path,
    replace_extraction: ReplaceExtraction,
) -> None:
    """yt-dlp's hint about its command line options is removed: nobody here can set those."""

    def refuse(reader: GenericIE) -> None:
        kind(reader._downloader).raise_login_required("Only for subscribers!", method=method)

    replace_extraction("/feed", refuse)
    report = run(order_for(site, tmp_path))
    words = "the site asks for a login: [generic] Only for subscribers!"
    assert (report.reason, report.message) == (Reason.COOKIES_EXPIRED, words)


def test_a_lecture_page_with_two_videos_is_delivered_in_two_parts(
    site: FaultySite, tmp_path: Path
) -> None:
    lesson = page(site, "/lesson", "Lesson", f"{site.url}/1.mp4", f"{site.url}/2.mp4")
    course = rss(site, "/course", link("A", lesson), media("B", f"{site.url}/3.mp4"))
    report = run(order_for(site, tmp_path, course_url=course))
    assert (report.reason, report.items_delivered, report.items_failed) == (None, 3, 0), report
    assert delivered(tmp_path) == {
        "A course [task-7]/01.1 - Lesson (1).mp4": site.lectures[0].content,
        "A course [task-7]/01.2 - Lesson (2).mp4": site.lectures[1].content,
        "A course [task-7]/02 - B.mp4": site.lectures[2].content,
    }
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["items_done"], progress["items_total"]) == (3, 3), (
        "the page itself is not an item"
    )
    assert list((tmp_path / "scratch" / "items").iterdir()) == []
    before = site.media_bytes
    again = run(order_for(site, tmp_path, course_url=course, attempt=2))
    assert (again.reason, again.items_skipped, site.media_bytes) == (None, 3, before)


def test_a_failed_part_is_named_and_the_others_are_kept(site: FaultySite, tmp_path: Path) -> None:
    lesson = page(site, "/lesson", "Lesson", f"{site.url}/1.mp4", f"{site.url}/2.mp4")
    course = rss(site, "/course", link("A", lesson), media("B", f"{site.url}/3.mp4"))
    site.faults["/2.mp4"] = Fault(status=503)
    report = run(order_for(site, tmp_path, course_url=course))
    assert (report.reason, report.items_delivered) == (Reason.SITE_ERROR, 2)
    assert [failed.item for failed in report.failed_items] == ["Lesson (2)"]
    site.faults.clear()
    again = run(order_for(site, tmp_path, course_url=course, attempt=2))
    assert (again.reason, again.items_delivered, again.items_skipped) == (None, 1, 2)
    assert list(delivered(tmp_path)) == [
        f"A course [task-7]/{name}.mp4"
        for name in ("01.1 - Lesson (1)", "01.2 - Lesson (2)", "02 - B")
    ]


def test_nested_courses_are_delivered_in_order_with_equal_titles(
    site: FaultySite, tmp_path: Path
) -> None:
    inner = rss(
        site, "/inner", media("Same", f"{site.url}/1.mp4"), media("Same", f"{site.url}/2.mp4")
    )
    outer = rss(site, "/outer", link("Week", inner), media("Same", f"{site.url}/3.mp4"))
    course = rss(site, "/course", link("Year", outer), media("Same", f"{site.url}/4.mp4"))
    report = run(order_for(site, tmp_path, course_url=course))
    assert (report.reason, report.items_delivered) == (None, 4)
    names = [
        f"A course [task-7]/{number} - Same.mp4" for number in ("01.1.1", "01.1.2", "01.2", "02")
    ]
    assert delivered(tmp_path) == {
        name: lecture.content for name, lecture in zip(names, site.lectures, strict=True)
    }
    assert run(order_for(site, tmp_path, course_url=course, attempt=2)).items_skipped == 4


def test_a_playlist_of_one_is_that_one_lecture(site: FaultySite, tmp_path: Path) -> None:
    inner = rss(site, "/inner", media("Own title", f"{site.url}/1.mp4"))
    run(order_for(site, tmp_path, course_url=rss(site, "/course", link("A", inner))))
    assert list(delivered(tmp_path)) == ["A course [task-7]/01 - Own title.mp4"]


def test_a_playlist_in_a_listing_is_delivered_in_parts_of_its_section(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [
        {"id": str(n), "url": f"{site.url}/{n}.mp4", "ext": "mp4", "title": f"V{n}"}
        for n in (1, 2, 3)
    ]
    pair = {
        "_type": "multi_video",
        "id": "pair",
        "title": "Pair",
        "chapter": "Start",
        "entries": videos[:2],
    }
    course = {
        "_type": "playlist",
        "id": "c",
        "title": "C",
        "entries": [pair, videos[2] | {"chapter": "End"}],
    }
    monkeypatch.setattr(GenericIE, "_real_extract", lambda _self, _url: course)
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered) == (None, 3), report
    assert list(delivered(tmp_path)) == [
        "C [task-7]/01 - Start/01.1 - V1.mp4",
        "C [task-7]/01 - Start/01.2 - V2.mp4",
        "C [task-7]/02 - End/02 - V3.mp4",
    ]


def test_a_course_that_contains_itself_ends_soon_and_says_so(
    site: FaultySite, tmp_path: Path
) -> None:
    itself = [link(f"L{n}", f"{site.url}/course") for n in range(30)]
    course = rss(site, "/course", media("A", f"{site.url}/1.mp4"), *itself)
    report = run(order_for(site, tmp_path, course_url=course))
    assert (report.reason, report.items_delivered, report.items_failed) == (
        Reason.UNSUPPORTED_COURSE,
        1,
        30,
    )
    assert ": this is a playlist within itself" in report.message
    assert len(site.sent) < 100, "its playlists are not followed"


def test_nested_playlists_are_followed_to_a_limited_depth(site: FaultySite, tmp_path: Path) -> None:
    for depth in range(10):
        rss(
            site,
            f"/{depth}",
            media(f"V{depth}", f"{site.url}/1.mp4"),
            link("Deeper", f"{site.url}/{depth + 1}"),
        )
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/0"))
    assert (report.reason, report.items_delivered, report.items_failed) == (
        Reason.UNSUPPORTED_COURSE,
        4,
        1,
    )
    assert (
        "'Deeper': this is a playlist within itself, or within more than 3 others" in report.message
    )
    assert not [sent for sent in site.sent if sent.path == "/6"]


@pytest.mark.parametrize(
    ("parts", "words"), [(2, "this is a playlist of more than 1"), (0, "finds nothing to download")]
)
def test_an_endless_or_empty_nested_playlist_is_one_failed_lecture(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int, words: str
) -> None:
    monkeypatch.setattr("enrollgate.worker.downloaders.yt_dlp._MAX_NESTED_ITEMS", 1)
    inner = rss(site, "/inner", *(media("V", f"{site.url}/1.mp4") for _ in range(parts)))
    course = rss(site, "/course", link("A", inner), media("B", f"{site.url}/2.mp4"))
    report = run(order_for(site, tmp_path, course_url=course))
    assert (report.reason, report.items_delivered, report.items_failed) == (
        Reason.UNSUPPORTED_COURSE,
        1,
        1,
    )
    assert words in report.message


def test_lists_of_lists_without_end_have_a_cap_per_run(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each list has ten lists, whose addresses are all new."""
    monkeypatch.setattr("enrollgate.worker.downloaders.yt_dlp._MAX_ITEMS_OF_PLAYLISTS", 50)
    level = [""]
    for _ in range(2):
        for name in level:
            rss(site, f"/l{name}", *(link(f"L{n}", f"{site.url}/l{name}{n}") for n in range(10)))
        level = [f"{name}{n}" for name in level for n in range(10)]
    for name in level:
        rss(site, f"/l{name}", media("V", f"{site.url}/1.mp4?{name}"))
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/l"))
    assert report.reason is Reason.UNSUPPORTED_COURSE
    assert "the course's playlists list more than 50 items" in report.message
    assert 0 < report.items_delivered < 70
    assert len(site.sent) < 500


def test_a_course_list_without_end_is_refused(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enrollgate.worker.downloaders.yt_dlp._MAX_ITEMS_OF_COURSE", 3)
    course = rss(site, "/course", *(media(f"V{n}", f"{site.url}/1.mp4?{n}") for n in range(5)))
    report = run(order_for(site, tmp_path, course_url=course))
    assert (report.reason, report.items_delivered) == (Reason.UNSUPPORTED_COURSE, 3)
    assert "more than 3 items" in report.message


def test_playlists_between_failures_do_not_reset_the_failure_count(
    site: FaultySite, tmp_path: Path
) -> None:
    inner = [rss(site, f"/inner{n}", media(f"V{n}", f"{site.url}/1.mp4?n={n}")) for n in range(25)]
    course = rss(site, "/course", *(link("A", url) for url in inner))
    site.faults["/1.mp4"] = Fault(status=503)
    report = run(order_for(site, tmp_path, course_url=course, downloads=1))
    assert (report.reason, report.items_failed) == (Reason.SITE_ERROR, 20)


def test_a_login_required_while_parts_are_listed_fails_that_lecture(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = GenericIE._real_extract

    def locked(reader: GenericIE) -> Iterator[dict[str, object]]:
        require_login(reader)
        yield {}

    def read(self: GenericIE, url: str) -> object:
        return self.playlist_result(locked(self), "2") if "/2.mp4" in url else reads(self, url)

    monkeypatch.setattr(GenericIE, "_real_extract", read)
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered, report.items_failed) == (
        Reason.ACCESS_DENIED,
        3,
        1,
    )


def test_a_signature_that_expired_is_renewed_by_the_next_attempt(
    site: FaultySite, tmp_path: Path
) -> None:
    course = page(
        site, "/page", "C", *(f"{site.url}/{n}.mp4?Expires=1&amp;Signature=x" for n in range(1, 5))
    )

    def expire(path: str) -> None:
        """Each listing signs again. The signatures expire while lecture 2 is fetched."""
        if path == "/page":
            site.faults.clear()
        if path == "/2.mp4":
            site.faults |= {f"/{n}.mp4": Fault(status=403) for n in (3, 4)}

    site.on_request = expire
    report = run(order_for(site, tmp_path, course_url=course, downloads=1))
    assert (report.reason, report.items_delivered, report.items_failed) == (
        Reason.INCOMPLETE_DOWNLOAD,
        2,
        2,
    )
    assert "its signed address has expired" in report.message
    site.on_request = lambda path: site.faults.clear() if path == "/page" else None
    again = run(order_for(site, tmp_path, course_url=course, downloads=1, attempt=2))
    assert (again.reason, again.items_delivered, again.items_skipped) == (None, 2, 2)


@pytest.mark.parametrize("query", ["", "?id=3"])
def test_a_refused_url_without_a_signature_stays_refused(
    site: FaultySite, tmp_path: Path, query: str
) -> None:
    site.faults["/2.mp4"] = Fault(status=403)
    course = page(site, "/page", "C", *(f"{site.url}/{n}.mp4{query}" for n in (1, 2)))
    report = run(order_for(site, tmp_path, course_url=course))
    assert (report.reason, report.items_delivered) == (Reason.ACCESS_DENIED, 1)
