"""A whole course of the Udemy-shaped site, from its URL to the files at the destination."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.orders import delivered
from tests.udemy_site.course import LINK
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


def _course(tmp_path: Path) -> dict[str, object]:
    (path,) = (tmp_path / "out").rglob("course.json")
    content: dict[str, object] = json.loads(path.read_text())
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
