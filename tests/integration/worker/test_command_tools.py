"""The command downloader with the programs that people use: wget, curl, aria2 and yt-dlp."""

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import absent
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.orders import delivered, make_order

from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.worker.work import work

SIZE = 400_000
LECTURE = lecture(SIZE)


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite([Lecture("Clay", LECTURE)]) as running:
        yield running


def run(tmp_path: Path, site: FaultySite, *command: str) -> Report:
    """Run this command for the site's only lecture."""
    if shutil.which(command[0]) is None:
        absent(command[0], "run scripts/webservers as root on Debian, or install it")
    order = make_order(
        tmp_path,
        course_url=f"{site.url}/1.mp4",
        allowed_hosts=(site.host,),
        downloader="command",
        download_command=command,
        stop_grace=10,
    )
    return work(order, stop=threading.Event())


def hold(site: FaultySite) -> None:
    """Send half of the lecture, and nothing more."""
    site.faults["/1.mp4"] = Fault(hold=threading.Event())


@pytest.mark.parametrize(
    "command",
    [
        ("wget", "-q", "-P", "{output_dir}", "{course_url}"),
        ("curl", "-sS", "--output-dir", "{output_dir}", "-O", "{course_url}"),
        ("aria2c", "-q", "-x4", "-d", "{output_dir}", "{course_url}"),
        (sys.executable, "-m", "yt_dlp", "-q", "-P", "{output_dir}", "{course_url}"),
    ],
    ids=["wget", "curl", "aria2", "yt-dlp"],
)
def test_what_a_program_downloads_is_delivered(
    tmp_path: Path, site: FaultySite, command: tuple[str, ...]
) -> None:
    report = run(tmp_path, site, *command)
    assert (report.reason, report.items_delivered) == (None, 1), report
    assert list(delivered(tmp_path).values()) == [LECTURE]


@pytest.mark.parametrize(
    "command",
    [
        ("wget", "-b", "-q", "-P", "{output_dir}", "{course_url}"),
        ("aria2c", "-q", "-D", "-d", "{output_dir}", "{course_url}"),
        ("sh", "-c", 'curl -sS -o "$1/a.mp4" "$0" &', "{course_url}", "{output_dir}"),
        ("sh", "-c", 'setsid -f curl -sS -o "$1/a.mp4" "$0"', "{course_url}", "{output_dir}"),
    ],
    ids=["wget -b", "aria2c -D", "a job of a shell", "setsid"],
)
def test_a_download_in_the_background_is_waited_for(
    tmp_path: Path, site: FaultySite, command: tuple[str, ...]
) -> None:
    site.rate = SIZE / 2.0
    report = run(tmp_path, site, *command)
    assert (report.reason, report.items_delivered) == (None, 1), report
    assert LECTURE in delivered(tmp_path).values()


@pytest.mark.parametrize(
    "program",
    [
        'aria2c -q -x4 --file-allocation=prealloc -d "$1" "$0"',
        f'{sys.executable} -m yt_dlp -q -P "$1" "$0"',
    ],
    ids=["aria2", "yt-dlp"],
)
def test_a_download_that_was_cut_short_is_incomplete(
    tmp_path: Path, site: FaultySite, program: str
) -> None:
    """As old download scripts do, this one hides the failure: it exits with 0."""
    hold(site)
    # A shell's background job ignores SIGINT by default.
    script = (
        f"env --default-signal=INT {program} & "
        'until ls "$1" | grep -q .; do sleep 0.1; done; sleep 1; kill -INT $!; wait; exit 0'
    )
    report = run(tmp_path, site, "sh", "-c", script, "{course_url}", "{output_dir}")
    assert report.reason is Reason.INCOMPLETE_DOWNLOAD, report
    assert report.items_delivered == 0 and delivered(tmp_path) == {}
