"""What lies at a destination, seen from outside: the folders of the courses and their videos.

A directory is read from the disk, a Drive from the emulator's store. Both look alike to a check.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.drive_emulator import Store


@dataclass(frozen=True)
class Folder:
    """A folder of a destination, with all that is below it.

    `url` is what a run reports. A folder without a name stands for files that no folder holds.
    """

    url: str
    name: str
    # The MD5 of each video.
    videos: Sequence[str]
    # Names of files that are not complete.
    parts: Sequence[str] = ()


def md5(content: bytes) -> str:
    """Return the MD5 of a video, as Drive writes it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def read_directory(root: Path) -> list[Folder]:
    """Return the folders of a directory."""
    found = [
        Folder(
            folder.as_uri(),
            folder.name,
            [md5(path.read_bytes()) for path in folder.rglob("*.mp4")],
            [path.name for path in folder.rglob("*part*")],
        )
        for folder in root.glob("*/")
    ]
    return [*found, Folder("", "", [md5(path.read_bytes()) for path in root.glob("*.mp4")])]


def read_drive(store: Store) -> list[Folder]:
    """Return the folders of a Drive. What is in the trash does not count."""
    courses = {
        str(each["id"]): Folder(str(each["webViewLink"]), str(each["name"]), [])
        for each in store.find(f"'{store.root}' in parents and trashed = false")
    }
    videos: dict[str, list[str]] = {file_id: [] for file_id in ("", *courses)}
    for file in store.media():
        if str(file["name"]).endswith(".mp4"):
            above = [str(each["id"]) for each in store.lineage(str(file["id"]))]
            folder = above[-2] if above[-1] == store.root and above[-2] in courses else ""
            videos[folder].append(str(file["md5Checksum"]))
    found = [Folder(each.url, each.name, videos[file_id]) for file_id, each in courses.items()]
    return [*found, Folder("", "", videos[""])]
