"""Several downloads and deliveries at once: overlap, order, failures, limits, and a worker that is killed again and again."""

import gc
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
from tests.faulty_site import Fault, FaultySite, Lecture, content
from tests.integration.worker.test_worker import delivered, manifest, order_for, run

from enrollgate.domain.reasons import Reason
from enrollgate.worker import work
from enrollgate.worker.destinations.directory import Directory
from enrollgate.worker.downloaders.yt_dlp import YtDlp

# yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_what_yt_dlp_left() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite([Lecture(f"Lecture {n}", content(100_000 + n, n)) for n in range(1, 7)]) as running:
        yield running


def test_a_slow_lecture_holds_nobody_up_and_the_order_stays_the_courses(site: FaultySite, tmp_path: Path) -> None:
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
    assert [name.rpartition("/")[2] for name in delivered(tmp_path)] == [f"0{n} - Lecture {n}.mp4" for n in range(1, 7)]
    assert [entry["index"] for entry in manifest(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_never_more_at_once_than_allowed(site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_failed_items_are_named_and_the_next_try_does_only_those(site: FaultySite, tmp_path: Path) -> None:
    site.faults |= {f"/{n}.mp4": Fault(status=503) for n in (2, 5)}
    first = run(order_for(site, tmp_path, downloads=3, uploads=3))
    assert first.reason is Reason.SITE_ERROR and first.items_delivered == 4, first
    assert [item.item for item in first.failed_items] == ["Lecture 2", "Lecture 5"]
    assert {item.reason for item in first.failed_items} == {Reason.SITE_ERROR}
    site.faults.clear()
    site.sent.clear()
    second = run(order_for(site, tmp_path, downloads=3, uploads=3, try_number=2))
    assert (second.reason, second.items_delivered, second.items_skipped) == (None, 2, 4)
    assert {sent.path for sent in site.sent} == {"/feed", "/2.mp4", "/5.mp4"}


class CountingStop(threading.Event):
    """Waits no time, and counts what it was asked to wait."""

    waited = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited += timeout or 0
        return self.is_set()


@pytest.mark.parametrize("direction", ["download_rate", "upload_rate"])
def test_a_bandwidth_holds_for_all_items_together(site: FaultySite, tmp_path: Path, direction: str) -> None:
    site.lectures = [Lecture(f"Lecture {n}", content(3_000_000, n)) for n in range(1, 5)]
    stop = CountingStop()
    report = work(order_for(site, tmp_path, scratch_limit=10**9, **{direction: 1_000_000}), stop=stop)
    assert report.reason is None, report
    # The first piece of each item is where counting begins: 1 MiB of a directory's, 64 KiB of a download.
    assert stop.waited >= 12 - 4 * 1.1


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
        report = run(order_for(site, tmp_path, scratch_limit=limit, downloads=2, try_number=2))
    assert report.reason is None and max(peak) <= limit


KILLS = 20
COURSE = [Lecture(f"L{n}", content(12_000_000, n), "Part" if n % 2 else "") for n in range(1, 11)]


def start(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "enrollgate", "work"], env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("destination", ["directory", "drive"])
def test_killed_at_twenty_random_points_it_moves_little_more_than_the_course(tmp_path: Path, destination: str) -> None:
    """Each worker dies once a random number of bytes has left the site or reached Drive."""
    random = Random(20)
    with FaultySite(COURSE) as site, DriveEmulator() as drive:
        (tmp_path / "login.json").write_text(json.dumps(drive.user_login()))
        place = f"drive:{drive.store.root}" if destination == "drive" else f"directory:{tmp_path / 'out'}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")}
        environment = kept | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "ENROLLGATE_TASK_ID": "7",
            "ENROLLGATE_COURSE_URL": f"{site.url}/feed",
            "ENROLLGATE_ALLOWED_HOSTS": site.host,
            "ENROLLGATE_SCRATCH_DIR": str(tmp_path / "scratch"),
            "ENROLLGATE_REPORT_PATH": str(tmp_path / "report.json"),
            "ENROLLGATE_DESTINATION": place,
            "ENROLLGATE_DRIVE_ENDPOINT": drive.url,
            "ENROLLGATE_DRIVE_CREDENTIALS": str(tmp_path / "login.json"),
            "ENROLLGATE_DRIVE_CHUNK_SIZE": "256KiB",
        }
        killer = Killer()
        site.on_bytes, drive.on_bytes = killer.count, killer.count
        site.rate = drive.rate = 40_000_000  # the wire is what limits, as it is in life: nothing lies in buffers
        codes = []
        while len(codes) < KILLS + 3 and (not codes or codes[-1] != 0):
            killer.arm(random.randrange(500_000, 9_000_000) if len(codes) < KILLS else None)
            codes.append(killer.watch(start(environment)))
        size = sum(len(lecture.content) for lecture in COURSE)
        assert codes.count(-9) >= KILLS * 3 // 4 and codes[-1] == 0, codes
        assert site.media_bytes <= 1.15 * size, f"{site.media_bytes / size:.3f} of the course left the site"
        wanted = sorted(hashlib.md5(lecture.content).hexdigest() for lecture in COURSE)
        if destination == "drive":
            assert drive.received <= 1.15 * size, f"{drive.received / size:.3f} of the course reached Drive"
            assert sorted(str(file["md5Checksum"]) for file in drive.store.media()) == wanted
        else:
            assert sorted(hashlib.md5(each).hexdigest() for each in delivered(tmp_path).values()) == wanted


class Killer:
    """Kills a process once so many bytes have been counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: int | None = None
        self._now = threading.Event()

    def arm(self, size: int | None) -> None:
        with self._lock:
            self._left = size
            self._now.clear()

    def count(self, size: int) -> None:
        with self._lock:
            if self._left is not None:
                self._left -= size
                if self._left <= 0:
                    self._left = None
                    self._now.set()

    def watch(self, process: subprocess.Popen[bytes]) -> int:
        while process.poll() is None:
            if self._now.wait(0.01):
                process.kill()
                break
        return process.wait()
