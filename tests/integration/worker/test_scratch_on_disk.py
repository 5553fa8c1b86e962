"""What really lies in scratch, looked at all the time while a worker works; and what ends the waiting for room."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faulty_site import Fault, FaultySite, content
from tests.orders import delivered, order_for, run
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.bandwidth import Bandwidth
from enrollgate.worker.course import Course, Delivered, Item, OnBytes, OnFetched
from enrollgate.worker.pipeline import DELIVERIES_IN_A_ROW, Pipeline, RunStats, TransferLimits
from enrollgate.worker.progress import Progress

# yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@contextmanager
def sampled(folder: Path) -> Iterator[list[int]]:
    """The bytes in a folder, again and again."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            with contextlib.suppress(OSError):  # what is removed meanwhile, folders too
                seen.append(
                    sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                )

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def streams(site: FaultySite, names: str, segment: int, segments: int) -> str:
    """A page with HLS streams of so many segments of so many bytes; its address."""
    for name in names:
        for number in range(segments):
            site.pages[f"/{name}{number}.ts"] = (
                "video/mp2t",
                b"\x47" + content(segment - 1, number),
            )
        lines = "".join(f"#EXTINF:2,\n{name}{number}.ts\n" for number in range(segments))
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{lines}#EXT-X-ENDLIST\n"
        site.pages[f"/{name}.m3u8"] = ("application/vnd.apple.mpegurl", playlist.encode())
    videos = "".join(f'<video src="/{name}.m3u8"></video>' for name in names)
    site.pages["/page"] = ("text/html", f"<title>Streams</title>{videos}".encode())
    return f"{site.url}/page"


@pytest.mark.parametrize("lanes", [1, 3])
def test_hls_never_takes_more_than_the_limit_although_its_pieces_are_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no ffmpeg: the segments are no real video
    monkeypatch.setattr(FFmpegPostProcessor, "_version_cache", {})
    limit = 5_500_000
    with FaultySite([]) as site:
        page = streams(site, "abcd", 1_000_000, 4)
        site.rate = 30_000_000
        with sampled(tmp_path / "scratch") as seen:
            report = run(
                order_for(site, tmp_path, course_url=page, scratch_limit=limit, downloads=lanes)
            )
    assert report.reason is None and report.items_delivered == 4, report
    assert {len(file) for file in delivered(tmp_path).values()} == {4_000_000}
    assert 4_000_000 <= max(seen) <= limit, f"{max(seen):,} bytes lay in a scratch of {limit:,}"


def test_a_partial_file_of_another_rendition_goes_before_the_new_one_grows(tmp_path: Path) -> None:
    limit = 1_500_000
    with FaultySite([]) as site:
        site.pages |= {
            f"/{name}.mp4": ("video/mp4", content(1_000_000, n))
            for n, name in enumerate(("hd", "sd"))
        }

        def page(name: str) -> tuple[str, bytes]:
            return (
                "text/html",
                f'<title>P</title><video><source src="/{name}.mp4"></video>'.encode(),
            )

        site.pages["/page"] = page("hd")
        site.faults["/hd.mp4"] = Fault(reset_after=300_000)
        order = order_for(site, tmp_path, course_url=f"{site.url}/page", scratch_limit=limit)
        assert run(order).reason is not None
        (partial,) = (tmp_path / "scratch").rglob("*.part")
        assert partial.stat().st_size > 500_000
        site.pages["/page"] = page("sd")
        site.rate = 20_000_000
        with sampled(tmp_path / "scratch") as seen:
            assert run(order).reason is None
    assert max(seen) <= 1_100_000 <= limit and not partial.exists()


# a delivery that fails while downloads wait for room


class Files:
    """Lectures of 600 kB, written piece by piece."""

    def __init__(self, count: int) -> None:
        self.items = [Item(f"i{n}", n, f"L{n}", "", 0, "u") for n in range(1, count + 1)]
        self.begun = 0

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Path:
        self.begun += 1
        path = folder / "f.mp4"
        with path.open("wb") as stream:
            for number in range(1, 61):
                stream.write(b"x" * 10_000)
                on_bytes(number * 10_000, 600_000)
        return path

    def open(self) -> Course:
        return Course("c", iter(self.items), len(self.items))

    def close(self) -> None: ...


