"""Many uploads to a Drive of which a fifth of all answers are faulty: nothing missing, nothing twice, nothing corrupt.

The uploads run in a process of their own (`python -m benchmarks.drive_faults`), whose peak memory is measured; the pauses between
tries take no time.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from tests.drive_emulator import DriveEmulator, Faults

from benchmarks.memory import peak
from enrollgate.domain.order import DriveAccess
from enrollgate.worker.course import Item
from enrollgate.worker.destinations.drive import Drive
from enrollgate.worker.destinations.drive.client import Client
from enrollgate.worker.destinations.drive.credentials import load_credentials
from enrollgate.worker.destinations.drive.patience import Patience
from enrollgate.worker.destinations.drive.sessions import SessionStore

THREADS = 4
SIZES = (0, 700, 40_000, 300_000)
"""Bytes; item n has size n modulo their number."""


def measure_drive_faults(uploads: int, share: float = 0.2) -> list[dict[str, object]]:
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as folder,
        DriveEmulator(faults=Faults(share)) as drive,
    ):
        (Path(folder) / "login.json").write_text(json.dumps(drive.user_login()))
        begin = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.drive_faults", drive.url, drive.store.root, folder, str(uploads)]
        most = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        files = drive.store.media()
        items = [file["appProperties"]["enrollgateItem"] for file in files]
        wanted = [hashlib.md5(Random(size).randbytes(size)).hexdigest() for size in SIZES]
        corrupt = sum(file["md5Checksum"] != wanted[int(file["name"].partition(" ")[0]) % len(SIZES)] for file in files)
        return [
            {
                "uploads": uploads,
                "faulty_answers": len(drive.faults.happened),
                "missing": uploads - len(set(items)),
                "twice": len(items) - len(set(items)),
                "corrupt": corrupt,
                "worker_peak_mb": float(most),
                "seconds": time.perf_counter() - begin,
            }
        ]


def main() -> None:
    endpoint, root, text, count = sys.argv[1:]
    folder = Path(text)
    for size in SIZES:
        (folder / f"{size}.bin").write_bytes(Random(size).randbytes(size))
    access = DriveAccess(endpoint, folder / "login.json")
    stop = threading.Event()
    drive = Drive(
        Client(load_credentials(access), endpoint),
        sessions=SessionStore(folder / "sessions"),
        access=access,
        task_id=1,
        root=root,
        stop=stop,
        patience=Patience(Random(1), lambda _seconds, _stop: None, tries=30),
    )
    drive.open("Many uploads")

    def deliver(n: int) -> None:
        item = Item(f"item-{n}", n, "lecture", "", 0, "https://x.example")
        drive.deliver(item, folder / f"{SIZES[n % len(SIZES)]}.bin", lambda _sent: None, stop)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(deliver, range(1, int(count) + 1)))
    print(peak())


if __name__ == "__main__":
    main()
