"""When a run goes on after failures, when it stops, and what it then sent to the site."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.orders import delivered, order_for, run

from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.worker.work import work

# yt-dlp leaves responses that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LOGIN = b"<!doctype html><title>Log in</title><form><input type=password name=p></form>"
COUNT = 40


@pytest.fixture
def site() -> Iterator[FaultySite]:
    """Serve a course of many small lectures."""
    with FaultySite([Lecture(f"L{n}", lecture(3000, n)) for n in range(1, COUNT + 1)]) as running:
        yield running


def lectures_asked(site: FaultySite) -> set[str]:
    return {sent.path for sent in site.sent if sent.path.endswith(".mp4")}


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_six_broken_lectures_in_a_row_do_not_cost_the_others(tmp_path: Path, status: int) -> None:
    with FaultySite([Lecture(f"L{n}", lecture(3000, n)) for n in range(1, 13)]) as site:
        site.faults |= {f"/{n}.mp4": Fault(status=status) for n in range(3, 9)}
        reports = list[Report]()
        for attempt in (1, 2, 3):
            reports.append(run(order_for(site, tmp_path, attempt=attempt)))
    assert [report.items_delivered for report in reports] == [6, 0, 0]
    assert {failed.item for failed in reports[-1].failed_items} == {f"L{n}" for n in range(3, 9)}
    assert reports[-1].reason is not None and reports[-1].items_skipped == 6
    assert len(delivered(tmp_path)) == 6


def test_a_site_that_goes_down_is_left_in_peace(site: FaultySite, tmp_path: Path) -> None:
    site.faults |= {f"/{n}.mp4": Fault(status=500) for n in range(1, COUNT + 1)}
    site.on_request = lambda path: (
        site.faults.update({"/feed": Fault(status=500)}) if path == "/1.mp4" else None
    )
    report = run(order_for(site, tmp_path, downloads=1))
    assert report.reason is Reason.SITE_ERROR and "as a whole" in report.message, report
    assert lectures_asked(site) == {f"/{n}.mp4" for n in range(1, 6)}


def test_a_media_server_that_is_down_is_left_in_peace(site: FaultySite, tmp_path: Path) -> None:
    site.faults |= {f"/{n}.mp4": Fault(status=502) for n in range(1, COUNT + 1)}
    report = run(order_for(site, tmp_path, downloads=1))
    assert report.reason is Reason.SITE_ERROR and "20 items in a row" in report.message, report
    assert len(lectures_asked(site)) == 20


def test_a_session_that_ends_during_a_run_ends_it(site: FaultySite, tmp_path: Path) -> None:
    def end_session(path: str) -> None:
        if path == "/3.mp4":
            site.wants_cookie = "session=new"

    site.on_request = end_session
    report = run(order_for(site, tmp_path, downloads=1))
    assert (report.reason, report.items_delivered) == (Reason.COOKIES_EXPIRED, 2), report
    assert lectures_asked(site) == {"/1.mp4", "/2.mp4", "/3.mp4"}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=429), Reason.RATE_LIMITED),
        (Fault(status=403, headers={"Retry-After": "600"}), Reason.RATE_LIMITED),
        (Fault(status=403, headers={"X-RateLimit-Remaining": "0"}), Reason.RATE_LIMITED),
        (Fault(status=403, headers={"cf-mitigated": "challenge"}), Reason.BOT_CHECK),
        (Fault(status=405, headers={"x-amzn-waf-action": "captcha"}), Reason.BOT_CHECK),
    ],
    ids=["429", "403 with Retry-After", "403 at the limit", "Cloudflare", "AWS WAF"],
)
def test_after_a_limit_or_a_wall_no_thread_requests_more(
    site: FaultySite, tmp_path: Path, fault: Fault, reason: Reason
) -> None:
    """All lectures from the fifth on are refused. Four threads may each be at one at that time."""
    site.faults |= {f"/{n}.mp4": fault for n in range(5, COUNT + 1)}
    report = run(order_for(site, tmp_path, downloads=4))
    assert report.reason is reason, report
    refused = [sent for sent in site.sent if sent.status in (403, 405, 429)]
    assert 1 <= len(refused) <= 4 and len(site.sent) < 25


def test_a_short_wait_that_a_site_asks_for_is_waited_in_the_attempt(
    site: FaultySite, tmp_path: Path
) -> None:
    site.lectures = site.lectures[:3]
    site.faults |= {
        "/feed": Fault(status=503, headers={"Retry-After": "1"}, times=1),
        "/2.mp4": Fault(status=429, headers={"Retry-After": "1"}, times=2),
    }
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered) == (None, 3), report


def test_a_wait_above_the_setting_is_reported_for_the_next_attempt(
    site: FaultySite, tmp_path: Path
) -> None:
    site.faults["/2.mp4"] = Fault(status=429, headers={"Retry-After": "9"})
    report = run(order_for(site, tmp_path, max_retry_after=8, downloads=1))
    assert (report.reason, report.retry_after) == (Reason.RATE_LIMITED, 9.0), report
    assert lectures_asked(site) == {"/1.mp4", "/2.mp4"}


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", LOGIN),
        ("text/html", b"<html><body><form class='signin-form'><input type=email></form>"),
        ("text/html", b"<html><meta http-equiv=refresh content='0; url=/join/login'>Wait"),
        ("text/html", b"<html><script>window.location = '/join/login?next=%2F'</script>"),
        ("text/html", b"<html><body><input type='password'><video src=/1.mp4></video>" + LOGIN),
    ],
    ids=["page", "form", "refresh", "script", "with a video"],
)
def test_a_login_page_in_place_of_the_course_means_expired_cookies(
    site: FaultySite, tmp_path: Path, kind: str, body: bytes, encoding: str
) -> None:
    site.pages |= {"/course": (kind, body), "/join/login": ("text/html", LOGIN)}
    site.encodings["/course"] = encoding
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/course"))
    assert report.reason is Reason.COOKIES_EXPIRED, report
    assert delivered(tmp_path) == {} and not lectures_asked(site)


MAINTENANCE = b"<html><body><h1>Ceramics School</h1><p>We will <b>be back</b> soon"


def test_a_page_in_place_of_a_lecture_is_an_error_of_the_site(
    site: FaultySite, tmp_path: Path
) -> None:
    site.lectures = site.lectures[:3]
    site.pages["/2.mp4"] = ("text/html", b"<html><body><h1>Ceramics School</h1>")
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered) == (Reason.SITE_ERROR, 2), report
    site.pages.clear()
    assert run(order_for(site, tmp_path, attempt=2)).reason is None


def test_a_maintenance_page_is_an_error_of_the_site(site: FaultySite, tmp_path: Path) -> None:
    site.pages["/course"] = ("text/html", MAINTENANCE)
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/course"))
    assert report.reason is Reason.SITE_ERROR, report


@pytest.mark.parametrize("location", ["/join/login?next=%2Fcourse", "/course"])
def test_a_redirect_to_a_login_or_to_itself_means_expired_cookies(
    site: FaultySite, tmp_path: Path, location: str
) -> None:
    site.pages["/join/login"] = ("text/html", LOGIN)
    site.faults["/course"] = Fault(location=location)
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/course"))
    assert report.reason is Reason.COOKIES_EXPIRED, report


def test_an_account_without_cookies_learns_which_files_it_needs(
    site: FaultySite, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    order = order_for(site, tmp_path, cookies_dir=tmp_path / "none")
    assert run(order_for(site, tmp_path / "a", cookies_dir=tmp_path / "none")).reason is None
    site.wants_cookie = "session="
    report = run(order)
    assert report.reason is Reason.COOKIES_MISSING, report
    assert "cookies-x.txt" in report.message and "cookies.txt" in report.message


def test_a_wall_around_the_course_is_met_once(site: FaultySite, tmp_path: Path) -> None:
    body = b"<!doctype html><title>Just a moment...</title><script>window._cf_chl_opt={}</script>"
    site.pages["/course"] = ("text/html", body)
    requests = list[str]()
    site.on_request = requests.append
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/course"))
    assert report.reason is Reason.BOT_CHECK and requests == ["/course"], (report, requests)


def test_a_stop_ends_the_wait_that_a_site_asked_for(site: FaultySite, tmp_path: Path) -> None:
    site.faults["/feed"] = Fault(status=503, headers={"Retry-After": "50"})
    stop = threading.Event()
    site.on_request = lambda _path: threading.Timer(0.1, stop.set).start()
    report = work(order_for(site, tmp_path), stop=stop)
    assert report.reason is Reason.STOPPED and len(site.sent) == 1


def test_cookies_that_the_site_renews_are_kept_for_the_next_attempt(
    site: FaultySite, tmp_path: Path
) -> None:
    """The site renews the session on the course's page, and accepts the new one only."""
    site.lectures = site.lectures[:2]
    videos = b"<title>C</title><video src=/1.mp4></video><video src=/2.mp4></video>"
    site.pages["/course"] = ("text/html", videos)
    site.sets_cookie["/course"] = "session=renewed; Path=/; Max-Age=3600"
    site.faults["/2.mp4"] = Fault(status=500)
    course = f"{site.url}/course"
    assert run(order_for(site, tmp_path, course_url=course)).items_delivered == 1
    saved = tmp_path / "scratch" / "cookies.txt"
    assert "renewed" in saved.read_text() and saved.stat().st_mode & 0o777 == 0o600
    site.faults.clear()
    site.wants_cookie = "session=renewed"
    report = run(order_for(site, tmp_path, course_url=course, attempt=2))
    assert (report.reason, report.items_delivered) == (None, 1), report
