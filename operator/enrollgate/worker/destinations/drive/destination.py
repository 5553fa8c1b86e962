"""The destination `drive:<folder id>`: what is there is listed once, and known from then on.

    <folder>/<course title> [task-7]/     appProperties: enrollgateTask, enrollgateCourse
        01 - <section>/                   ... and enrollgateSection
            01 - <lecture>.mp4            ... and enrollgateItem, enrollgateMd5

A file counts as there if Drive has computed the MD5 of what it holds, and it is the one that was written beside it at the start.
"""

import threading
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from enrollgate.domain.order import DriveAccess, WorkOrder
from enrollgate.worker.course import Delivered, Item, OnBytes
from enrollgate.worker.destinations.drive.client import FOLDER, Client
from enrollgate.worker.destinations.drive.credentials import load_credentials
from enrollgate.worker.destinations.drive.folders import COURSE_KEY, ITEM, MD5, SECTION, TASK, Folders, item_key
from enrollgate.worker.destinations.drive.patience import Patience
from enrollgate.worker.destinations.drive.sessions import SessionStore
from enrollgate.worker.destinations.drive.uploads import Ids, Parcel, Uploads
from enrollgate.worker.identity import course_key
from enrollgate.worker.names import course_name, item_name, section_name

File = dict[str, Any]
"""Drive's metadata of a file."""


def open_drive(order: WorkOrder, folder_id: str, stop: threading.Event, patience: Patience | None = None) -> "Drive":
    """The destination of an order. Raises Failure (ConfigurationError) for credentials that cannot be read."""
    client = Client(load_credentials(order.drive), order.drive.endpoint)
    sessions = SessionStore(order.scratch_dir / "drive")
    return Drive(
        client,
        sessions=sessions,
        access=order.drive,
        task_id=order.task_id,
        course=course_key(order.course_url),
        root=folder_id,
        stop=stop,
        patience=patience or Patience(Random()),  # noqa: S311 -- jitter
    )


class Drive:
    """Implements `Destination` on Google Drive."""

    def __init__(
        self,
        client: Client,
        *,
        sessions: SessionStore,
        access: DriveAccess,
        task_id: int,
        course: str,
        root: str,
        stop: threading.Event,
        patience: Patience,
    ) -> None:
        ids = Ids(client, patience)
        self._client = client
        self._patience = patience
        self._folders = Folders(client, patience, ids, stop)
        self._uploads = Uploads(client, patience, ids, sessions, access.chunk_size)
        self._task_id = task_id
        self._key_of_course = course
        self._root = root
        self._course: File = {}
        self._sections: dict[str, str] = {}
        """The ids of the sections' folders, by the sections' names."""
        self._making = threading.Lock()
        self._files: dict[str, list[File]] = {}
        """What is there, by item key."""
        self._names: dict[tuple[str, str], str] = {}
        """The key of the item that has a name in a folder."""
        self._lock = threading.Lock()

    def open(self, title: str) -> None:
        """Finds the folder of the task's course, or makes one, and lists what is in it. The title of a later try does not rename
        it.
        """
        drive_id = self._folders.root(self._root)
        course = self._folders.find_course(self._root, drive_id, self._properties())
        if course is None:
            self._course = self._folders.make(course_name(title, self._task_id), self._root, self._properties())
            return
        self._course = course
        for file in self._folders.children(course["id"], drive_id):
            section = file.get("appProperties", {}).get(SECTION)
            if file.get("mimeType") != FOLDER:
                self._know(file, course["id"])
            elif section is not None:
                self._sections.setdefault(section, file["id"])
                for inner in self._folders.children(file["id"], drive_id):
                    self._know(inner, file["id"])

    def find(self, item: Item) -> Delivered | None:
        """The item if Drive has a whole file of it."""
        with self._lock:
            file = next(filter(_is_whole, self._files.get(self._key(item), ())), None)
        return None if file is None else Delivered(item.item_id, int(file["size"]), str(file["md5Checksum"]))

    def deliver(self, item: Item, file: Path, on_bytes: OnBytes, stop: threading.Event) -> Delivered:
        """Uploads and verifies the file; then removes what was there of the item and was not whole."""
        key, folder = self._key(item), self._section(item)
        name = self._name(key, item, file, folder)

        def body(md5: str) -> dict[str, Any]:
            return {"name": name, "appProperties": {**self._properties(), ITEM: key, MD5: md5}}

        done = self._uploads.upload(Parcel(key, file, folder, body), on_bytes, stop)
        with self._lock:
            old = [other for other in self._files.get(key, ()) if other["id"] != done["id"] and not _is_whole(other)]
            self._files[key] = [done]
        for other in old:
            self._patience.call(partial(self._client.delete, other["id"]), stop)
        return Delivered(item.item_id, int(done["size"]), str(done["md5Checksum"]))

    @property
    def location(self) -> tuple[str, str]:
        """The course folder's id and its address for a browser."""
        folder = str(self._course.get("id", self._root))
        return folder, str(self._course.get("webViewLink") or f"https://drive.google.com/drive/folders/{folder}")

    def _properties(self) -> dict[str, str]:
        return {TASK: str(self._task_id), COURSE_KEY: self._key_of_course}

    def _key(self, item: Item) -> str:
        return item_key(self._task_id, item.item_id)

    def _know(self, file: File, folder: str) -> None:
        key = file.get("appProperties", {}).get(ITEM)
        if key is not None:
            self._files.setdefault(key, []).append(file)
            self._names.setdefault((folder, str(file["name"])), key)

    def _section(self, item: Item) -> str:
        """The id of the folder for the item, made if it must be."""
        name = section_name(item)
        if not name:
            return str(self._course["id"])
        section = item_key(self._task_id, name)
        with self._making:
            if section not in self._sections:
                made = self._folders.make(name, self._course["id"], {**self._properties(), SECTION: section})
                self._sections[section] = made["id"]
            return self._sections[section]

    def _name(self, key: str, item: Item, file: Path, folder: str) -> str:
        with self._lock:
            name = item_name(item, file.suffix)
            if self._names.setdefault((folder, name), key) != key:
                name = item_name(item, file.suffix, taken=True)
                self._names[folder, name] = key
            return name


def _is_whole(file: File) -> bool:
    md5 = file.get("md5Checksum")
    return md5 is not None and "size" in file and md5 == file.get("appProperties", {}).get(MD5)
