"""Many uploads to a Drive of which a fifth of all answers are faulty: nothing missing, nothing twice, nothing corrupt.

The worker is the product's own, in a process of its own (`python -m benchmarks.drive_faults`) whose peak memory is measured: its
pipeline, its retry_policy, and up to three tries, as a run has. The lectures come from a download command; files have up to three
chunks. Only the pauses are shortened: whoever waits for the stop signal is told at once that it did not come.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random

from pydantic import ByteSize
from tests.drive_emulator import DriveEmulator, Faults

from benchmarks.memory import peak
from enrollgate.domain.destination import DriveDestination
from enrollgate.domain.reasons import PERMANENT_EXIT_CODES, exit_code
from enrollgate.domain.report import Report
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker import work
from enrollgate.worker.order import WorkOrder

TRIES = 3
CHUNK = 256 * 1024
SIZES = (1, 700, 40_000, 300_000, 700_000)
"""Bytes; item n has size n modulo their number."""
_COMMAND = """
import os, pathlib, sys
source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
sizes = sys.argv[4:]
for n in range(1, int(sys.argv[3]) + 1):
    if not (target / f"{n:06}.bin").exists():
        os.link(source / f"{sizes[n % len(sizes)]}.bin", target / f"{n:06}.bin")
"""


def measure_drive_faults(uploads: int, share: float = 0.2) -> list[dict[str, object]]:
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
        files = drive.store.media()
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
                "tries": answer["tries"],
                "outcome": answer["reason"] or "complete",
                "missing": uploads - len(set(items)),
                "twice": len(items) - len(set(items)),
                "corrupt": corrupt,
                "worker_peak_mb": answer["peak"],
                "seconds": time.perf_counter() - begin,
            }
        ]


def _number(name: str) -> int:
    """An item's number, from the name of its file at Drive: `07 - 000007.bin`."""
    return int(name.rpartition(" - ")[2].partition(".")[0])


class Impatient(threading.Event):
    """The stop signal that never comes, and that nobody waits for."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(0 if timeout is None else min(timeout, 0.001))


def order_of(endpoint: str, root: str, folder: Path, count: int, number: int) -> WorkOrder:
    sizes = tuple(str(size) for size in SIZES)
    return WorkOrder(
        task_id=1,
        run_number=1,
        attempt=number,
        max_attempts=TRIES,
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
    """As a supervisor does it: another try after every failure that one may mend."""
    for number in range(1, TRIES + 1):
        report = work(order_of(endpoint, root, folder, count, number), stop=Impatient())
        if report.reason is None or exit_code(report.reason) in PERMANENT_EXIT_CODES:
            break
    return report, number


def main() -> None:
    endpoint, root, folder, count = sys.argv[1:]
    for size in SIZES:
        (Path(folder) / f"{size}.bin").write_bytes(Random(size).randbytes(size))
    report, tries = run(endpoint, root, Path(folder), int(count))
    print(json.dumps({"reason": report.reason, "tries": tries, "peak": peak()}))


if __name__ == "__main__":
    main()
