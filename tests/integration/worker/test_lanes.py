"""PlaylistFound downloads and deliveries at once: overlap, order, failures, limits, and a worker that is killed again and again."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.drive_emulator import DriveEmulator
from tests.drive_emulator.store import FOLDER
from tests.faulty_site import Fault, FaultySite, Lecture, content
from tests.orders import delivered, manifest, order_for, run

from enrollgate.domain.reasons import Reason
from enrollgate.worker import work
from enrollgate.worker.destinations.directory import Directory
from enrollgate.worker.downloaders.yt_dlp import YtDlp

# yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite(
        [Lecture(f"Lecture {n}", content(100_000 + n, n)) for n in range(1, 7)]
    ) as running:
        yield running


def test_a_slow_lecture_holds_nobody_up_and_the_order_stays_the_courses(
    site: FaultySite, tmp_path: Path
) -> None:
    """Lecture 1 is held back until all others are delivered: it could not end with one download at a time."""
    gate = threading.Event()
    site.faults["/1.mp4"] = Fault(hold=gate)
    order = order_for(site, tmp_path, downloads=2)

    def open_when_the_others_are_there() -> None:
        while len(list((tmp_path / "out").rglob("0[2-6]*.mp4"))) < 5 and not gate.wait(0.02):
            pass
        gate.set()

    watcher = threading.Thread(target=open_when_the_others_are_there)
    watcher.start()
    report = run(order)
    watcher.join()
    assert report.reason is None and report.items_delivered == 6, report
    assert [name.rpartition("/")[2] for name in delivered(tmp_path)] == [
        f"0{n} - Lecture {n}.mp4" for n in range(1, 7)
    ]
    assert [entry["index"] for entry in manifest(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_never_more_at_once_than_allowed(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.rate = 2_000_000
    fetches, deliveries = AtOnce(YtDlp.fetch), AtOnce(Directory.deliver)
    monkeypatch.setattr(YtDlp, "fetch", fetches.method())
    monkeypatch.setattr(Directory, "deliver", deliveries.method())
    report = run(order_for(site, tmp_path, downloads=3, uploads=1))
    assert report.reason is None
    assert fetches.most in (2, 3) and deliveries.most == 1


class AtOnce:
    """A method, that knows how many of its calls were under way at the same time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def method(self) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            try:
                return self._function(*arguments)
            finally:
                with self._lock:
                    self._now -= 1

        return counted


def test_the_failed_items_are_named_and_the_next_try_does_only_those(
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
    assert {sent.path for sent in site.sent} == {"/feed", "/2.mp4", "/5.mp4"}


class NoWaitEvent(threading.Event):
    """Waits no time. As the debt of a bandwidth is never paid, the longest wait is what all together should have waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.longest = max(self.longest, timeout or 0)
        return self.is_set()


SLOW = 1024
"""Bytes per second: what the transfers really take is nothing beside it."""


def on_drive(drive: DriveEmulator, tmp_path: Path) -> dict[str, object]:
    (tmp_path / "login.json").write_text(json.dumps(drive.user_login()))
    return {
        "destination": f"drive:{drive.store.root}",
        "drive_endpoint": drive.url,
        "drive_credentials": tmp_path / "login.json",
    }


@pytest.mark.parametrize("direction", ["download_rate", "upload_rate"])
@pytest.mark.parametrize("destination", ["directory", "drive"])
def test_a_bandwidth_holds_for_all_items_together(
    site: FaultySite, tmp_path: Path, direction: str, destination: str
) -> None:
    """Files below a chunk of Drive's and above."""
    site.lectures = [
        Lecture(f"Lecture {n}", content(size, n))
        for n, size in enumerate((3_000_000, 9_000_000), 1)
    ]
    stop = NoWaitEvent()
    with DriveEmulator() as drive:
        place = on_drive(drive, tmp_path) if destination == "drive" else {}
        report = work(
            order_for(site, tmp_path, scratch_limit=10**9, **{direction: SLOW}, **place), stop=stop
        )
    assert report.reason is None, report
    assert 0.995 * site.size / SLOW <= stop.longest <= site.size / SLOW


@pytest.mark.parametrize("direction", ["download_rate", "upload_rate"])
def test_what_an_earlier_try_has_moved_is_not_waited_for_again(
    tmp_path: Path, direction: str
) -> None:
    with FaultySite([Lecture("L", content(12_000_000))]) as site, DriveEmulator() as drive:
        place = on_drive(drive, tmp_path)
        first, site.rate = NoWaitEvent(), WIRE
        if direction == "upload_rate":
            drive.on_chunk = first.set
        else:
            site.on_bytes = lambda _size: (
                first.set() if sum(part_sizes(tmp_path)) > 2_000_000 else None
            )
        assert (
            work(order_for(site, tmp_path, scratch_limit=10**9, **place), stop=first).reason
            is Reason.STOPPED
        )
        drive.on_chunk, site.on_bytes = lambda: None, lambda _size: None
        already = sum(part_sizes(tmp_path)) or next(iter(drive.store.uploads.values())).got
        assert already >= 2_000_000
        second = NoWaitEvent()  # the site may still be telling the first
        report = work(
            order_for(site, tmp_path, scratch_limit=10**9, **{direction: SLOW}, **place),
            stop=second,
        )
        assert report.reason is None
        assert 0.98 * (site.size - already) / SLOW <= second.longest <= (site.size - already) / SLOW


def part_sizes(tmp_path: Path) -> list[int]:
    return [path.stat().st_size for path in (tmp_path / "scratch").rglob("*.part")]


def test_what_an_earlier_try_left_in_scratch_counts(tmp_path: Path) -> None:
    limit = 1_000_000
    with FaultySite([Lecture(f"L{n}", content(600_000, n)) for n in range(1, 5)]) as site:
        site.faults |= {f"/{n}.mp4": Fault(reset_after=400_000) for n in (1, 2)}
        run(order_for(site, tmp_path, scratch_limit=limit, downloads=2))
        site.faults.clear()
        peak = [0]
        site.on_bytes = lambda _size: peak.append(
            sum(path.stat().st_size for path in (tmp_path / "scratch").rglob("*.part"))
        )
        report = run(order_for(site, tmp_path, scratch_limit=limit, downloads=2, attempt=2))
    assert report.reason is None and max(peak) <= limit


KILLS = 20
COURSE = [Lecture(f"L{n}", content(16_000_000, n), "Part" if n % 2 else "") for n in range(1, 13)]
SIZE = sum(len(lecture.content) for lecture in COURSE)
MOST = 1.15 * SIZE


def start(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "enrollgate", "work"], env=environment, stderr=subprocess.DEVNULL
    )


