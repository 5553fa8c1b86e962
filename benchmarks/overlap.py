"""Measure how well the worker overlaps the download and the upload of a course.

The site and the Drive have the same bandwidth. The worker is compared with these:

- the bare transfer of the same bytes in one direction;
- its own downloader and destination, one after the other;
- the yt-dlp command, then plain uploads of its files, as a script does it with rclone.

Each mode runs in a process of its own (`python -m benchmarks.overlap MODE ...`, the worker as
`enrollgate work`). The site and the Drive emulator run in this process.
"""

import compileall
import hashlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from pydantic import ByteSize
from tests.drive_emulator import DriveEmulator
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture

import enrollgate
from benchmarks.memory import peak
from enrollgate.domain.destination import DriveDestination
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.destinations import build_destination
from enrollgate.worker.downloaders import build_downloader
from enrollgate.worker.order import WorkOrder

MEGABYTE = 1_000_000
CHUNK_SIZE = 1 << 16
_TO_COLUMN = str.maketrans(" -", "__")
MODES = ("bare download", "bare upload", "sequential", "yt-dlp", "worker")


@dataclass(frozen=True, slots=True)
class _Cost:
    """What one mode took."""

    seconds: float  # wall time
    cpu_seconds: float  # of the process and of all that it started
    peak_mb: float
    requests: int  # that the site got for lectures


def measure_overlap(lectures: int, rate: int) -> list[dict[str, object]]:
    """Measure all modes with `lectures` of 1 to 50 MB.

    `rate` is the bandwidth in both directions, in bytes per second.
    """
    # As in the image: else each worker would compile its modules again, where Python may not
    # write bytecode (PYTHONDONTWRITEBYTECODE).
    compileall.compile_dir(Path(enrollgate.__file__).parent, quiet=1)
    course = _course([Random(n).randint(1, 50) * MEGABYTE for n in range(lectures)])
    size = sum(len(each.content) for each in course)
    costs = {mode: _measure(mode, course, rate) for mode in MODES}
    seconds = {mode: cost.seconds for mode, cost in costs.items()}
    slower = max(seconds["bare download"], seconds["bare upload"])
    worker, plain = costs["worker"], costs["yt-dlp"]
    return [
        {
            "lectures": lectures,
            "megabytes": size / MEGABYTE,
            "megabytes_per_second": rate / MEGABYTE,
            **{f"{mode.translate(_TO_COLUMN)}_s": value for mode, value in seconds.items()},
            "relative_to_sequential": worker.seconds / seconds["sequential"],
            "relative_to_slower_side": worker.seconds / slower,
            "relative_to_yt_dlp": worker.seconds / plain.seconds,
            "worker_cpu_s_per_gb": worker.cpu_seconds * 1e9 / size,
            "yt_dlp_cpu_s_per_gb": plain.cpu_seconds * 1e9 / size,
            "worker_requests_per_lecture": worker.requests / lectures,
            "yt_dlp_requests_per_lecture": plain.requests / lectures,
            "worker_peak_mb": worker.peak_mb,
        }
    ]


def measure_memory(sizes: tuple[int, ...]) -> list[dict[str, object]]:
    """Measure the worker's peak memory for each file size (bytes), without a bandwidth limit."""
    rows: list[dict[str, object]] = []
    for size in sizes:
        cost = _measure("worker", _course([size] * 3), 0)
        rows.append(
            {
                "megabytes_per_file": size / MEGABYTE,
                "files": 3,
                "worker_peak_mb": cost.peak_mb,
                "seconds": cost.seconds,
            }
        )
    return rows


def _course(sizes: list[int]) -> list[Lecture]:
    return [Lecture(f"Lecture {n}", lecture(size, n)) for n, size in enumerate(sizes, 1)]


def _measure(mode: str, course: list[Lecture], rate: int) -> _Cost:
    """Run one mode.

    Raises AssertionError if the process fails, or if a file differs from what the site sent.
    """
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as folder,
        FaultySite(course) as site,
        DriveEmulator(rate=rate) as drive,
    ):
        site.rate = rate
        (Path(folder) / "login.json").write_text(json.dumps(drive.user_login()))
        if mode == "worker":
            command, environment = ["enrollgate", "work"], _environment(site, drive, Path(folder))
        else:
            command, environment = (
                ["benchmarks.overlap", mode, site.url, site.host, drive.url, drive.store.root],
                {},
            )
            command += [folder, *(str(len(each.content)) for each in course)]
        with (Path(folder) / "log").open("w") as log:
            begin = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
            memory, pid = 0.0, 0
            while not pid:
                memory = max(memory, peak(process.pid))
                time.sleep(0.02)
                # Unlike `Popen.poll` it also says what the process used.
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            seconds = time.perf_counter() - begin
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, (Path(folder) / "log").read_text()
        if mode in ("sequential", "yt-dlp", "worker"):
            # Besides the lectures, the worker delivers the course's index.
            wanted = Counter(hashlib.md5(each.content).hexdigest() for each in course)
            assert wanted <= Counter(str(file["md5Checksum"]) for file in drive.store.media())
        requests = sum(sent.path.endswith(".mp4") for sent in site.sent)
        return _Cost(seconds, usage.ru_utime + usage.ru_stime, memory, requests)


