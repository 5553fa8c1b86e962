"""Upload many files to a Drive that fails a fifth of all requests, and count errors.

No file may be missing, delivered twice or corrupt. The product's own worker runs in a process of
its own (`python -m benchmarks.drive_faults`), whose peak memory is measured. It has its pipeline,
its retry policy and three attempts, as a run has. The lectures come from a download command, and
files have up to three chunks. Only the pauses are shortened: waits for the stop event return soon.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from pydantic import ByteSize
from tests.drive_emulator import DriveEmulator, Faults
from tests.rate_limiter import NoWaitEvent

from benchmarks.memory import peak
from enrollgate.domain.destination import DriveDestination
from enrollgate.domain.reasons import PERMANENT_EXIT_CODES, exit_code
from enrollgate.domain.report import Report
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.order import WorkOrder
from enrollgate.worker.work import work

MAX_ATTEMPTS = 3
CHUNK = 256 * 1024
# Bytes. Item n has the size at n modulo their number.
SIZES = (1, 700, 40_000, 300_000, 700_000)
_COMMAND = """
import pathlib, shutil, sys
source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
sizes = sys.argv[5:]
for n in range(1, int(sys.argv[3]) + 1):
    if not (target / f"{n:06}.bin").exists():
        shutil.copyfile(source / f"{sizes[n % len(sizes)]}.bin", target / f"{n:06}.bin")
"""


def measure_drive_faults(uploads: int, share: float = 0.2) -> list[dict[str, object]]:
    """Run one course of so many items. `share` is the part of the requests that fail, 0 to 1."""
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as folder,
        DriveEmulator(faults=Faults(share)) as drive,
    ):
        (Path(folder) / "login.json").write_text(json.dumps(drive.user_login()))
        begin = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "benchmarks.drive_faults",
            drive.url,
            drive.store.root,
            folder,
            str(uploads),
        ]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        answer = json.loads(done.stdout)
        # Without the course's index, which the worker delivers besides the items.
        files = [file for file in drive.store.media() if file["name"].endswith(".bin")]
        items = [file["appProperties"]["enrollgateItem"] for file in files]
        wanted = [hashlib.md5(Random(size).randbytes(size)).hexdigest() for size in SIZES]
        corrupt = sum(
            file["md5Checksum"] != wanted[_number(file["name"]) % len(SIZES)] for file in files
        )
        return [
            {
                "uploads": uploads,
                "requests": drive.faults.requests,
                "faulty_share": len(drive.faults.happened) / drive.faults.requests,
                "attempts": answer["attempts"],
                "outcome": answer["reason"] or "complete",
                "missing": uploads - len(set(items)),
                "duplicated": len(items) - len(set(items)),
                "corrupt": corrupt,
                "worker_peak_mb": answer["peak"],
                "seconds": time.perf_counter() - begin,
            }
        ]


def _number(name: str) -> int:
    """Return the item's number from the name of its file at Drive, such as `07 - 000007.bin`."""
    return int(name.rpartition(" - ")[2].partition(".")[0])


def build_order(endpoint: str, root: str, folder: Path, count: int, attempt: int) -> WorkOrder:
    """Build the order of one attempt at a course of `count` items."""
    sizes = tuple(str(size) for size in SIZES)
    return WorkOrder(
        task_id=1,
        run_number=1,
        attempt=attempt,
        max_attempts=MAX_ATTEMPTS,
        course_url="https://courses.example.com/many",
        cookies_name="",
        scratch_dir=folder / "scratch",
        report_path=folder / "report.json",
        progress_path=None,
        settings=WorkerSettings(
            downloader="command",
            download_command=(
                sys.executable,
                "-c",
                _COMMAND,
                str(folder),
                "{output_dir}",
                str(count),
                "{course_url}",
                *sizes,
            ),
            destination=DriveDestination(root),
            allowed_hosts=(),
            scratch_limit=ByteSize(100 * 2**30),
            drive_endpoint=endpoint,
            drive_credentials=folder / "login.json",
            drive_chunk_size=ByteSize(CHUNK),
            uploads=4,
        ),
    )


def run(endpoint: str, root: str, folder: Path, count: int) -> tuple[Report, int]:
    """Repeat attempts while a retry can help, as a supervisor does. Returns their number, too."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        report = work(build_order(endpoint, root, folder, count, attempt), stop=NoWaitEvent())
        if report.reason is None or exit_code(report.reason) in PERMANENT_EXIT_CODES:
            break
    return report, attempt


def main() -> None:
    """Work off the course in this process, and print the report and the peak memory as JSON."""
    endpoint, root, folder, count = sys.argv[1:]
    for size in SIZES:
        (Path(folder) / f"{size}.bin").write_bytes(Random(size).randbytes(size))
    report, attempts = run(endpoint, root, Path(folder), int(count))
    print(json.dumps({"reason": report.reason, "attempts": attempts, "peak": peak()}))


if __name__ == "__main__":
    main()
