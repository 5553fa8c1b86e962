"""Generated courses on a faulty site: what is listed is delivered once, or named as failed.

Each course is tried up to three times, as a run is. Its media URLs are signed again at each
attempt, and before the last attempt the site may fail, cut or replace any answer.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from tests import media
from tests.faulty_site import Fault, FaultySite
from tests.orders import delivered, order_for, run

ATTEMPTS = 3
COURSES = 200
AT_ONCE = 4
# Answers for good. Each is a status, or the body of an answer with status 200.
BROKEN: tuple[int | bytes, ...] = (403, 404, 410, 500, b'{"error":{"code":"expired"}}')
# What a site does to a healthy lecture; an attempt may survive it or not.
FAULTS: tuple[Callable[[], Fault], ...] = (
    Fault,
    Fault,
    lambda: Fault(reset_after=700, times=1),
    lambda: Fault(status=503, times=1),
    lambda: Fault(reset_after=700),
    lambda: Fault(status=500),
    lambda: Fault(claim_more=1000),
)


def _sign_nothing(_number: int, _attempt: int) -> str:
    return ""


def _sign_s3(number: int, attempt: int) -> str:
    """See https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html."""
    return (
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F20261128%2Fs3&X-Amz-Date={attempt}"
        f"&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature={_digest(number, attempt)}"
    )


def _sign_cloudfront(number: int, attempt: int) -> str:
    return f"Expires={1_795_000_000 + attempt}&Signature={_digest(number, attempt)}&Key-Pair-Id=K"


def _sign_secure_link(number: int, attempt: int) -> str:
    return f"md5={_digest(number, attempt)[:22]}&expires={1_795_000_000 + attempt}"


def _sign_by_unknown_token(number: int, attempt: int) -> str:
    return f"ticket={_digest(number, attempt)}"


TITLES = ("Introduction", "../../etc/passwd", "CON", "Part 1/2", "می‌خواهم", "👩‍💻 code", "a" * 400)
SIGNERS = (
    _sign_nothing,
    _sign_s3,
    _sign_cloudfront,
    _sign_secure_link,
    _sign_by_unknown_token,
)


def _digest(number: int, attempt: int) -> str:
    return hashlib.sha256(f"{number} {attempt}".encode()).hexdigest()


@dataclass(frozen=True)
class Lecture:
    """A lecture of a generated course. `faults` has one per attempt; the last attempt has none."""

    title: str
    kind: str  # `mp4` or `pdf`
    broken: int | bytes | None
    faults: tuple[Callable[[], Fault], ...]

    def content(self, number: int) -> bytes:
        """Return a file that opens, and that no other number has."""
        if self.kind == "pdf":
            return media.make_document("pdf", number)
        return media.lecture(3_000 + number, number)


@dataclass(frozen=True)
class Course:
    """A generated course. `added` lectures are listed on top from the second attempt on."""

    lectures: tuple[Lecture, ...]
    added: int
    is_feed: bool
    guids: bool
    differ_by_query: bool
    sign: Callable[[int, int], str]

    def listed(self, attempt: int) -> list[int]:
        """Return the numbers of the lectures in the order of the page."""
        first = len(self.lectures) - self.added
        return [*(range(first, len(self.lectures)) if attempt > 1 else ()), *range(first)]

    def address(self, number: int) -> str:
        """Return what the site knows the lecture by."""
        kind = self.lectures[number].kind
        return f"/get?lecture={number}" if self.differ_by_query else f"/files/{number}/file.{kind}"

    def page(self, site: FaultySite, attempt: int) -> tuple[str, bytes]:
        """Return the type and the body of the course's page."""
        entries = "".join(self._entry(site, number, attempt) for number in self.listed(attempt))
        if self.is_feed:
            body = f'<rss version="2.0"><channel><title>C</title>{entries}</channel></rss>'
            return "application/rss+xml", f'<?xml version="1.0"?>{body}'.encode()
        return "text/html", f"<html><title>A course</title><body>{entries}</body></html>".encode()

    def _entry(self, site: FaultySite, number: int, attempt: int) -> str:
        address = site.url + self.address(number)
        if signature := self.sign(number, attempt):
            address += ("&" if self.differ_by_query else "?") + signature
        if not self.is_feed:
            return f'<video src="{escape(address)}"></video>'
        lecture = self.lectures[number]
        kind = "video/mp4" if lecture.kind == "mp4" else "application/pdf"
        guid = f"<guid>{number}</guid>" if self.guids else ""
        return (
            f"<item><title>{escape(lecture.title)}</title>{guid}"
            f'<enclosure url="{escape(address)}" type="{kind}"/></item>'
        )


