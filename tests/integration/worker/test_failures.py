"""Failures in the middle of a course: what is kept, what is counted, and what they are called."""

import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.orders import order_for, run
from tests.small_disk import small_disk

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import LeftOutItem
from enrollgate.worker.bandwidth import Bandwidth
from enrollgate.worker.course import Course, Delivered, Fetched, Item, OnBytes, OnFetched
from enrollgate.worker.destinations.directory import Directory
from enrollgate.worker.pipeline import Pipeline, TransferLimits
from enrollgate.worker.progress import Progress


class ThreeFiles:
    """A downloader of three small files."""

    def open(self) -> Course:
        items = [Item(f"i{n}", n, f"L{n}", "", 0, "u") for n in (1, 2, 3)]
        return Course("c", iter(items), len(items))

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Fetched:
        path = folder / "f.mp4"
        path.write_bytes(lecture())
        return Fetched(path)

    def is_current(self, item: Item, delivered: Delivered) -> bool:
        return True

    def discard(self, item: Item) -> None: ...

    def close(self) -> None: ...


class BuggyDestination:
    """A destination with a bug that one item meets."""

    location = ("", "")

    def open(self, title: str) -> None: ...
    def finish(self, left_out: Sequence[LeftOutItem]) -> None: ...
    def find(self, item: Item) -> Delivered | None:
        return None

    def deliver(self, item: Item, fetched: Fetched, on_bytes: OnBytes) -> Delivered:
        if item.item_id == "i2":
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return Delivered(item.item_id, 100, "")


@pytest.mark.parametrize("threads", [1, 3])
def test_an_unforeseen_error_while_delivering_is_never_a_success(
    tmp_path: Path, threads: int
) -> None:
    downloader = ThreeFiles()
    free = Bandwidth(None, monotonic=time.monotonic, sleep=time.sleep)
    pipeline = Pipeline(
        downloader,
        BuggyDestination(),
        folder=tmp_path,
        scratch_limit=10**6,
        limits=TransferLimits(threads, threads, free, free),
        progress=Progress(path=None, clock=time.time),
        stop=threading.Event(),
    )
    with pytest.raises(UnicodeEncodeError):
        pipeline.run(downloader.open())


def test_a_progress_file_that_cannot_be_written_is_no_failure(
    site: FaultySite, tmp_path: Path
) -> None:
    report = run(order_for(site, tmp_path, progress_path=tmp_path / "none" / "p.json"))
    assert (report.reason, report.items_delivered) == (None, 4)


def test_a_full_disk_under_scratch_and_progress_is_named(site: FaultySite, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", kilobytes=60) as small:
        order = order_for(site, tmp_path, scratch_dir=small / "s", progress_path=small / "p.json")
        report = run(order)
    assert (report.reason, report.message) == (
        Reason.DISK_FULL,
        "no space is left for scratch files",
    ), report


def test_five_refused_lectures_in_a_row_do_not_end_the_run(tmp_path: Path) -> None:
    with FaultySite([Lecture(f"L{n}", lecture(5000, n)) for n in range(1, 9)]) as site:
        site.faults |= {f"/{n}.mp4": Fault(status=403) for n in range(1, 6)}
        report = run(order_for(site, tmp_path))
    assert (report.items_delivered, report.items_failed) == (3, 5), report


def test_downloaded_items_are_delivered_although_the_cookies_then_expire(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lecture 1 is delivered only after the 401 for lecture 4 was recorded."""
    deliver, item_failed = Directory.deliver, Progress.item_failed
    failed = threading.Event()

    def deliver_late(self: Directory, item: Item, fetched: Fetched, on_bytes: OnBytes) -> Delivered:
        assert failed.wait(20)
        return deliver(self, item, fetched, on_bytes)

    def record(self: Progress, item: Item, failure: Failure) -> None:
        item_failed(self, item, failure)
        failed.set()

    monkeypatch.setattr(Directory, "deliver", deliver_late)
    monkeypatch.setattr(Progress, "item_failed", record)
    site.faults["/4.mp4"] = Fault(status=401)
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.items_delivered) == (Reason.COOKIES_EXPIRED, 3), report


def test_an_error_in_the_middle_keeps_what_was_counted(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item_started, started = Progress.item_started, list[str]()

    def fail_at_the_third(self: Progress, item: Item) -> None:
        started.append(item.title)
        if len(started) == 3:
            raise OSError(errno.EIO, "progress")
        item_started(self, item)

    monkeypatch.setattr(Progress, "item_started", fail_at_the_third)
    report = run(order_for(site, tmp_path))
    assert report.reason is not None
    assert report.items_delivered == 2 and report.destination_id, report


def test_an_unreadable_destination_fails_instead_of_downloading_again(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    assert run(order_for(site, tmp_path)).reason is None
    monkeypatch.setattr("enrollgate.worker.destinations.directory.file_md5", unreadable)
    before = site.media_bytes
    report = run(order_for(site, tmp_path))
    assert report.reason is not None and site.media_bytes == before, report
