"""A site says in words, with HTTP 200, why it sends no course and no lecture."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture
from tests.orders import delivered, order_for, run

from enrollgate.domain.reasons import Reason

# yt-dlp leaves responses that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

JSON = "application/json"
# What frameworks and sites answer: Django REST, Laravel, Spring, Express, GraphQL servers, Moodle.
LOGINS = {
    "django": (JSON, '{"detail":"Authentication credentials were not provided."}'),
    "express": (JSON, '{"error":"unauthorized"}'),
    "laravel": (JSON, '{"message":"Unauthenticated."}'),
    "code": (JSON, '{"code":401,"message":"no"}'),
    "status": (JSON, '{"success":false,"statusCode":"401"}'),
    "graphql": (JSON, '{"errors":[{"code":"NOT_LOGGED_IN"}],"data":null}'),
    "camel case": (JSON, '{"errorType":"loginRequiredError"}'),
    "moodle": (JSON, '{"error":"x","errorcode":"requireloginerror","debuginfo":"require login"}'),
    "redirect": (JSON, '{"redirect_url":"https:\\/\\/school.example\\/users\\/sign_in"}'),
    "problem": ("application/problem+json", '{"title":"Unauthorized","status":401}'),
    "text": ("text/plain", "401 Unauthorized"),
    "no type": ("application/octet-stream", '{"error":{"type":"session_expired"}}'),
    "xml": ("application/xml", "<error><code>401</code></error>"),
    "form": ("text/html", '<div class="login"><form action="/login"><input name=u></form></div>'),
    "fragment": ("text/html", "<p>Please log in to watch this course.</p>"),
}


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite([Lecture(f"L{n}", lecture(5_000, n)) for n in (1, 2)]) as running:
        yield running


@pytest.mark.parametrize(("kind", "body"), LOGINS.values(), ids=LOGINS)
@pytest.mark.parametrize("path", ["/course/7", "/course.json"])
def test_an_answer_that_asks_for_a_login_is_one(
    site: FaultySite, tmp_path: Path, path: str, kind: str, body: str
) -> None:
    site.pages[path] = (kind, body.encode())
    report = run(order_for(site, tmp_path, course_url=f"{site.url}{path}"))
    assert (report.reason, delivered(tmp_path)) == (Reason.COOKIES_EXPIRED, {}), report


def test_an_account_without_cookies_learns_so(site: FaultySite, tmp_path: Path) -> None:
    site.pages["/course/7"] = (JSON, LOGINS["django"][1].encode())
    (tmp_path / "none").mkdir()
    order = order_for(
        site, tmp_path, course_url=f"{site.url}/course/7", cookies_dir=tmp_path / "none"
    )
    report = run(order)
    assert report.reason is Reason.COOKIES_MISSING, report


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, '{"lectures":401,"title":"Error codes"}'),
        (JSON, '{"status":"ok","code":200}'),
        ("text/plain", "Write an unauthenticated request first, then sign it."),
    ],
)
def test_notes_about_logins_are_delivered(
    site: FaultySite, tmp_path: Path, kind: str, body: str
) -> None:
    name = "/notes.json" if kind == JSON else "/notes.txt"
    site.pages[name] = (kind, body.encode())
    report = run(order_for(site, tmp_path, course_url=f"{site.url}{name}"))
    assert report.reason is None, report


def test_a_page_in_place_of_media_without_an_extension_is_asked_for_again(
    site: FaultySite, tmp_path: Path
) -> None:
    """Its feed says that it is a video; neither its address nor its page says anything."""
    item = (
        "<item><title>T</title><guid>g</guid>"
        f'<enclosure url="{site.url}/stream?id=1" type="video/mp4"/></item>'
    )
    feed = f"<rss><channel><title>A course</title>{item}</channel></rss>"
    site.pages["/rss"] = ("application/rss+xml", feed.encode())
    order = order_for(site, tmp_path, course_url=f"{site.url}/rss")
    for page in (
        "<!doctype html><title>Pots</title><p>Soon!",
        '<html><title>Pots</title><a href="/">Home</a><img src="/clay.jpg"></html>',
        '<html><title>Oops</title><iframe src="https://status.example/"></iframe></html>',
    ):
        site.pages["/stream"] = ("text/html", page.encode())
        report = run(order)
        assert report.reason is Reason.SITE_ERROR, (page, report)
    site.pages["/stream"] = ("video/mp4", site.lectures[0].content)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}/rss", attempt=2)).reason is None
    assert list(delivered(tmp_path).values()) == [site.lectures[0].content]
