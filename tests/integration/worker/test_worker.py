"""One attempt against a site that misbehaves, with a real folder and real child processes."""

import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.conftest import absent
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture, ts_segment
from tests.orders import delivered, make_order, manifest, order_for, run, start_worker
from yt_dlp.extractor import udemy
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.utils import ExtractorError

from enrollgate.domain.account import cookies_name
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import Report
from enrollgate.worker.downloaders.guarded import open_youtube_dl
from enrollgate.worker.downloaders.refused import RequestRefused
from enrollgate.worker.downloaders.yt_dlp import YtDlp
from enrollgate.worker.work import work, write_report

# yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DISTANT_FUTURE = "Wed, 21 Oct 2065 07:28:00 GMT"


def test_a_course_is_delivered_whole_with_its_manifest(
    site: FaultySite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(order_for(site, tmp_path))
    assert (
        report.reason is None
        and report.items_delivered == 4
        and report.bytes_delivered == site.size
    )
    assert delivered(tmp_path) == {
        f"A course [task-7]/{n:02d} - Lecture {n}.mp4": lecture.content
        for n, lecture in enumerate(site.lectures, 1)
    }
    for entry, served in zip(manifest(tmp_path), site.lectures, strict=True):
        assert entry["bytes"] == len(served.content)
        assert entry["md5"] == hashlib.md5(served.content).hexdigest()
        assert str(entry["source_url"]).startswith(site.url) and "token" not in str(
            entry["source_url"]
        )
    assert list((tmp_path / "scratch" / "items").iterdir()) == [], "delivered files leave scratch"
    log = capsys.readouterr().err
    assert "[ATTEMPT 1/3] course 'A course', 4 items" in log and "50 % (2 of 4 items)" in log
    assert "secret" not in log
    progress = json.loads((tmp_path / "progress.json").read_text())
    columns = ("items_done", "items_total", "bytes_done", "percent", "current_item")
    assert [progress[column] for column in columns] == [4, 4, site.size, 100, ""]
    assert str(progress["destination_url"]).startswith("file:///")


def test_a_second_attempt_downloads_no_delivered_file_again(
    site: FaultySite, tmp_path: Path
) -> None:
    run(order_for(site, tmp_path))
    before = site.media_bytes
    report = run(order_for(site, tmp_path, attempt=2))
    assert report.reason is None and report.items_skipped == 4
    assert site.media_bytes == before


def test_a_file_that_changed_at_the_destination_is_delivered_again(
    site: FaultySite, tmp_path: Path
) -> None:
    run(order_for(site, tmp_path))
    changed = next((tmp_path / "out").rglob("02*.mp4"))
    changed.write_bytes(b"x" * changed.stat().st_size)
    report = run(order_for(site, tmp_path))
    assert (report.items_delivered, report.items_skipped) == (1, 3)
    assert changed.read_bytes() == site.lectures[1].content


def test_a_corrected_course_url_is_another_course_despite_equal_names(
    tmp_path: Path,
) -> None:
    """Each course is a file `1.mp4`.

    The wrong one was delivered. Then the task is enrolled again with the right one.
    """
    wrong, right = lecture(5_000, 1), lecture(6_000, 2)
    with FaultySite([]) as site:
        site.pages |= {"/a/1.mp4": ("video/mp4", wrong), "/b/1.mp4": ("video/mp4", right)}
        assert run(order_for(site, tmp_path, course_url=f"{site.url}/a/1.mp4")).items_delivered == 1
        report = run(order_for(site, tmp_path, course_url=f"{site.url}/b/1.mp4", run_number=2))
        assert (report.reason, report.items_delivered, report.items_skipped) == (None, 1, 0)
        (course,) = (tmp_path / "out").glob(f"{report.destination_id.replace('[', '[[]')}")
        assert [path.read_bytes() for path in course.glob("*.mp4")] == [right]
        assert sorted(delivered(tmp_path).values()) == sorted([wrong, right]), (
            "a delivered file was overwritten"
        )
        for url, run_number in ((f"{site.url}/a/1.mp4", 3), (f"{site.url}/b/1.mp4", 4)):
            again = run(order_for(site, tmp_path, course_url=url, run_number=run_number))
            assert (again.items_delivered, again.items_skipped) == (0, 1), (
                "a delivered course was not found"
            )


def test_a_new_signature_in_the_course_url_is_the_same_course(
    site: FaultySite, tmp_path: Path
) -> None:
    run(order_for(site, tmp_path, course_url=f"{site.url}/feed?Expires=1&Signature=abc&id=3"))
    again = run(
        order_for(site, tmp_path, course_url=f"{site.url}/feed?Expires=2&Signature=xyz&id=3")
    )
    assert (again.items_delivered, again.items_skipped) == (0, 4)
    other = run(
        order_for(site, tmp_path, course_url=f"{site.url}/feed?Expires=2&Signature=xyz&id=4")
    )
    assert (other.items_delivered, other.items_skipped) == (4, 0)


def test_a_damaged_manifest_is_ignored_and_written_again(site: FaultySite, tmp_path: Path) -> None:
    run(order_for(site, tmp_path))
    next((tmp_path / "out").rglob("manifest.json")).write_text('{"items": 7')
    assert run(order_for(site, tmp_path)).items_delivered == 4
    assert len(delivered(tmp_path)) == 4


@pytest.mark.parametrize(
    ("status", "headers", "reason", "message", "retry_after"),
    [
        (401, {}, Reason.COOKIES_EXPIRED, "the site asks for a login (HTTP 401)", None),
        (403, {}, Reason.ACCESS_DENIED, "the site refuses this account (HTTP 403)", None),
        (404, {}, Reason.COURSE_NOT_FOUND, "the site has no such page (HTTP 404)", None),
        (410, {}, Reason.COURSE_NOT_FOUND, "the page is gone from the site (HTTP 410)", None),
        (
            429,
            {"Retry-After": "70"},
            Reason.RATE_LIMITED,
            "the site asks to slow down (HTTP 429)",
            70.0,
        ),
        (500, {}, Reason.SITE_ERROR, "the site failed (HTTP 500)", None),
        (503, {"Retry-After": "80"}, Reason.SITE_ERROR, "the site failed (HTTP 503)", 80.0),
        (
            429,
            {"Retry-After": DISTANT_FUTURE},
            Reason.RATE_LIMITED,
            "the site asks to slow down (HTTP 429)",
            30 * 86400.0,
        ),
    ],
)
def test_the_site_s_answer_for_the_course_is_the_reason(
    site: FaultySite,
    tmp_path: Path,
    status: int,
    headers: dict[str, str],
    reason: Reason,
    message: str,
    retry_after: float | None,
) -> None:
    site.faults["/feed"] = Fault(status=status, headers=headers)
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.message, report.retry_after) == (reason, message, retry_after)
    assert site.media_bytes == 0