@st.composite
def courses(draw: st.DrawFn) -> Course:
    is_feed = draw(st.booleans())
    faults = st.tuples(*[st.sampled_from(FAULTS)] * (ATTEMPTS - 1))
    lectures = st.builds(
        Lecture,
        title=st.sampled_from(TITLES) | st.text(st.characters(exclude_categories=["C"])),
        kind=st.sampled_from(["mp4", "mp4", "pdf"]) if is_feed else st.just("mp4"),
        broken=st.none() | st.none() | st.none() | st.sampled_from(BROKEN),
        faults=faults,
    )
    chosen = tuple(draw(st.lists(lectures, min_size=1, max_size=8)))
    return Course(
        chosen,
        added=draw(st.integers(0, min(2, len(chosen) - 1))),
        is_feed=is_feed,
        guids=draw(st.booleans()),
        differ_by_query=draw(st.booleans()),
        sign=draw(st.sampled_from(SIGNERS)),
    )


def set_answers(site: FaultySite, course: Course, attempt: int) -> None:
    """Let the site answer as the course wants it in this attempt."""
    site.faults.clear()
    site.pages = {"/course": course.page(site, attempt)}
    for number, lecture in enumerate(course.lectures):
        address = course.address(number)
        kind = "video/mp4" if lecture.kind == "mp4" else "application/pdf"
        site.pages[address] = (kind, lecture.content(number))
        match lecture.broken:
            case int(status):
                site.faults[address] = Fault(status=status)
            case bytes(body):
                site.pages[address] = (kind, body)
            case None if attempt < ATTEMPTS:
                site.faults[address] = lecture.faults[attempt - 1]()


def find_address(path: str) -> str:
    """Return what the site knows a lecture by, without its signature."""
    plain, _, query = path.partition("?")
    number = parse_qs(query).get("lecture")
    return f"{plain}?lecture={number[0]}" if number else plain


@pytest.fixture
def sites() -> Iterator[tuple[FaultySite, ...]]:
    with ExitStack() as stack:
        opened = tuple(stack.enter_context(FaultySite([])) for _ in range(AT_ONCE))
        for site in opened:
            site.find_address = find_address
        yield opened


def check_course(course: Course, site: FaultySite) -> int:
    """Run the attempts of one course, and check what is delivered. Returns their number."""
    with TemporaryDirectory() as folder:
        for attempt in range(1, ATTEMPTS + 1):
            set_answers(site, course, attempt)
            order = order_for(site, Path(folder), course_url=f"{site.url}/course", attempt=attempt)
            report = run(order)
            if report.reason is None:
                break
        files = Counter(delivered(Path(folder)).values())
        listed = course.listed(attempt)
    healthy = [n for n in listed if course.lectures[n].broken is None]
    assert files == Counter(course.lectures[n].content(n) for n in healthy), report
    assert report.items_failed == len(listed) - len(healthy), report
    assert (report.reason is None) == (report.items_failed == 0), report
    return attempt


@pytest.mark.timeout(1200)
@settings(
    max_examples=COURSES // AT_ONCE,
    deadline=None,
    # To shrink four courses at once would take longer than to read them.
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batch=st.lists(courses(), min_size=AT_ONCE, max_size=AT_ONCE))
def test_generated_courses_are_delivered_once_but_for_the_named(
    batch: list[Course], sites: tuple[FaultySite, ...]
) -> None:
    # Side by side, since a run often waits: for a server, or before it tries again.
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for attempts in threads.map(check_course, batch, sites):
            event(f"attempts: {attempts}")
