"""A Drive destination on an emulator, for tests: real HTTP, real client, no pauses."""

import hashlib
import json
import threading
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.drive_emulator import DriveEmulator
from tests.faulty_site import FaultySite, content
from tests.orders import order_for

from enrollgate.domain.reasons import Failure
from enrollgate.worker.course import Fetched, Item
from enrollgate.worker.destinations.drive import Drive, open_drive
from enrollgate.worker.destinations.drive.client import SOCKET_TIMEOUT
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.order import WorkOrder

KIB, MIB = 1024, 1024 * 1024
CHUNK = 256 * KIB
COURSE_URL = "https://courses.example.com/course/1"


class RecordedPauses:
    """A sleep function that takes no time and records the seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Bench:
    """A destination on an emulator, and files to upload."""

    def __init__(self, emulator: DriveEmulator, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.emulator, self.folder = emulator, folder
        self.pauses = RecordedPauses()
        self.stop = threading.Event()
        self.key_file = folder / "login.json"
        self.key_file.write_text(json.dumps(emulator.user_login()))
        self.credentials: Path | None = self.key_file
        self.subject: str | None = None
        self.course_url = COURSE_URL
        self.chunk = CHUNK
        self.socket_timeout = SOCKET_TIMEOUT

    def order(self, site: FaultySite, **changes: object) -> WorkOrder:
        """Build an order that delivers the site's course to the emulator."""
        defaults = {
            "destination": f"drive:{self.emulator.store.root}",
            "drive_endpoint": self.emulator.url,
            "drive_credentials": self.credentials,
            "drive_subject": self.subject,
        }
        return order_for(site, self.folder, **(defaults | changes))

    def retry_policy(self) -> RetryPolicy:
        """Build a policy that retries without pauses, with the same jitter in every test."""
        return RetryPolicy(self.stop, random=Random(1), sleep=self.pauses)

    def drive(self, root: str | None = None) -> Drive:
        """Build the destination. `root` is a folder's id, by default the emulator's."""
        with FaultySite([]) as site:
            order = self.order(site, course_url=self.course_url, drive_chunk_size=self.chunk)
        folder_id = root or self.emulator.store.root
        return open_drive(order, folder_id, self.stop, self.retry_policy(), self.socket_timeout)

    def open_drive(self) -> Drive:
        """Build the destination and open it, as the next attempt of a run does."""
        drive = self.drive()
        drive.open("A course")
        return drive

    def file(self, size: int, seed: int = 1) -> Path:
        """Write a file of `size` bytes."""
        path = self.folder / f"{seed}.mp4"
        path.write_bytes(content(size, seed))
        return path

    def deliver(self, drive: Drive, number: int, section: str = "", size: int = 10) -> None:
        """Deliver an item of `size` bytes."""
        drive.deliver(build_item(number, section), Fetched(self.file(size, number)), ignore_bytes)

    def send(self, drive: Drive, size: int = 600 * KIB, number: int = 1) -> list[int]:
        """Deliver an item, check the result, and return the reported numbers of bytes."""
        reported: list[int] = []
        file = self.file(size, number)
        done = drive.deliver(build_item(number), Fetched(file), reported.append)
        assert (done.size, done.md5) == (size, hashlib.md5(file.read_bytes()).hexdigest())
        assert reported == sorted(reported)
        return reported

    def break_off(self, size: int) -> None:
        """Begin to upload an item, and stop the worker after the first chunk that arrives."""
        drive = self.open_drive()
        self.emulator.on_chunk = self.stop.set
        with pytest.raises(Failure, match="Stopped"):
            drive.deliver(build_item(1), Fetched(self.file(size)), ignore_bytes)
        self.emulator.on_chunk = lambda: None
        self.stop.clear()

    def only_file(self) -> dict[str, Any]:
        """Return the one file that is at Drive."""
        (file,) = self.emulator.store.media()
        return file


def build_item(number: int, section: str = "") -> Item:
    """Build the item of a lecture."""
    section_index = 1 if section else 0
    title = f"Lecture {number}"
    return Item(f"i{number}", number, title, section, section_index, "https://x.example")


def ignore_bytes(_sent: int) -> None:
    """Take the report of sent bytes and do nothing."""