def test_one_refused_lecture_does_not_stop_the_others(site: FaultySite, tmp_path: Path) -> None:
    site.faults["/2.mp4"] = Fault(status=403)
    report = run(order_for(site, tmp_path))
    assert report.reason is Reason.ACCESS_DENIED
    assert (report.items_delivered, report.items_failed) == (3, 1)
    assert [failed.item for failed in report.failed_items] == ["Lecture 2"]
    assert "1 of 4 items failed: 'Lecture 2'" in report.message
    site.faults.clear()
    again = run(order_for(site, tmp_path, attempt=2))
    assert again.reason is None and (again.items_delivered, again.items_skipped) == (1, 3)


def test_a_run_with_a_retryable_failure_is_retryable(site: FaultySite, tmp_path: Path) -> None:
    site.faults |= {
        "/1.mp4": Fault(status=403),
        "/3.mp4": Fault(status=404),
        "/4.mp4": Fault(status=503),
    }
    report = run(order_for(site, tmp_path))
    assert report.reason is Reason.SITE_ERROR and report.items_failed == 3


def test_a_download_whose_connection_is_reset_is_resumed_to_its_end(
    site: FaultySite, tmp_path: Path
) -> None:
    site.faults["/1.mp4"] = Fault(reset_after=50_000, times=3)
    report = run(order_for(site, tmp_path))
    # The first attempt may fail here. The next one resumes the partial file.
    if report.reason is not None:
        report = run(order_for(site, tmp_path, attempt=2))
    assert report.reason is None
    assert delivered(tmp_path)["A course [task-7]/01 - Lecture 1.mp4"] == site.lectures[0].content


