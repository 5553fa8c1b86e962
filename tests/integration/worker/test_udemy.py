"""A whole course of the Udemy-shaped site, from its URL to the files at the destination."""

import io
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

import av
import pytest
from tests.orders import delivered
from tests.udemy_site.course import LINK, TITLE
from tests.udemy_site.front import NAMES, UdemySite, start_udemy
from tests.webservers.worker import run_worker

from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report

COURSE = "https://www.udemy.com/course/pottery/"
FIRST, SECOND = "01 - Getting started", "02 - Glazing _& firing_"
ENROLLING = re.compile(r"subscribe/|checkout|/cart|POST")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[UdemySite]:
    with start_udemy(tmp_path / "site") as running:
        yield running
        assert not [each for each in running.server.paths if ENROLLING.search(each)]
        assert {each.method for each in running.requests} <= {"GET", "HEAD"}


def _run(site: UdemySite, tmp_path: Path, **settings: str) -> Report:
    cookies = tmp_path / "cookies"
    cookies.mkdir(exist_ok=True)
    lines = "".join(
        f".udemy.com\tTRUE\t/\tTRUE\t4102444800\t{name}\t{value}\n"
        for name, value in (("access_token", "valid-token"), ("client_id", "a-client"))
    )
    (cookies / "cookies.txt").write_text(f"# Netscape HTTP Cookie File\n{lines}")
    return run_worker(
        tmp_path,
        settings.pop("COURSE_URL", COURSE),
        ",".join(NAMES),
        site.authority,
        hosts_line=site.hosts_line,
        COOKIES_DIR=str(cookies),
        **settings,
    )


def _files(tmp_path: Path) -> dict[str, bytes]:
    """Return what is delivered, by the paths within the course's folder."""
    return {path.partition("/")[2]: content for path, content in delivered(tmp_path).items()}


def _course(tmp_path: Path) -> dict[str, Any]:
    (path,) = (tmp_path / "out").rglob("course.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_whole_course_is_delivered_and_each_file_is_what_it_was(
    site: UdemySite, tmp_path: Path
) -> None:
    report = _run(site, tmp_path)

    files = _files(tmp_path)
    assert (report.reason, report.items_failed) == (None, 0), (report, files.keys())
    expected = {
        f"{FIRST}/01 - Choosing the clay.mp4": "choosing-1080.mp4",
        f"{FIRST}/01 - Choosing the clay.en-US.vtt": "choosing-en.vtt",
        f"{FIRST}/01 - Choosing the clay.vi-VN.vtt": "choosing-vi.vtt",
        f"{FIRST}/01.1 - slides.pdf": "slides.pdf",
        f"{FIRST}/01.3 - templates.zip": "templates.zip",
        f"{FIRST}/02 - Centring.en-US.vtt": "centring-en.vtt",
        f"{SECOND}/04 - Glazing & firing.mp4": "glazing-720.mp4",
        f"{SECOND}/04.1 - glazes.pdf": "glazes.pdf",
        f"{SECOND}/05 - The book.pdf": "book.pdf",
    }
    link = files.pop(f"{FIRST}/01.2 - Where to buy a wheel.url").decode()
    article = files.pop(f"{FIRST}/03 - Words of the trade.html").decode()
    stream = files.pop(f"{FIRST}/02 - Centring.mp4")
    assert files == {name: site.files[content] for name, content in expected.items()}
    assert LINK in link and link.startswith("[InternetShortcut]")
    assert "12 %" in article and "default-src 'none'" in article
    assert b"ftyp" in stream[:16], "the segments are in one playable file"
    assert {each.encoding for each in site.requests if each.host == "www.udemy.com"} == {"gzip"}


def test_index_lists_what_was_delivered_and_left_out(site: UdemySite, tmp_path: Path) -> None:
    report = _run(site, tmp_path)

    course = _course(tmp_path)
    (page,) = (tmp_path / "out").rglob("index.html")
    html, text = page.read_text(), json.dumps(course)
    items = [item for section in course["sections"] for item in section["items"]]
    linked = [item["file"] for item in items if item["state"] == "delivered"]
    assert report.reason is None
    assert sorted(linked) == sorted(_files(tmp_path))
    assert (course["title"], course["description"]) == (TITLE, "From clay to cup.")
    assert [section["title"] for section in course["sections"]] == [FIRST[5:], "Glazing <& firing>"]
    first = items[0]
    assert (first["kind"], first["number"], first["duration"]) == ("lecture", "01", 61)
    assert first["description"] == "Stoneware or porcelain?"
    left_out = {item["title"]: item["message"] for item in items if item["state"] == "left out"}
    assert left_out == dict.fromkeys(
        ("Quiz 1", "Quiz 2"), "a simple quiz, which works only on the site"
    )
    assert [each.item for each in report.left_out_items] == ["Quiz 1", "Quiz 2"]
    assert "Glazing &lt;&amp; firing&gt;" in html and "<script" not in html
    for link in re.findall(r'href="([^"]+)"', html):
        assert (page.parent / unquote(unescape(link))).is_file()
    for secret in ("md5=", "expires", "udemycdn", "valid-token", "clay.example.org"):
        assert secret not in html + text


