"""A course from a site to a Drive that are equally slow: the worker, against all downloads and then all uploads, and against nothing but the bytes of either side.

Each way runs in a process of its own (`python -m benchmarks.overlap <way> ...`, the worker as
`enrollgate work`); the site and the Drive emulator are here.
"""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from pydantic import ByteSize
from tests.drive_emulator import DriveEmulator
from tests.faulty_site import FaultySite, Lecture

from benchmarks.memory import peak
from enrollgate.domain.destination import DriveDestination
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.destinations import build_destination
from enrollgate.worker.downloaders import build_downloader
from enrollgate.worker.order import WorkOrder

MEGABYTE = 1_000_000
PIECE = 1 << 16


def measure_overlap(lectures: int, rate: int) -> list[dict[str, object]]:
    """`lectures` of 1 to 50 MB, `rate` bytes per second in both directions."""
    course = _course([Random(n).randint(1, 50) * MEGABYTE for n in range(lectures)])
    size = sum(len(lecture.content) for lecture in course)
    seconds = {}
    for way in ("bare download", "bare upload", "one after the other", "worker"):
        seconds[way], most = _measure(way, course, rate)
    slower = max(seconds["bare download"], seconds["bare upload"])
    return [
        {
            "lectures": lectures,
            "megabytes": size / MEGABYTE,
            "megabytes_per_second": rate / MEGABYTE,
            **{f"{way.replace(' ', '_')}_s": value for way, value in seconds.items()},
            "of_one_after_the_other": seconds["worker"] / seconds["one after the other"],
            "of_the_slower_side": seconds["worker"] / slower,
            "worker_peak_mb": most,
        }
    ]


def measure_memory(sizes: tuple[int, ...]) -> list[dict[str, object]]:
    """The worker's peak memory, by the size of the files (bytes), as fast as the wire allows."""
    rows: list[dict[str, object]] = []
    for size in sizes:
        seconds, most = _measure("worker", _course([size] * 3), 0)
        rows.append(
            {
                "megabytes_per_file": size / MEGABYTE,
                "files": 3,
                "worker_peak_mb": most,
                "seconds": seconds,
            }
        )
    return rows


def _course(sizes: list[int]) -> list[Lecture]:
    block = Random(1).randbytes(MEGABYTE)
    return [
        Lecture(f"Lecture {n}", n.to_bytes(4) + (block * (size // MEGABYTE + 1))[: size - 4])
        for n, size in enumerate(sizes, 1)
    ]


def _measure(way: str, course: list[Lecture], rate: int) -> tuple[float, float]:
    """Seconds, and the process's peak memory in MB.

    Raises AssertionError if anything did not arrive as it was sent.
    """
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as folder,
        FaultySite(course) as site,
        DriveEmulator(rate=rate) as drive,
    ):
        site.rate = rate
        (Path(folder) / "login.json").write_text(json.dumps(drive.user_login()))
        if way == "worker":
            command, environment = ["enrollgate", "work"], _environment(site, drive, Path(folder))
        else:
            command, environment = (
                ["benchmarks.overlap", way, site.url, site.host, drive.url, drive.store.root],
                {},
            )
            command += [folder, *(str(len(lecture.content)) for lecture in course)]
        with (Path(folder) / "log").open("w") as log:
            begin = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
            most = 0.0
            while process.poll() is None:
                most = max(most, peak(process.pid))
                time.sleep(0.02)
            seconds = time.perf_counter() - begin
        assert process.returncode == 0, (Path(folder) / "log").read_text()
        if way in ("one after the other", "worker"):
            wanted = sorted(hashlib.md5(lecture.content).hexdigest() for lecture in course)
            assert sorted(str(file["md5Checksum"]) for file in drive.store.media()) == wanted
        return seconds, most


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
    """The bytes of every lecture, one after the other."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    for number in range(1, count + 1):
        connection.request("GET", f"/{number}.mp4")
        answer = connection.getresponse()
        while answer.read(PIECE):
            pass


def upload(url: str, root: str, sizes: list[int]) -> None:
    """As many bytes, each file in one request of a resumable session."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    headers = {"Authorization": "Bearer good", "Content-Type": "application/json"}
    for number, size in enumerate(sizes, 1):
        body = json.dumps({"name": str(number), "parents": [root]})
        place = "/upload/drive/v3/files?uploadType=resumable&supportsAllDrives=true"
        connection.request("POST", place, body, headers | {"X-Upload-Content-Length": str(size)})
        answer = connection.getresponse()
        answer.read()
        session = urlsplit(answer.headers["Location"])
        span = {"Content-Length": str(size), "Content-Range": f"bytes 0-{size - 1}/{size}"}
        connection.request("PUT", f"{session.path}?{session.query}", _zeros(size), headers | span)
        connection.getresponse().read()


def _zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, PIECE):
        yield bytes(min(PIECE, size - start))


def one_after_the_other(order: WorkOrder) -> None:
    """The same downloader and destination as the worker's: all downloads, then all uploads."""
    stop = threading.Event()
    downloader, destination = build_downloader(order, stop), build_destination(order, stop)
    course = downloader.open()
    destination.open(course.title)
    files = []
    for item in course.items:
        folder = order.scratch_dir / str(item.index)
        folder.mkdir(parents=True)
        files.append(
            (
                item,
                downloader.fetch(item, folder, lambda _current, _expected, _arrived=0: None),
            )
        )
    downloader.close()
    for item, file in files:
        destination.deliver(item, file, lambda _sent: None)


def main() -> None:
    way, site, host, drive, root, folder, *sizes = sys.argv[1:]
    if way == "bare download":
        download(site, len(sizes))
    elif way == "bare upload":
        upload(drive, root, [int(size) for size in sizes])
    else:
        one_after_the_other(
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