def test_a_connection_that_is_always_reset_is_the_reason(site: FaultySite, tmp_path: Path) -> None:
    site.faults["/1.mp4"] = Fault(reset_after=0)
    report = run(order_for(site, tmp_path))
    assert report.reason is Reason.NETWORK_ERROR and report.items_delivered == 3
    assert report.message.startswith(
        "1 of 4 items failed: 'Lecture 1': Connection reset by peer"
    ), report.message


def test_a_body_shorter_than_announced_is_never_delivered(site: FaultySite, tmp_path: Path) -> None:
    site.faults["/1.mp4"] = Fault(claim_more=5_000)
    report = run(order_for(site, tmp_path))
    assert report.reason is Reason.INCOMPLETE_DOWNLOAD
    words = "Downloaded 100001 bytes, expected 105001 bytes. Giving up after 2 retries"
    assert report.message == f"1 of 4 items failed: 'Lecture 1': {words}"
    assert "A course [task-7]/01 - Lecture 1.mp4" not in delivered(tmp_path)
    assert report.items_delivered == 3


@pytest.mark.parametrize(
    ("target", "reason", "message"),
    [
        ("http://169.254.169.254/latest", Reason.HOST_NOT_ALLOWED, "169.254.169.254 is not in"),
        ("ftp://example.com/x", Reason.INVALID_COURSE_URL, "the URL's scheme is ftp: "),
        ("file:///etc/passwd", Reason.UNSUPPORTED_COURSE, "the site answered HTTP 302"),
    ],
)
def test_a_redirect_to_a_forbidden_url_is_not_followed(
    site: FaultySite, tmp_path: Path, target: str, reason: Reason, message: str
) -> None:
    site.faults["/feed"] = Fault(location=target)
    report = run(order_for(site, tmp_path))
    assert report.reason is reason and report.message.startswith(message), report
    assert {sent.path for sent in site.sent} <= {"/feed"}


def test_a_redirect_to_a_host_that_is_not_allowed_sends_nothing_there(
    site: FaultySite, tmp_path: Path
) -> None:
    with FaultySite([]) as other:
        site.faults["/1.mp4"] = Fault(location=f"{other.url}/1.mp4")
        report = run(order_for(site, tmp_path))
        assert report.reason is Reason.HOST_NOT_ALLOWED and report.items_delivered == 3
        words = "127.0.0.1 is not in ENROLLGATE_ALLOWED_HOSTS"
        assert report.message == f"1 of 4 items failed: 'Lecture 1': {words}"
        assert other.sent == []


def test_a_host_with_a_private_address_is_refused_without_a_request(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    port = int(site.host.partition(":")[2])
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda _host, _port, *rest, **more: resolve("127.0.0.1", port, *rest, **more),
    )
    url = "https://courses.example.com/feed"
    report = run(order_for(site, tmp_path, course_url=url, allowed_hosts=("*.example.com",)))
    assert report.reason is Reason.HOST_NOT_ALLOWED and "private address" in report.message
    assert site.sent == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "javascript:alert(1)",
            "the URL's scheme is javascript: only https, or http, can be downloaded",
        ),
        ("file:///etc/passwd", "the URL's scheme is file: only https, or http, can be downloaded"),
        ("https://10.0.0.1/", "10.0.0.1 is not in ENROLLGATE_ALLOWED_HOSTS"),
        ("https://other.example/course", "other.example is not in ENROLLGATE_ALLOWED_HOSTS"),
        ("/relative", "the URL's scheme is none: only https, or http, can be downloaded"),
        ("https://", "the URL names no host"),
        ("https://a.example/" + "x" * 10_000, "the URL has 10,018 characters, more than 2,048"),
        ("https://ada:secret@a.example/", "the URL carries a user name or a password"),
    ],
)
def test_a_url_that_is_not_allowed_is_refused_without_a_request(
    site: FaultySite, tmp_path: Path, url: str, message: str
) -> None:
    report = run(order_for(site, tmp_path, course_url=url))
    assert report.reason in (Reason.INVALID_COURSE_URL, Reason.HOST_NOT_ALLOWED)
    assert report.message == message
    assert site.sent == []