def _environment(site: FaultySite, drive: DriveEmulator, folder: Path) -> dict[str, str]:
    return {
        "ENROLLGATE_TASK_ID": "7",
        "ENROLLGATE_COURSE_URL": f"{site.url}/feed",
        "ENROLLGATE_ALLOWED_HOSTS": site.host,
        "ENROLLGATE_SCRATCH_DIR": str(folder / "scratch"),
        "ENROLLGATE_REPORT_PATH": str(folder / "report.json"),
        "ENROLLGATE_DESTINATION": f"drive:{drive.store.root}",
        "ENROLLGATE_DRIVE_ENDPOINT": drive.url,
        "ENROLLGATE_DRIVE_CREDENTIALS": str(folder / "login.json"),
    }


def download(url: str, count: int) -> None:
    """Download the bytes of every lecture, one by one, and drop them."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    for number in range(1, count + 1):
        connection.request("GET", f"/{number}.mp4")
        response = connection.getresponse()
        while response.read(CHUNK_SIZE):
            pass


def upload(url: str, root: str, bodies: Iterable[tuple[str, int, Iterable[bytes]]]) -> None:
    """Upload files of a name, a size in bytes and their blocks.

    Each takes one request of a resumable session.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    headers = {"Authorization": "Bearer good", "Content-Type": "application/json"}
    for name, size, blocks in bodies:
        body = json.dumps({"name": name, "parents": [root]})
        path = "/upload/drive/v3/files?uploadType=resumable&supportsAllDrives=true"
        kind = {"X-Upload-Content-Length": str(size), "X-Upload-Content-Type": "video/mp4"}
        connection.request("POST", path, body, headers | kind)
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        session = urlsplit(response.headers["Location"])
        length = {"Content-Length": str(size), "Content-Range": f"bytes 0-{size - 1}/{size}"}
        connection.request("PUT", f"{session.path}?{session.query}", blocks, headers | length)
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer


def _zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, CHUNK_SIZE):
        yield bytes(min(CHUNK_SIZE, size - start))


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(CHUNK_SIZE):
            yield block


def download_by_yt_dlp(url: str, folder: Path) -> list[Path]:
    """Download the course by the yt-dlp command, with its defaults. Returns the files."""
    command = [sys.executable, "-m", "yt_dlp", "--quiet", "--output", "%(autonumber)s.%(ext)s"]
    subprocess.run([*command, "--paths", str(folder), f"{url}/feed"], check=True)
    return sorted(folder.iterdir())


def run_sequentially(order: WorkOrder) -> None:
    """Download all items, then upload all, by the worker's own downloader and destination."""
    stop = threading.Event()
    downloader, destination = build_downloader(order, stop), build_destination(order, stop)
    course = downloader.open()
    destination.open(course.title)
    files = []
    for item in course.items:
        folder = order.scratch_dir / str(item.index)
        folder.mkdir(parents=True)
        fetched = downloader.fetch(item, folder, lambda _current, _expected, _arrived=0: None)
        files.append((item, fetched))
    downloader.close()
    for item, file in files:
        destination.deliver(item, file, lambda _sent: None)


def main() -> None:
    mode, site, host, drive, root, folder, *sizes = sys.argv[1:]
    if mode == "bare download":
        download(site, len(sizes))
    elif mode == "bare upload":
        upload(drive, root, ((size, int(size), _zeros(int(size))) for size in sizes))
    elif mode == "yt-dlp":
        files = download_by_yt_dlp(site, Path(folder) / "yt-dlp")
        upload(drive, root, ((file.name, file.stat().st_size, _blocks(file)) for file in files))
    else:
        run_sequentially(
            WorkOrder(
                task_id=7,
                run_number=1,
                attempt=1,
                max_attempts=3,
                course_url=f"{site}/feed",
                cookies_name="",
                scratch_dir=Path(folder) / "scratch",
                report_path=Path(folder) / "report.json",
                progress_path=None,
                settings=WorkerSettings(
                    downloader="yt-dlp",
                    destination=DriveDestination(root),
                    allowed_hosts=(host,),
                    scratch_limit=ByteSize(1),
                    drive_endpoint=drive,
                    drive_credentials=Path(folder) / "login.json",
                ),
            )
        )


if __name__ == "__main__":
    main()
