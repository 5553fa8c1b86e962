"""The worker against a real nginx: compression, signed URLs, limits, sessions, ranges, slices."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.webservers.nginx import start_nginx
from tests.webservers.site import WebServer
from tests.webservers.worker import delivered_files, run_worker

from enrollgate.domain.account import cookies_name
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report

pytestmark = pytest.mark.usefixtures("webservers")


@pytest.fixture
def nginx(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebServer]:
    with start_nginx(
        tmp_path_factory.mktemp("nginx"), http2=getattr(request, "param", False)
    ) as running:
        yield running


@pytest.fixture
def lectures(nginx: WebServer) -> list[bytes]:
    return nginx.files.write()


def feed(nginx: WebServer, location: str, name: str = "feed.xml") -> str:
    """Write a feed at /gzip/ or another location whose lectures are below `location`."""
    return nginx.files.write_feed(name, lambda number: f"{nginx.files.url}/{location}/{number}.mp4")


def run(nginx: WebServer, tmp_path: Path, url: str, **settings: str) -> Report:
    return run_worker(tmp_path, url, nginx.host, nginx.authority, **settings)


@pytest.mark.parametrize("nginx", [False, True], ids=["http1", "http2"], indirect=True)
def test_a_course_whose_feed_is_gzipped_is_delivered_whole(
    nginx: WebServer, lectures: list[bytes], tmp_path: Path
) -> None:
    report = run(nginx, tmp_path, feed(nginx, "media", "gzip/feed.xml"))
    assert (report.reason, report.items_delivered) == (None, 3), report
    assert delivered_files(tmp_path) == lectures
    assert "gzip" in {each.encoding for each in nginx.requests if "feed" in each.path}


@pytest.mark.parametrize("location", ["noranges", "sliced"])
def test_a_course_behind_any_handling_of_ranges_is_delivered_whole(
    nginx: WebServer, lectures: list[bytes], tmp_path: Path, location: str
) -> None:
    report = run(nginx, tmp_path, feed(nginx, location))
    assert (report.reason, report.items_delivered) == (None, 3), report
    assert delivered_files(tmp_path) == lectures


def test_signed_urls_that_expired_are_delivered_once_by_the_next_attempt(
    nginx: WebServer, lectures: list[bytes], tmp_path: Path
) -> None:
    now = int(time.time())

    def write_feed(expires: dict[int, int]) -> str:
        return nginx.files.write_feed(
            "feed.xml", lambda number: nginx.files.signed("signed", number, expires[number])
        )

    first = run(nginx, tmp_path, write_feed({1: now + 600, 2: now - 5, 3: now + 600}))
    assert first.reason is not None and first.items_delivered == 2, first
    second = run(nginx, tmp_path, write_feed(dict.fromkeys((1, 2, 3), now + 900)), ATTEMPT="2")
    assert (second.reason, second.items_delivered, second.items_skipped) == (None, 1, 2), second
    assert delivered_files(tmp_path) == lectures
    assert "md5=" not in (next((tmp_path / "out").rglob("manifest.json"))).read_text()


@pytest.mark.parametrize(
    ("cookie", "reason"),
    [("ada", None), ("not-enrolled", Reason.ACCESS_DENIED), ("old", Reason.COOKIES_EXPIRED)],
)
def test_a_session_cookie_decides_what_an_account_gets(
    nginx: WebServer, lectures: list[bytes], tmp_path: Path, cookie: str, reason: Reason | None
) -> None:
    name = cookies_name("ada@example.com")
    (tmp_path / "cookies").mkdir()
    host, _, _ = nginx.host.partition(":")
    line = "\t".join((host, "FALSE", "/", "TRUE", "0", "session", cookie))
    (tmp_path / "cookies" / name).write_text(f"# Netscape HTTP Cookie File\n{line}\n")
    report = run(
        nginx,
        tmp_path,
        feed(nginx, "members"),
        COOKIES_DIR=str(tmp_path / "cookies"),
        COOKIES_NAME=name,
    )
    assert report.reason == reason, report
    assert delivered_files(tmp_path) == (lectures if reason is None else [])


@pytest.mark.parametrize(
    ("location", "reason"), [("limited", Reason.RATE_LIMITED), ("busy", Reason.SITE_ERROR)]
)
def test_a_limited_rate_has_its_own_reason(
    nginx: WebServer, lectures: list[bytes], tmp_path: Path, location: str, reason: Reason
) -> None:
    report = run(nginx, tmp_path, feed(nginx, location), DOWNLOADS="1")
    assert report.reason is reason, report
    assert set(delivered_files(tmp_path)) < set(lectures)


def test_a_limit_that_says_how_long_is_waited_for_in_the_attempt(
    nginx: WebServer, lectures: list[bytes], tmp_path: Path
) -> None:
    report = run(nginx, tmp_path, feed(nginx, "patient"), DOWNLOADS="2")
    assert (report.reason, report.items_delivered) == (None, 3), report
    assert delivered_files(tmp_path) == lectures
    assert 429 in {each.status for each in nginx.requests}


def test_a_limit_of_connections_is_passed_by_the_next_attempts(
    nginx: WebServer, lectures: list[bytes], tmp_path: Path
) -> None:
    url, reports = feed(nginx, "single"), list[Report]()
    while not reports or (reports[-1].reason and len(reports) < 3):
        reports.append(run(nginx, tmp_path, url, DOWNLOADS="3", ATTEMPT=str(len(reports) + 1)))
    assert [report.reason for report in reports[:-1]] == [Reason.SITE_ERROR] * (len(reports) - 1)
    assert reports[-1].reason is None and len(reports) > 1, reports
    assert delivered_files(tmp_path) == lectures
    assert 503 in {each.status for each in nginx.requests if "single" in each.path}


def test_an_expired_session_behind_a_login_page_is_expired_cookies(
    nginx: WebServer, lectures: list[bytes], tmp_path: Path
) -> None:
    assert lectures
    name = cookies_name("ada@example.com")
    (tmp_path / "cookies").mkdir()
    (tmp_path / "cookies" / name).write_text("example.com\tFALSE\t/\tTRUE\t0\tsession\tstale\n")
    settings = {"COOKIES_DIR": str(tmp_path / "cookies")}
    url = feed(nginx, "media", "account/feed.xml")
    report = run(nginx, tmp_path, url, COOKIES_NAME=name, **settings)
    assert report.reason is Reason.COOKIES_EXPIRED, report
    other = cookies_name("bob@example.com")
    report = run(nginx, tmp_path, url, COOKIES_NAME=other, **settings)
    assert report.reason is Reason.COOKIES_MISSING and other in report.message, report
    assert {each.path.partition("?")[0] for each in nginx.requests} == {
        "/account/feed.xml",
        "/login",
    }


def test_a_bot_wall_is_met_once(nginx: WebServer, lectures: list[bytes], tmp_path: Path) -> None:
    assert lectures
    report = run(nginx, tmp_path, feed(nginx, "wall"), DOWNLOADS="1")
    assert report.reason is Reason.BOT_CHECK, report
    assert [each.status for each in nginx.requests if each.path.startswith("/wall/")] == [403]