def test_files_stay_in_the_course_folder_whatever_their_titles(tmp_path: Path) -> None:
    titles = [
        "../../x",
        "..",
        "/etc/passwd",
        "a" * 400,
        "ü" * 400,
        "CON",
        ".hidden",
        "",
        "x/../../y",
        "..\\..\\z",
    ]
    with FaultySite(
        [Lecture(title, lecture(3000 + n, n)) for n, title in enumerate(titles)]
    ) as site:
        report = run(order_for(site, tmp_path))
        assert report.reason is None, report.message
        assert report.items_delivered == len(titles)
    files = delivered(tmp_path)
    assert len(files) == len(titles)
    assert all(name.startswith("A course [task-7]/") and name.count("/") == 1 for name in files)
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".mp4"]
    assert len(outside) == len(titles)


def test_two_lectures_with_the_same_title_are_both_delivered(tmp_path: Path) -> None:
    with FaultySite([Lecture("Same", lecture(3000, 1)), Lecture("Same", lecture(3000, 2))]) as site:
        assert run(order_for(site, tmp_path)).items_delivered == 2
        assert sorted(delivered(tmp_path).values()) == sorted(
            lecture.content for lecture in site.lectures
        )


def test_the_account_s_cookies_are_sent_and_their_file_is_unchanged(
    site: FaultySite, tmp_path: Path
) -> None:
    cookies = tmp_path / "cookies"
    cookies.mkdir()
    name = cookies_name("ada@example.com")
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tsession\tada\n"
    (cookies / name).write_text(text)
    (cookies / name).chmod(0o444)
    (cookies / "cookies.txt").write_text(text.replace("\tada", "\tdefault"))
    run(order_for(site, tmp_path, cookies_dir=cookies, cookies_name=name))
    assert {sent.cookie for sent in site.sent} == {"session=ada"}
    assert (cookies / name).read_text() == text
    assert stat.S_IMODE((tmp_path / "scratch" / "cookies.txt").stat().st_mode) == 0o600
    site.sent.clear()
    run(order_for(site, tmp_path, cookies_dir=cookies, cookies_name="cookies-other.txt"))
    assert {sent.cookie for sent in site.sent} == {"session=default"}


def test_a_cookies_file_in_another_format_is_refused(site: FaultySite, tmp_path: Path) -> None:
    (tmp_path / "cookies.txt").write_text('[{"name": "session"}]')
    report = run(order_for(site, tmp_path, cookies_dir=tmp_path))
    assert report.reason is Reason.COOKIES_UNREADABLE and site.sent == []


def test_download_and_delivery_overlap(site: FaultySite, tmp_path: Path) -> None:
    """The site holds lecture 2 until lecture 1 is delivered.

    Without overlap, lecture 1 would not be delivered before the end of the hold.
    """
    gate = threading.Event()
    site.faults["/2.mp4"] = Fault(hold=gate)
    first = tmp_path / "out" / "A course [task-7]" / "01 - Lecture 1.mp4"

    def open_when_delivered() -> None:
        deadline = time.monotonic() + 60
        while not first.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(first.exists())
        gate.set()

    seen: list[bool] = []
    watcher = threading.Thread(target=open_when_delivered)
    watcher.start()
    report = run(order_for(site, tmp_path))
    watcher.join()
    assert seen == [True] and report.reason is None


