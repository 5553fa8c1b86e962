"""The chaos suite's own eyes: each of its checks notices what it is there for."""

import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.chaos.course_site import Course, Request, WatchfulSite
from tests.chaos.delivered import Folder, md5, read_directory, read_drive
from tests.chaos.invariants import (
    check_all_files,
    check_delivered,
    check_ends,
    check_faults,
    check_requests,
    check_writes,
)
from tests.chaos.node import Row, Wanted, Write
from tests.drive_emulator import Store
from tests.drive_emulator.store import FOLDER

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


def test_fault_that_never_happened_is_noticed() -> None:
    assert list(check_faults({"kill": 1, "freeze": 0})) == ["the fault never happened: freeze"]


class Destination:
    """A directory or a Drive to which a test writes files in folders, and what is seen of it."""

    def __init__(self, root: Path, *, is_drive: bool) -> None:
        self.root, self.is_drive = root, is_drive
        self.store = Store()

    def make_folder(self, name: str) -> str:
        """Make a folder and return its URL."""
        if not self.is_drive:
            (self.root / name).mkdir()
            return (self.root / name).as_uri()
        body = {"name": name, "mimeType": FOLDER, "parents": [self.store.root]}
        return str(self.store.insert(body, checked=False)["webViewLink"])

    def write(self, url: str, name: str, content: bytes) -> None:
        """Write a video into a folder, or beside all folders if the URL is empty."""
        if not self.is_drive:
            place = next((each for each in self.root.iterdir() if each.as_uri() == url), self.root)
            (place / name).write_bytes(content)
            return
        parent = url.rpartition("/")[2] or self.store.root
        body = {"name": name, "parents": [parent], "md5Checksum": md5(content)}
        self.store.insert(body, checked=False)

    def read(self) -> list[Folder]:
        return read_drive(self.store) if self.is_drive else read_directory(self.root)


@pytest.fixture(params=["directory", "drive"])
def destination(tmp_path: Path, request: pytest.FixtureRequest) -> Destination:
    return Destination(tmp_path, is_drive=request.param == "drive")


def test_incomplete_doubled_or_foreign_files_are_noticed(destination: Destination) -> None:
    def wrong(*urls: str) -> list[str]:
        return list(check_delivered([COURSE], [destination.read()], {COURSE.task_id: urls}))

    assert wrong(), "no folder"
    url = destination.make_folder(f"{COURSE.title} [task-1]")
    first, *others = COURSE.lectures
    for number, content in enumerate(others):
        destination.write(url, f"{number}.mp4", content)
    assert wrong(url), "one is missing"
    destination.write(url, "first.mp4", first)
    assert not wrong(url)
    assert wrong(), "no run reports it"
    destination.write(url, "again.mp4", first)
    assert wrong(url), "one is there twice"
    assert not list(check_all_files([COURSE], destination.read()))
    assert list(check_all_files([Course(2, 1)], destination.read())), "of another course"
    destination.write("", "lost.mp4", first)
    assert list(check_all_files([COURSE], destination.read())), "in no course's folder"


def test_second_folder_of_a_course_at_one_destination_is_noticed(destination: Destination) -> None:
    name = f"{COURSE.title} [task-1]"
    url = destination.make_folder(name)
    destination.make_folder(name if destination.is_drive else f"{COURSE.title} (2) [task-1]")
    for number, content in enumerate(COURSE.lectures):
        destination.write(url, f"{number}.mp4", content)
    assert list(check_delivered([COURSE], [destination.read()], {1: [url]}))


def test_trashed_file_of_a_drive_does_not_count(tmp_path: Path) -> None:
    drive = Destination(tmp_path, is_drive=True)
    drive.write("", "lost.mp4", b"x")
    assert list(check_all_files([COURSE], drive.read()))
    drive.store.update(str(drive.store.media()[0]["id"]), {"trashed": True})
    assert not list(check_all_files([COURSE], drive.read()))


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
