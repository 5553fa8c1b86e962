"""The chaos suite's own eyes: each of its checks notices what it is there for."""

import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.chaos.course_site import Course, Request, WatchfulSite
from tests.chaos.invariants import (
    check_all_files,
    check_delivered,
    check_ends,
    check_requests,
    check_writes,
)
from tests.chaos.node import Row, Wanted, Write

ROW = Row("enrolled", "ada@example.com", "https://courses.example.com/1", "Node.js")
COURSE, ACCOUNT = Course(1, 1), "ada@example.com"


def to(status: str, before: Row = ROW, **changes: str) -> Write:
    return Write(1, True, before, replace(before, status=status, **changes))


@pytest.mark.parametrize(
    "write",
    [
        to("failed", replace(ROW, status="completed")),
        to("completed", replace(ROW, status="processing")),
        to("processing"),
        to("failed", note="changed"),
        Write(1, True, ROW, None),
    ],
)
def test_wrong_write_of_an_operator_is_noticed(write: Write) -> None:
    assert list(check_writes([write]))
    assert not list(check_writes([replace(write, by_operator=False)]))


def test_right_writes_of_an_operator_are_accepted() -> None:
    waiting, odd = replace(ROW, status="paid"), replace(ROW, status="archived")
    assert not list(check_writes([to("completed"), to("failed", waiting), to("failed", odd)]))


def test_ends_that_nothing_explains_are_noticed() -> None:
    assert list(check_ends([Write(1, False, None, ROW)], {})), "still open"
    assert list(check_ends([to("failed")], {})), "no reason"
    assert list(check_ends([to("failed")], {1: ["AccessDenied"]})), "too early"
    assert not list(check_ends([to("failed")], {1: ["Lost", None]}))


def test_incomplete_doubled_or_foreign_files_are_noticed(tmp_path: Path) -> None:
    assert list(check_delivered([COURSE], tmp_path)), "no folder"
    folder = tmp_path / f"{COURSE.title} [task-1]"
    folder.mkdir()
    first, *others = COURSE.lectures
    for number, content in enumerate(others):
        (folder / f"{number}.mp4").write_bytes(content)
    assert list(check_delivered([COURSE], tmp_path)), "one is missing"
    (folder / "first.mp4").write_bytes(first)
    assert not list(check_delivered([COURSE], tmp_path))
    (folder / "again.mp4").write_bytes(first)
    assert list(check_delivered([COURSE], tmp_path)), "one is there twice"
    assert not list(check_all_files([COURSE], tmp_path))
    assert list(check_all_files([Course(2, 1)], tmp_path)), "of another course"


def test_course_that_its_account_never_read_is_noticed() -> None:
    wanted = Wanted(COURSE, ACCOUNT)
    right = Request(COURSE.name, "ada", "/courses/1-1/feed", 200)
    assert not list(check_requests([wanted], [right]))
    for wrong in (replace(right, account="bob"), replace(right, status=403)):
        assert list(check_requests([wanted], [wrong]))


def ask(site: WatchfulSite, connection: HTTPConnection) -> int:
    path = site.course_url(COURSE.name).removeprefix(f"http://{site.host}")
    session = ACCOUNT.partition("@")[0]
    connection.request("GET", path, headers={"Cookie": f"session={session}"})
    response = connection.getresponse()
    response.read()
    return response.status


def test_request_before_the_enrollment_is_noticed() -> None:
    with WatchfulSite(rate=1e6).serving() as site, closing(HTTPConnection(site.host)) as mine:
        assert ask(site, mine) == 403
        assert [words.partition(":")[0] for words in site.violations] == ["early"]


def test_two_processes_at_one_course_are_noticed() -> None:
    with (
        WatchfulSite(rate=1e6).serving() as site,
        closing(HTTPConnection(site.host)) as first,
        closing(HTTPConnection(site.host)) as second,
    ):
        site.enroll(ACCOUNT, COURSE.name)
        assert ask(site, first) == ask(site, second) == 200
        assert site.violations == [], "one process may have several connections"
        script = (
            "import sys, http.client; connection = http.client.HTTPConnection(sys.argv[1]); "
            "connection.request('GET', sys.argv[2], headers={'Cookie': sys.argv[3]}); "
            "connection.getresponse().read()"
        )
        path = site.course_url(COURSE.name).removeprefix(f"http://{site.host}")
        arguments = [site.host, path, f"session={ACCOUNT.partition('@')[0]}"]
        subprocess.run([sys.executable, "-c", script, *arguments], check=True)
        assert [words.partition(":")[0] for words in site.violations] == ["twice"]