def environment_of(site: FaultySite, tmp_path: Path, place: str) -> dict[str, str]:
    """A worker's environment, its settings the default ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")}
    return kept | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "ENROLLGATE_TASK_ID": "7",
        "ENROLLGATE_COURSE_URL": f"{site.url}/feed",
        "ENROLLGATE_ALLOWED_HOSTS": site.host,
        "ENROLLGATE_SCRATCH_DIR": str(tmp_path / "scratch"),
        "ENROLLGATE_REPORT_PATH": str(tmp_path / "report.json"),
        "ENROLLGATE_DESTINATION": place,
    }


WIRE = 8_000_000
"""Bytes per second: the wire is what limits, as it is in life, and nothing lies in buffers."""


def test_killed_at_twenty_random_points_it_moves_little_more_than_the_course(
    tmp_path: Path,
) -> None:
    """Each worker dies once a random number of bytes has left the site."""
    with FaultySite(COURSE) as site:
        killer = Killer()
        site.on_bytes, site.rate = killer.count, WIRE
        environment = environment_of(site, tmp_path, f"directory:{tmp_path / 'out'}")
        random = Random(20)
        codes = [
            killer.kill_after(random.randrange(500_000, 9_000_000), start(environment))
            for _ in range(KILLS)
        ]
        assert codes == [-9] * KILLS
        assert start(environment).wait(120) == 0
        assert site.media_bytes <= MOST, (
            f"{site.media_bytes / SIZE:.3f} of the course left the site"
        )
        wanted = sorted(hashlib.md5(lecture.content).hexdigest() for lecture in COURSE)
        assert (
            sorted(hashlib.md5(each).hexdigest() for each in delivered(tmp_path).values()) == wanted
        )


def test_killed_at_twenty_points_it_sends_drive_little_more_than_the_course(tmp_path: Path) -> None:
    """As above, bytes at either side; three die before a file's last answer is sent, three just after: Drive has the file, and the
    worker has not noted it."""
    with FaultySite(COURSE) as site, DriveEmulator(rate=WIRE) as drive:
        (tmp_path / "login.json").write_text(json.dumps(drive.user_login()))
        environment = environment_of(site, tmp_path, f"drive:{drive.store.root}") | {
            "ENROLLGATE_DRIVE_ENDPOINT": drive.url,
            "ENROLLGATE_DRIVE_CREDENTIALS": str(tmp_path / "login.json"),
        }
        killer = Killer()
        site.on_bytes, drive.on_bytes, site.rate = killer.count, killer.count, WIRE
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
        assert site.media_bytes <= MOST, (
            f"{site.media_bytes / SIZE:.3f} of the course left the site"
        )
        assert drive.received <= MOST, f"{drive.received / SIZE:.3f} of the course reached Drive"
        files = drive.store.media()
        assert {str(file["name"]): file["md5Checksum"] for file in files} == {
            f"{number:02d} - {lecture.title}.mp4": hashlib.md5(lecture.content).hexdigest()
            for number, lecture in enumerate(COURSE, 1)
        }
        assert len(files) == len(COURSE), "each file is there once"
        assert sum(file["mimeType"] == FOLDER for file in drive.store.files.values()) == 2, (
            "the given one and the course's"
        )


class Killer:
    """Kills a process at a given point."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: int | None = None
        self._now = threading.Event()

    def count(self, size: int) -> None:
        with self._lock:
            if self._left is not None:
                self._left -= size
                if self._left <= 0:
                    self._left = None
                    self._now.set()

    def kill_after(self, size: int, process: subprocess.Popen[bytes]) -> int:
        """Once so many bytes have been counted."""
        self._now.clear()
        with self._lock:
            self._left = size
        while process.poll() is None:
            if self._now.wait(0.01):
                process.kill()
                break
        return process.wait()

    def kill_at(self, drive: DriveEmulator, point: str, process: subprocess.Popen[bytes]) -> int:
        """The next time that the emulator comes there."""
        setattr(drive, point, process.kill)
        code = process.wait()
        setattr(drive, point, lambda: None)
        return code
