"""Concurrent downloads and deliveries: overlap, order, failures and limits.

Two tests kill the worker many times and count the bytes that both sides then move again.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.disk_peak import DiskPeak
from tests.drive_emulator import DriveEmulator
from tests.drive_emulator.store import FOLDER
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.orders import delivered, manifest, order_for, run
from tests.process_killer import ProcessKiller
from tests.rate_limiter import NoWaitEvent

from enrollgate.domain.reasons import Reason
from enrollgate.worker.destinations.directory import Directory
from enrollgate.worker.downloaders.yt_dlp import YtDlp
from enrollgate.worker.work import work

# yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite(
        [Lecture(f"Lecture {n}", lecture(100_000 + n, n)) for n in range(1, 7)]
    ) as running:
        yield running


def test_a_slow_lecture_delays_no_other_and_the_order_stays(
    site: FaultySite, tmp_path: Path
) -> None:
    """The site holds lecture 1 until all others are delivered.

    With one download at a time this would never end.
    """
    gate = threading.Event()
    site.faults["/1.mp4"] = Fault(hold=gate)
    order = order_for(site, tmp_path, downloads=2)

    def release_when_the_others_are_delivered() -> None:
        while len(list((tmp_path / "out").rglob("0[2-6]*.mp4"))) < 5 and not gate.wait(0.02):
            pass
        gate.set()

    watcher = threading.Thread(target=release_when_the_others_are_delivered)
    watcher.start()
    report = run(order)
    watcher.join()
    assert report.reason is None and report.items_delivered == 6, report
    assert [name.rpartition("/")[2] for name in delivered(tmp_path)] == [
        f"0{n} - Lecture {n}.mp4" for n in range(1, 7)
    ]
    assert [entry["index"] for entry in manifest(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_transfers_run_at_once_up_to_their_limits_and_no_more(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads, uploads = Concurrency(YtDlp.fetch, 3), Concurrency(Directory.deliver, 2)
    monkeypatch.setattr(YtDlp, "fetch", downloads.build_method())
    monkeypatch.setattr(Directory, "deliver", uploads.build_method())
    report = run(order_for(site, tmp_path, downloads=3, uploads=2))
    assert report.reason is None
    assert (downloads.most, uploads.most) == (3, 2)


class Concurrency:
    """Counts how many calls of a method run at once.

    The first calls wait until `expected` of them run. Then they wait a moment longer, so that one
    call too many would be counted.
    """

    def __init__(self, function: Callable[..., Any], expected: int) -> None:
        self._function = function
        self._expected = expected
        self._reached = threading.Event()
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0

    def build_method(self) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            with self._lock:
                self._running += 1
                self.most = max(self.most, self._running)
                hold = not self._reached.is_set()
                if self._running == self._expected:
                    self._reached.set()
            try:
                if hold:
                    assert self._reached.wait(30), "too few calls run at once"
                    time.sleep(0.3)
                return self._function(*arguments)
            finally:
                with self._lock:
                    self._running -= 1

        return counted


def test_the_next_attempt_retries_only_the_items_named_as_failed(
    site: FaultySite, tmp_path: Path
) -> None:
    site.faults |= {f"/{n}.mp4": Fault(status=503) for n in (2, 5)}
    first = run(order_for(site, tmp_path, downloads=3, uploads=3))
    assert first.reason is Reason.SITE_ERROR and first.items_delivered == 4, first
    assert [item.item for item in first.failed_items] == ["Lecture 2", "Lecture 5"]
    assert {item.reason for item in first.failed_items} == {Reason.SITE_ERROR}
    site.faults.clear()
    site.sent.clear()
    second = run(order_for(site, tmp_path, downloads=3, uploads=3, attempt=2))
    assert (second.reason, second.items_delivered, second.items_skipped) == (None, 2, 4)
    got = {sent.path for sent in site.sent if sent.method == "GET"}
    assert got == {"/feed", "/2.mp4", "/5.mp4"}


# Bytes per second, so few that the real duration of the transfers does not matter.
SLOW = 1024


def drive_settings(drive: DriveEmulator, tmp_path: Path) -> dict[str, object]:
    """Return the settings of an order that delivers to this Drive."""
    (tmp_path / "login.json").write_text(json.dumps(drive.user_login()))
    return {
        "destination": f"drive:{drive.store.root}",
        "drive_endpoint": drive.url,
        "drive_credentials": tmp_path / "login.json",
    }


@pytest.mark.parametrize("direction", ["download_rate", "upload_rate"])
@pytest.mark.parametrize("destination", ["directory", "drive"])
def test_a_rate_limit_applies_to_all_items_together(
    site: FaultySite, tmp_path: Path, direction: str, destination: str
) -> None:
    """One file is smaller than an upload chunk of Drive, one is larger."""
    site.lectures = [
        Lecture(f"Lecture {n}", lecture(size, n))
        for n, size in enumerate((3_000_000, 9_000_000), 1)
    ]
    stop = NoWaitEvent()
    with DriveEmulator() as drive:
        settings = drive_settings(drive, tmp_path) if destination == "drive" else {}
        report = work(
            order_for(site, tmp_path, scratch_limit=10**9, **{direction: SLOW}, **settings),
            stop=stop,
        )
    assert report.reason is None, report
    assert 0.995 * site.size / SLOW <= stop.longest <= site.size / SLOW


@pytest.mark.parametrize("direction", ["download_rate", "upload_rate"])
def test_bytes_that_an_earlier_attempt_moved_do_not_count_again(
    tmp_path: Path, direction: str
) -> None:
    with FaultySite([Lecture("L", lecture(12_000_000))]) as site, DriveEmulator() as drive:
        settings = drive_settings(drive, tmp_path)
        first, site.rate = NoWaitEvent(), LINK_RATE
        if direction == "upload_rate":
            drive.on_chunk = first.set
        else:
            site.on_bytes = lambda _size: (
                first.set() if sum(partial_sizes(tmp_path)) > 2_000_000 else None
            )
        assert (
            work(order_for(site, tmp_path, scratch_limit=10**9, **settings), stop=first).reason
            is Reason.STOPPED
        )
        drive.on_chunk, site.on_bytes = lambda: None, lambda _size: None
        already = sum(partial_sizes(tmp_path)) or next(iter(drive.store.uploads.values())).received
        assert already >= 2_000_000
        second = NoWaitEvent()  # the site may still set the first
        report = work(
            order_for(site, tmp_path, scratch_limit=10**9, **{direction: SLOW}, **settings),
            stop=second,
        )
        assert report.reason is None
        assert 0.98 * (site.size - already) / SLOW <= second.longest <= (site.size - already) / SLOW


def partial_sizes(tmp_path: Path) -> list[int]:
    """Return the size in bytes of each partial file."""
    return [path.stat().st_size for path in (tmp_path / "scratch").rglob("*.part")]


def test_partial_files_of_an_earlier_attempt_count_in_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lecture has 600 kB. Two partial files leave too little room for a third lecture.

    A reset loses no byte that was sent before it, so each of three requests adds at least 128 KiB.
    """
    limit = 1_000_000
    with FaultySite([Lecture(f"L{n}", lecture(600_000, n)) for n in range(1, 5)]) as site:
        site.faults |= {f"/{n}.mp4": Fault(reset_after=150_000) for n in (1, 2)}
        site.faults |= {f"/{n}.mp4": Fault(status=503) for n in (3, 4)}
        run(order_for(site, tmp_path, scratch_limit=limit, downloads=2))
        left = sum(partial_sizes(tmp_path))
        assert left > 600_000, "the partial files leave room for another lecture"
        site.faults.clear()
        peak = DiskPeak(tmp_path / "scratch" / "items", monkeypatch)
        report = run(order_for(site, tmp_path, scratch_limit=limit, downloads=2, attempt=2))
    assert report.reason is None and left <= peak.most <= limit