def test_second_run_sends_no_media_again_and_delivers_what_is_missing(
    site: UdemySite, tmp_path: Path
) -> None:
    _run(site, tmp_path, SUBTITLES="en", COURSE_INDEX="false")
    before = _files(tmp_path)
    assert not [name for name in before if name.endswith("vi-VN.vtt")]
    asked = len(site.requests)

    report = _run(site, tmp_path, SUBTITLES="all", AUTOMATIC_SUBTITLES="true", THUMBNAILS="true")

    after = _files(tmp_path)
    added = {name.partition("/")[2] for name in after.keys() - before.keys()}
    assert report.reason is None
    assert added == {
        "01 - Choosing the clay.vi-VN.vtt",
        "01 - Choosing the clay.es-ES.vtt",
        *(f"{stem}.jpg" for stem in ("01 - Choosing the clay", "02 - Centring")),
        "04 - Glazing & firing.jpg",
    }
    again = [each for each in site.requests[asked:] if not each.path.startswith("/api")]
    media = [each for each in again if re.search(r"\.(mp4|ts|pdf|zip)", each.path)]
    assert sum(each.sent for each in media) <= len(media), "it may ask whether a file has changed"


@pytest.mark.parametrize(
    ("quality", "content"), [("720", "choosing-720.mp4"), ("480", "choosing-720.mp4")]
)
def test_quality_chooses_the_rendition(
    site: UdemySite, tmp_path: Path, quality: str, content: str
) -> None:
    site.server.lectures = [11]
    _run(site, tmp_path, QUALITY=quality, SUBTITLES="none")

    assert _files(tmp_path)[f"{FIRST}/01 - Choosing the clay.mp4"] == site.files[content]


def test_audio_keeps_the_sound_as_the_site_sent_it(site: UdemySite, tmp_path: Path) -> None:
    site.server.lectures = [11]
    report = _run(site, tmp_path, QUALITY="audio", SUBTITLES="none", ATTACHMENTS="false")

    ((name, content),) = _files(tmp_path).items()
    assert (report.reason, name) == (None, f"{FIRST}/01 - Choosing the clay.m4a")
    sound, packets = _read_sound(content)
    assert not sound.streams.video
    assert packets == _read_sound(site.files["choosing-1080.mp4"])[1]


def _read_sound(content: bytes) -> tuple[av.container.InputContainer, list[bytes]]:
    media = av.open(io.BytesIO(content), mode="r")
    return media, [bytes(each) for each in media.demux(media.streams.audio[0])]


def test_refused_and_protected_lectures_are_named_and_the_rest_is_there(
    site: UdemySite, tmp_path: Path
) -> None:
    site.server.lectures = [11, 21, 22, 23]
    site.server.refused = {21}
    report = _run(site, tmp_path)

    failed = {each.item: each.reason for each in report.failed_items}
    assert failed == {
        "Glazing & firing": Reason.ACCESS_DENIED,
        "Protected": Reason.DRM_PROTECTED,
    }
    names = _files(tmp_path).keys()
    assert {f"{SECOND}/02.1 - glazes.pdf", f"{SECOND}/04.1 - safety.pdf"} <= names
    assert f"{SECOND}/03 - The book.pdf" in names
    items = [item for section in _course(tmp_path)["sections"] for item in section["items"]]
    states = {item["title"]: item["state"] for item in items}
    assert states["Protected"] == "failed" and states["The book"] == "delivered"


def test_account_that_is_not_enrolled_is_refused(site: UdemySite, tmp_path: Path) -> None:
    site.server.enrolled = False
    report = _run(site, tmp_path)

    assert (report.reason, report.items_delivered) == (Reason.ACCESS_DENIED, 0)
    assert "not enrolled" in report.message


def test_expired_token_is_said_to_be_expired(site: UdemySite, tmp_path: Path) -> None:
    site.server.token = "another-token"
    report = _run(site, tmp_path)

    assert (report.reason, report.items_delivered) == (Reason.COOKIES_EXPIRED, 0)


def test_captcha_ends_the_run_after_few_requests(site: UdemySite, tmp_path: Path) -> None:
    site.server.captcha = True
    report = _run(site, tmp_path)

    assert (report.reason, report.items_delivered) == (Reason.BOT_CHECK, 0)
    assert len(site.server.paths) == 1


def test_three_attempts_with_faults_and_new_signatures_deliver_each_file_once(
    site: UdemySite, tmp_path: Path
) -> None:
    chance = Random(11)
    site.server.fault = lambda path: 503 if "/lectures/" in path and chance.random() < 0.5 else None
    site.server.stale = lambda name: name.endswith(("mp4", "m3u8", "vtt")) and chance.random() < 0.5
    for attempt in (1, 2, 3):
        if attempt == 3:
            site.server.fault, site.server.stale = lambda _path: None, lambda _name: False
        report = _run(site, tmp_path, ATTEMPT=str(attempt), TASK_ID="7")

    assert report.reason is None, report
    files = _files(tmp_path)
    assert len(files) == 12
    assert files[f"{FIRST}/01 - Choosing the clay.mp4"] == site.files["choosing-1080.mp4"]
    (course,) = (tmp_path / "out").iterdir()
    manifest = json.loads((course / "manifest.json").read_text())["items"]
    assert len({entry["file"] for entry in manifest}) == len(manifest) == 14
    assert "md5=" not in (course / "manifest.json").read_text()