@pytest.mark.parametrize(
    ("folder_of", "reason", "words"),
    [
        (
            "scratch",
            Reason.CONFIGURATION_ERROR,
            "the scratch folder (in ENROLLGATE_WORK_DIR; in a pod /scratch) cannot be",
        ),
        (
            "destination",
            Reason.DESTINATION_NOT_FOUND,
            "at the destination: folder: Not a directory",
        ),
    ],
)
def test_the_reason_says_which_folder_cannot_be_created(
    site: FaultySite, tmp_path: Path, folder_of: str, reason: Reason, words: str
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"
    changes = (
        {"scratch_dir": folder}
        if folder_of == "scratch"
        else {"destination": f"directory:{folder}"}
    )
    report = run(order_for(site, tmp_path, **changes))
    assert report.reason is reason and words in report.message and site.media_bytes == 0


def test_a_full_disk_is_the_reason_and_the_next_attempt_resumes(
    site: FaultySite, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        absent("the right to mount a small disk", "run as root, where mount works")
    try:
        report = run(order_for(site, tmp_path, destination=f"directory:{small}"))
        assert (report.reason, report.message) == (
            Reason.DESTINATION_QUOTA,
            "at the destination: No space left on device",
        )
        assert 1 <= report.items_delivered < 4
        subprocess.run(["mount", "-o", "remount,size=10m", str(small)], check=True)
        again = run(order_for(site, tmp_path, destination=f"directory:{small}", attempt=2))
        assert again.reason is None and again.items_skipped == report.items_delivered
    finally:
        subprocess.run(["umount", str(small)], check=True)


def partial_size(tmp_path: Path, lecture: Lecture) -> int:
    """Return the bytes of this lecture in scratch.

    Other lectures may be there too. Their partial files may disappear during the search.
    """
    for path in (tmp_path / "scratch").rglob("media-*.mp4.part"):
        with contextlib.suppress(FileNotFoundError):
            found = path.read_bytes()
            if found and lecture.content.startswith(found[:1000]):
                return len(found)
    return 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_worker_is_killed_only_the_missing_bytes_move(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The site holds lecture 2 at its half, and the worker ends there.

    The test counts all bytes that the site sent.
    """
    with FaultySite([Lecture(f"Lecture {n}", lecture(2_000_000, n)) for n in range(1, 4)]) as site:
        gate = threading.Event()
        site.faults["/2.mp4"] = Fault(hold=gate, times=2)
        process = start_worker(site, tmp_path)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            first = [
                path
                for path in (tmp_path / "out").rglob("manifest.json")
                if "01 - Lecture 1" in path.read_text()
            ]
            if first and partial_size(tmp_path, site.lectures[1]) >= 100_000:
                break
            time.sleep(0.02)
        else:
            process.kill()
        process.send_signal(number)
        if number is signal.SIGTERM:
            gate.set()
        process.wait()
        gate.set()
        if number is signal.SIGTERM:
            assert Report.decode((tmp_path / "report.json").read_text()).reason is Reason.STOPPED
        report = run(order_for(site, tmp_path, attempt=2))
        assert report.reason is None
        assert sorted(delivered(tmp_path).values()) == sorted(
            lecture.content for lecture in site.lectures
        )
        resumed = [sent for sent in site.sent if sent.path == "/2.mp4" and sent.range]
        assert resumed, f"the partial file was not resumed: {site.sent}, {report}"
        start = int(str(resumed[0].range).removeprefix("bytes=").rstrip("-"))
        assert start >= 100_000 and resumed[0].bytes == len(site.lectures[1].content) - start, (
            "more than the missing bytes moved"
        )
        assert report.bytes_delivered < site.size, "the first lecture moved again"


STUBBORN = "trap '' TERM; echo $$ > {output_dir}/pid; while :; do sleep 0.1; done"


def test_a_command_that_ignores_sigterm_is_killed_before_its_worker_ends(
    site: FaultySite, tmp_path: Path
) -> None:
    stop = threading.Event()
    command = ("sh", "-c", STUBBORN, "{course_url}")
    order = order_for(
        site, tmp_path, downloader="command", download_command=command, stop_grace=2.0
    )
    pid = tmp_path / "scratch" / "output" / "pid"

    def ask_to_stop() -> None:
        while not (pid.exists() and pid.read_text().strip()):
            time.sleep(0.02)
        stop.set()

    threading.Thread(target=ask_to_stop).start()
    report = work(order, stop=stop)
    assert report.reason is Reason.STOPPED
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_report_in_a_file_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = Report(Reason.SITE_ERROR, "HTTP 503")
    write_report(path, report)
    assert Report.decode(path.read_text()) == report


def test_a_report_on_a_mounted_file_is_written_in_place(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "termination-log"
    source.touch()
    target.touch()
    done = subprocess.run(
        ["mount", "--bind", str(source), str(target)], capture_output=True, check=False
    )
    if done.returncode != 0:
        absent("the right to mount", "run as root, where mount works")
    try:
        write_report(target, Report(Reason.SITE_ERROR, "HTTP 503"))
        assert Report.decode(source.read_text()).reason is Reason.SITE_ERROR
    finally:
        subprocess.run(["umount", str(target)], check=True)


def test_a_bug_in_the_worker_ends_in_a_report(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug with ada@example.com in it")

    monkeypatch.setattr(sys.modules["enrollgate.worker.work"], "build_destination", broken)
    report = run(order_for(site, tmp_path))
    assert report.reason is Reason.WORKER_CRASHED
    assert report.message == "ZeroDivisionError: a bug with <e-mail> in it"


@pytest.mark.parametrize(
    "error", [Failure(Reason.NETWORK_ERROR, "gone"), OSError(5, "I/O"), ZeroDivisionError("x")]
)
def test_an_error_while_closing_does_not_replace_the_result(
    site: FaultySite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    close = YtDlp.close

    def broken(self: YtDlp) -> None:
        close(self)
        raise error

    monkeypatch.setattr(YtDlp, "close", broken)
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered) == (None, 4)
    assert f"closing the downloader: {type(error).__name__}" in capsys.readouterr().err
    site.faults["/feed"] = Fault(status=404)
    assert run(order_for(site, tmp_path)).reason is Reason.COURSE_NOT_FOUND


def test_an_html_page_with_several_videos_is_a_course(site: FaultySite, tmp_path: Path) -> None:
    videos = "".join(f'<video src="{site.url}/{n}.mp4" title="V{n}"></video>' for n in (1, 2, 3))
    site.pages["/page"] = ("text/html", f"<html><title>Page</title>{videos}</html>".encode())
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/page"))
    assert report.reason is None and report.items_delivered == 3, report
    assert sorted(delivered(tmp_path).values()) == sorted(
        lecture.content for lecture in site.lectures[:3]
    )


def test_a_page_without_a_video_is_an_unsupported_course(site: FaultySite, tmp_path: Path) -> None:
    site.pages["/page"] = ("text/html", b"<html><title>Nothing</title></html>")
    assert (
        run(order_for(site, tmp_path, course_url=f"{site.url}/page")).reason
        is Reason.UNSUPPORTED_COURSE
    )


def test_a_missing_hls_segment_never_yields_a_shorter_video(
    site: FaultySite, tmp_path: Path, no_ffmpeg: None
) -> None:
    playlist = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n" + "".join(
        f"#EXTINF:0.4,\n{site.url}/{n}.mp4\n" for n in (1, 2, 3)
    )
    site.lectures = [Lecture(f"{n}", ts_segment(50_000, n)) for n in (1, 2, 3)]
    site.pages["/course.m3u8"] = (
        "application/vnd.apple.mpegurl",
        (playlist + "#EXT-X-ENDLIST\n").encode(),
    )
    site.faults["/2.mp4"] = Fault(status=403)
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/course.m3u8"))
    assert report.reason is not None and report.items_delivered == 0
    site.faults.clear()
    whole = run(order_for(site, tmp_path, course_url=f"{site.url}/course.m3u8", attempt=2))
    assert whole.reason is None
    assert list(delivered(tmp_path).values()) == [
        b"".join(lecture.content for lecture in site.lectures[:3])
    ]


@pytest.mark.parametrize("page", ["free-course", "free-course/learn/v4/t/lecture/1"])
def test_udemy_extractor_never_opens_the_page_that_enrolls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    """The course is free and the account is not enrolled. By default yt-dlp would enroll it."""
    subscribe = "https://www.udemy.com/course/subscribe/?courseId=42"
    request_page = udemy.UdemyIE._download_webpage
    connected = list[object]()

    def download_webpage(self: object, url: str, *rest: object, **options: object) -> object:
        if url == subscribe:
            return request_page(self, url, *rest, **options)
        return f'<div data-course-id="42"></div><a href="{subscribe}">Enroll now</a>'

    def refuse(_self: object, url: str, *_: object, **_options: object) -> None:
        error = HTTPError(Response(io.BytesIO(), url, {}, 403))
        raise ExtractorError("refused", cause=error)

    monkeypatch.setattr(udemy.UdemyIE, "_download_webpage", download_webpage)
    monkeypatch.setattr(udemy.UdemyIE, "_download_json", refuse)
    monkeypatch.setattr("socket.getaddrinfo", lambda *address: connected.append(address))
    report = run(make_order(tmp_path, course_url=f"https://www.udemy.com/{page}"))
    assert report.reason is Reason.ACCESS_DENIED
    assert report.message == "the account is not enrolled in course 42"
    assert connected == []


def test_a_url_that_only_another_program_could_fetch_is_refused(
    site: FaultySite, tmp_path: Path
) -> None:
    with open_youtube_dl(
        {"quiet": True, "cachedir": False}, (site.host,), threading.Event()
    ) as ydl:
        info = {
            "url": "rtmp://x.example/a",
            "protocol": "rtmp",
            "ext": "mp4",
            "id": "1",
            "title": "x",
        }
        with pytest.raises(RequestRefused, match="only another program"):
            ydl.dl(str(tmp_path / "x"), info)
