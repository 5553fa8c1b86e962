"""The bytes on disk in scratch while a worker runs, and when failed deliveries end a run."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.disk_peak import DiskPeak
from tests.faulty_site import Fault, FaultySite
from tests.media import lecture, ts_segment
from tests.orders import delivered, order_for, run
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import LeftOutItem
from enrollgate.worker.bandwidth import Bandwidth
from enrollgate.worker.course import Course, Delivered, Fetched, Item, OnBytes, OnFetched
from enrollgate.worker.pipeline import DELIVERIES_IN_A_ROW, Pipeline, TransferLimits
from enrollgate.worker.progress import Progress
from enrollgate.worker.run_stats import RunStats

# yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SEGMENT = 5_320 * 188  # bytes: whole packets, about 1 MB


def streams(site: FaultySite, names: str, segment: int, segments: int) -> str:
    """Serve a page of HLS streams and return its URL.

    `names` has one letter per stream. A stream has `segments` segments of `segment` bytes.
    """
    for name in names:
        for number in range(segments):
            site.pages[f"/{name}{number}.ts"] = (
                "video/mp2t",
                ts_segment(segment, number),
            )
        lines = "".join(f"#EXTINF:0.4,\n{name}{number}.ts\n" for number in range(segments))
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{lines}#EXT-X-ENDLIST\n"
        site.pages[f"/{name}.m3u8"] = ("application/vnd.apple.mpegurl", playlist.encode())
    videos = "".join(f'<video src="/{name}.m3u8"></video>' for name in names)
    site.pages["/page"] = ("text/html", f"<title>Streams</title>{videos}".encode())
    return f"{site.url}/page"


@pytest.mark.parametrize("downloads", [1, 3])
def test_hls_segments_that_lie_twice_on_disk_never_exceed_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, downloads: int
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no ffmpeg: the segments are no real video
    monkeypatch.setattr(FFmpegPostProcessor, "_version_cache", {})
    limit = 5_500_000
    with FaultySite([]) as site:
        page = streams(site, "abcd", SEGMENT, 4)
        site.rate = 30_000_000
        peak = DiskPeak(tmp_path / "scratch", monkeypatch)
        report = run(
            order_for(site, tmp_path, course_url=page, scratch_limit=limit, downloads=downloads)
        )
    assert report.reason is None and report.items_delivered == 4, report
    assert {len(file) for file in delivered(tmp_path).values()} == {4 * SEGMENT}
    # Just before a stream of 4 MB is complete, its last segment of 1 MB is on disk twice.
    assert 5 * SEGMENT <= peak.most <= limit, f"{peak.most:,} bytes in a scratch of {limit:,}"


def test_a_partial_file_of_another_rendition_is_removed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1_500_000
    with FaultySite([]) as site:
        site.pages |= {
            f"/{name}.mp4": ("video/mp4", lecture(1_000_000, n))
            for n, name in enumerate(("hd", "sd"))
        }

        def page(name: str) -> tuple[str, bytes]:
            item = f'<guid>1</guid><enclosure url="{site.url}/{name}.mp4" type="video/mp4"/>'
            feed = (
                f'<rss version="2.0"><channel><title>P</title><item>{item}</item></channel></rss>'
            )
            return "application/rss+xml", f'<?xml version="1.0"?>{feed}'.encode()

        site.pages["/page"] = page("hd")
        site.faults["/hd.mp4"] = Fault(reset_after=300_000)
        order = order_for(site, tmp_path, course_url=f"{site.url}/page", scratch_limit=limit)
        assert run(order).reason is not None
        (partial,) = (tmp_path / "scratch").rglob("*.part")
        assert partial.stat().st_size > 500_000
        site.pages["/page"] = page("sd")
        site.rate = 20_000_000
        peak = DiskPeak(tmp_path / "scratch", monkeypatch)
        assert run(order).reason is None
    assert 1_000_000 <= peak.most <= 1_100_000 <= limit and not partial.exists()


class StubDownloader:
    """A downloader of lectures of 600 kB, written in blocks of 10 kB."""

    def __init__(self, count: int) -> None:
        self.items = [Item(f"i{n}", n, f"L{n}", "", 0, "u") for n in range(1, count + 1)]
        self.started = 0

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Fetched:
        self.started += 1
        path = folder / "f.mp4"
        whole = lecture(600_000)
        with path.open("wb") as stream:
            for number in range(1, 61):
                stream.write(whole[(number - 1) * 10_000 : number * 10_000])
                on_bytes(number * 10_000, 600_000)
        return Fetched(path)

    def discard(self, item: Item) -> None: ...

    def open(self) -> Course:
        return Course("c", iter(self.items), len(self.items))

    def is_current(self, item: Item, delivered: Delivered) -> bool:
        return True

    def close(self) -> None: ...


class StubDestination:
    """A destination that calls `on_delivery`, which may raise, for each delivery."""

    location = ("", "")

    def __init__(self, on_delivery: Callable[[Item], None]) -> None:
        self.on_delivery = on_delivery

    def open(self, title: str) -> None: ...

    def finish(self, left_out: Sequence[LeftOutItem]) -> None: ...

    def find(self, item: Item) -> Delivered | None:
        return None

    def deliver(self, item: Item, fetched: Fetched, on_bytes: OnBytes) -> Delivered:
        self.on_delivery(item)
        return Delivered(item.item_id, 1, "")


def build_pipeline(
    downloader: StubDownloader,
    destination: StubDestination,
    folder: Path,
    limit: int = 1_000_000,
    transfers: int = 2,
) -> Pipeline:
    free = Bandwidth(None, monotonic=time.monotonic, sleep=time.sleep)
    return Pipeline(
        downloader,
        destination,
        folder=folder,
        scratch_limit=limit,
        limits=TransferLimits(transfers, transfers, free, free),
        progress=Progress(path=None, clock=time.time),
        stop=threading.Event(),
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "error",
    [
        UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates"),
        Failure(Reason.DESTINATION_QUOTA, "full"),
    ],
)
def test_no_download_waits_for_room_once_deliveries_have_crashed(
    tmp_path: Path, error: Exception
) -> None:
    """The second lecture has no room until the first one is delivered, which never happens."""
    waiting = threading.Event()

    def fail_once_a_download_waits(_item: Item) -> None:
        assert waiting.wait(30)
        raise error

    downloader = StubDownloader(4)
    destination = StubDestination(fail_once_a_download_waits)
    pipeline = build_pipeline(downloader, destination, tmp_path)
    wait = pipeline._scratch._changed.wait

    def report_and_wait(timeout: float | None = None) -> bool:
        waiting.set()
        return wait(timeout)

    pipeline._scratch._changed.wait = report_and_wait  # type: ignore[method-assign]  # the hook
    if isinstance(error, Failure):
        stats = pipeline.run(downloader.open())
        assert stats.fatal is error and stats.delivered == 0
    else:
        with pytest.raises(UnicodeEncodeError):
            pipeline.run(downloader.open())
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.mp4")) <= 1_000_000


def deliveries(
    tmp_path: Path, failures: list[Failure | None], count: int = 20
) -> tuple[RunStats, StubDownloader, int]:
    """Run a course whose deliveries fail in turn as `failures` says. The last entry repeats.

    Return the statistics, the downloader and the number of deliveries.
    """
    attempts = 0
    lock = threading.Lock()

    def fail_in_turn(_item: Item) -> None:
        nonlocal attempts
        with lock:
            failure = failures[min(attempts, len(failures) - 1)]
            attempts += 1
        if failure is not None:
            raise failure

    downloader = StubDownloader(count)
    pipeline = build_pipeline(downloader, StubDestination(fail_in_turn), tmp_path, transfers=1)
    return pipeline.run(downloader.open()), downloader, attempts


@pytest.mark.parametrize(
    "reason",
    [
        Reason.DESTINATION_AUTH,
        Reason.DESTINATION_QUOTA,
        Reason.DESTINATION_RATE_LIMITED,
        Reason.DESTINATION_NOT_FOUND,
    ],
)
def test_a_failure_of_all_further_deliveries_ends_the_run_at_once(
    tmp_path: Path, reason: Reason
) -> None:
    stats, downloader, count = deliveries(tmp_path, [Failure(reason, "no delivery")])
    assert stats.fatal is not None and stats.fatal.reason is reason and count == 1
    assert downloader.started <= 3


@pytest.mark.parametrize(
    "reason", [Reason.DESTINATION_UNAVAILABLE, Reason.NETWORK_ERROR, Reason.CORRUPT_UPLOAD]
)
def test_deliveries_that_fail_in_a_row_end_the_run(tmp_path: Path, reason: Reason) -> None:
    stats, _, count = deliveries(tmp_path, [None, Failure(reason, "no delivery")])
    assert stats.fatal is not None and stats.fatal.reason is reason
    assert count == 1 + DELIVERIES_IN_A_ROW == 1 + len(stats.failures)


def test_a_delivery_that_succeeds_in_between_keeps_the_run_going(tmp_path: Path) -> None:
    bad = Failure(Reason.DESTINATION_UNAVAILABLE, "no delivery")
    stats, _, count = deliveries(tmp_path, [bad, bad, None, bad, bad, None])
    assert stats.fatal is None and count == 20 and len(stats.failures) == 4


def test_a_destination_that_asks_to_wait_ends_the_run_with_its_delay(
    tmp_path: Path,
) -> None:
    stats, _, count = deliveries(
        tmp_path, [Failure(Reason.DESTINATION_UNAVAILABLE, "later", retry_after=900.0)]
    )
    assert stats.fatal is not None and stats.fatal.retry_after == 900.0 and count == 1