class Place:
    """Delivers what `fails` lets pass."""

    location = ("", "")

    def __init__(self, fails: Callable[[Item], None]) -> None:
        self.fails = fails

    def open(self, title: str) -> None: ...

    def find(self, item: Item) -> Delivered | None:
        return None

    def deliver(self, item: Item, file: Path, on_bytes: OnBytes) -> Delivered:
        self.fails(item)
        return Delivered(item.item_id, 1, "")


def pipeline_of(
    files: Files, place: Place, folder: Path, limit: int = 1_000_000, lanes: int = 2
) -> Pipeline:
    free = Bandwidth(None, monotonic=time.monotonic, sleep=time.sleep)
    return Pipeline(
        files,
        place,
        folder=folder,
        scratch_limit=limit,
        lanes=TransferLimits(lanes, lanes, free, free),
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
def test_who_waits_for_room_does_not_wait_for_a_delivery_that_broke(
    tmp_path: Path, error: Exception
) -> None:
    """The second lecture has no room until the first one is delivered, which never happens."""

    def fails(_item: Item) -> None:
        while not any(growing.wanted for growing in list(pipeline.scratch._growing.values())):
            time.sleep(0.01)
        raise error

    files = Files(4)
    pipeline = pipeline_of(files, Place(fails), tmp_path)
    if isinstance(error, Failure):
        tally = pipeline.run(files.open())
        assert tally.fatal is error and tally.delivered == 0
    else:
        with pytest.raises(UnicodeEncodeError):
            pipeline.run(files.open())
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.mp4")) <= 1_000_000


# what ends a run


def deliveries(
    tmp_path: Path, failures: list[Failure | None], count: int = 20
) -> tuple[RunStats, Files, int]:
    """A course whose deliveries end so, one after the other (the last again and again), and how many were tried."""
    tried = 0
    lock = threading.Lock()

    def fails(_item: Item) -> None:
        nonlocal tried
        with lock:
            failure = failures[min(tried, len(failures) - 1)]
            tried += 1
        if failure is not None:
            raise failure

    files = Files(count)
    pipeline = pipeline_of(files, Place(fails), tmp_path, lanes=1)
    return pipeline.run(files.open()), files, tried


@pytest.mark.parametrize(
    "reason",
    [
        Reason.DESTINATION_AUTH,
        Reason.DESTINATION_QUOTA,
        Reason.DESTINATION_RATE_LIMITED,
        Reason.DESTINATION_NOT_FOUND,
    ],
)
def test_what_no_further_delivery_would_survive_ends_the_run_at_once(
    tmp_path: Path, reason: Reason
) -> None:
    tally, files, tried = deliveries(tmp_path, [Failure(reason, "so it is")])
    assert tally.fatal is not None and tally.fatal.reason is reason and tried == 1
    assert files.begun <= 3


@pytest.mark.parametrize(
    "reason", [Reason.DESTINATION_UNAVAILABLE, Reason.NETWORK_ERROR, Reason.CORRUPT_UPLOAD]
)
def test_a_destination_that_fails_again_and_again_ends_the_run(
    tmp_path: Path, reason: Reason
) -> None:
    tally, _, tried = deliveries(tmp_path, [None, Failure(reason, "so it is")])
    assert tally.fatal is not None and tally.fatal.reason is reason
    assert tried == 1 + DELIVERIES_IN_A_ROW == 1 + len(tally.failures)


def test_a_delivery_that_succeeds_in_between_lets_the_run_go_on(tmp_path: Path) -> None:
    bad = Failure(Reason.DESTINATION_UNAVAILABLE, "so it is")
    tally, _, tried = deliveries(tmp_path, [bad, bad, None, bad, bad, None])
    assert tally.fatal is None and tried == 20 and len(tally.failures) == 4


def test_a_destination_that_asks_to_wait_long_ends_the_run_and_the_report_says_how_long(
    tmp_path: Path,
) -> None:
    tally, _, tried = deliveries(
        tmp_path, [Failure(Reason.DESTINATION_UNAVAILABLE, "later", retry_after=900.0)]
    )
    assert tally.fatal is not None and tally.fatal.retry_after == 900.0 and tried == 1