KILLS = 20
COURSE = [Lecture(f"L{n}", lecture(16_000_000, n), "Part" if n % 2 else "") for n in range(1, 13)]
SIZE = sum(len(lecture.content) for lecture in COURSE)
MAX_MOVED = 1.15 * SIZE


def start(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "enrollgate", "work"], env=environment, stderr=subprocess.DEVNULL
    )


def build_environment(site: FaultySite, tmp_path: Path, destination: str) -> dict[str, str]:
    """Return the environment of a worker with default settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")}
    return kept | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "ENROLLGATE_TASK_ID": "7",
        "ENROLLGATE_COURSE_URL": f"{site.url}/feed",
        "ENROLLGATE_ALLOWED_HOSTS": site.host,
        "ENROLLGATE_SCRATCH_DIR": str(tmp_path / "scratch"),
        "ENROLLGATE_REPORT_PATH": str(tmp_path / "report.json"),
        "ENROLLGATE_DESTINATION": destination,
        "ENROLLGATE_COURSE_INDEX": "false",
    }


# Bytes per second. As in production the link is the slowest part, so buffers hold few bytes.
LINK_RATE = 8_000_000


def test_a_worker_killed_twenty_times_downloads_little_twice(tmp_path: Path) -> None:
    """Each worker is killed after the site has sent a random number of bytes."""
    with FaultySite(COURSE) as site:
        killer = ProcessKiller()
        site.on_bytes, site.rate = killer.count, LINK_RATE
        environment = build_environment(site, tmp_path, f"directory:{tmp_path / 'out'}")
        random = Random(20)
        codes = [
            killer.kill_after(random.randrange(500_000, 9_000_000), start(environment))
            for _ in range(KILLS)
        ]
        assert codes == [-9] * KILLS
        assert start(environment).wait(120) == 0
        assert site.media_bytes <= MAX_MOVED, (
            f"{site.media_bytes / SIZE:.3f} of the course was downloaded"
        )
        wanted = sorted(hashlib.md5(lecture.content).hexdigest() for lecture in COURSE)
        assert (
            sorted(hashlib.md5(each).hexdigest() for each in delivered(tmp_path).values()) == wanted
        )


def test_a_worker_killed_twenty_times_uploads_little_twice(tmp_path: Path) -> None:
    """The bytes are counted on both sides.

    Three workers are killed before the last response for a file, and three just after it. Then
    Drive has the file, but the worker has not recorded it.
    """
    with FaultySite(COURSE) as site, DriveEmulator(rate=LINK_RATE) as drive:
        (tmp_path / "login.json").write_text(json.dumps(drive.user_login()))
        environment = build_environment(site, tmp_path, f"drive:{drive.store.root}") | {
            "ENROLLGATE_DRIVE_ENDPOINT": drive.url,
            "ENROLLGATE_DRIVE_CREDENTIALS": str(tmp_path / "login.json"),
        }
        killer = ProcessKiller()
        site.on_bytes, drive.on_bytes, site.rate = killer.count, killer.count, LINK_RATE
        random = Random(21)
        codes = []
        for number in range(KILLS):
            worker = start(environment)
            if number % 7 == 2:
                codes.append(killer.kill_at(drive, "before_final_response", worker))
            elif number % 7 == 5:
                codes.append(killer.kill_at(drive, "after_final_response", worker))
            else:
                codes.append(killer.kill_after(random.randrange(500_000, 9_000_000), worker))
        assert codes == [-9] * KILLS
        assert start(environment).wait(120) == 0
        assert site.media_bytes <= MAX_MOVED, (
            f"{site.media_bytes / SIZE:.3f} of the course was downloaded"
        )
        assert drive.received <= MAX_MOVED, (
            f"{drive.received / SIZE:.3f} of the course was uploaded"
        )
        files = drive.store.media()
        assert {str(file["name"]): file["md5Checksum"] for file in files} == {
            f"{number:02d} - {lecture.title}.mp4": hashlib.md5(lecture.content).hexdigest()
            for number, lecture in enumerate(COURSE, 1)
        }
        assert len(files) == len(COURSE), "each file is there once"
        assert sum(file["mimeType"] == FOLDER for file in drive.store.files.values()) == 2, (
            "the destination folder and the course folder"
        )
