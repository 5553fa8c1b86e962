"""Serve until Ctrl-C, and print the settings to use: `python -m tests.drive_emulator`."""

import argparse
import json
import threading
from pathlib import Path

from tests.drive_emulator import DriveEmulator, Faults, Store


def main() -> None:
    """Parse the options, start the emulator, and wait."""
    parser = argparse.ArgumentParser(prog="python -m tests.drive_emulator")
    parser.add_argument("--port", type=int, default=8091)
    parser.add_argument(
        "--folder", type=Path, help="Keep the files' contents here. Default: only size and MD5."
    )
    parser.add_argument(
        "--rate", type=float, default=0, help="Bytes per second, all uploads together. 0: no limit."
    )
    parser.add_argument("--faults", type=float, default=0, help="Share of faulty answers, 0 to 1.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--credentials", type=Path, default=Path("drive-credentials.json"))
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    faults = Faults(options.faults, options.seed)
    with DriveEmulator(Store(options.folder), faults, options.port, options.rate) as drive:
        options.credentials.write_text(json.dumps(drive.user_login()))
        print(
            f"ENROLLGATE_DRIVE_ENDPOINT={drive.url}\nENROLLGATE_DESTINATION=drive:{drive.store.root}"
        )
        print(f"ENROLLGATE_DRIVE_CREDENTIALS={options.credentials.absolute()}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
