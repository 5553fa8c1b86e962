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

from enrollgate.worker.course import Delivered, Item, OnBytes
from enrollgate.worker.destinations.drive.client import FOLDER, SOCKET_TIMEOUT, Client, File
from enrollgate.worker.destinations.drive.credentials import load_credentials
from enrollgate.worker.destinations.drive.folders import (
    COURSE,
    COURSE_KEY,
    ITEM,
    MD5,
    SECTION,
    TASK,
    Folders,
    carries,
    item_key,
)
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.destinations.drive.sessions import SessionStore
from enrollgate.worker.destinations.drive.uploads import Ids, UploadRequest, Uploads
from enrollgate.worker.identity import course_key
from enrollgate.worker.names import course_name, item_name, section_name
from enrollgate.worker.order import WorkOrder


def open_drive(
    order: WorkOrder,
    folder_id: str,
    stop: threading.Event,
    retry_policy: RetryPolicy | None = None,
    socket_timeout: float = SOCKET_TIMEOUT,
) -> "Drive":
    """The destination of an order. Raises Failure (ConfigurationError) for credentials that cannot be read. `socket_timeout` in
    seconds."""
    client = Client(load_credentials(order.settings), order.settings.drive_endpoint, socket_timeout)
    sessions = SessionStore(order.scratch_dir / "drive")
    return Drive(
        client,
        sessions=sessions,
        chunk_size=order.settings.drive_chunk_size,
        task_id=order.task_id,
        course=course_key(order.course_url),
        root=folder_id,
        stop=stop,
        retry_policy=retry_policy or RetryPolicy(Random()),  # noqa: S311 -- jitter
    )


class Drive:
    """Implements `Destination` on Google Drive."""

    def __init__(
        self,
        client: Client,
        *,
        sessions: SessionStore,
        chunk_size: int,
        task_id: int,
        course: str,
        root: str,
        stop: threading.Event,
        retry_policy: RetryPolicy,
    ) -> None:
        ids = Ids(client, retry_policy)
        self._client = client
        self._retry_policy = retry_policy
        self._sessions = sessions
        self._folders = Folders(client, retry_policy, ids, sessions, stop)
        self._uploads = Uploads(client, retry_policy, ids, sessions, chunk_size)
        self._task_id = task_id
        self._key_of_course = course
        self._root = root
        self._stop = stop
        self._course: File = {}
        self._sections: dict[str, str] = {}
        """The ids of the sections' folders, by the sections' keys."""
        self._making: dict[str, threading.Lock] = {}
        """For each section, that it is made once."""
        self._files: dict[str, list[File]] = {}
        """What is there, by item key; what lies in the course's folder first."""
        self._names: dict[tuple[str, str], str] = {}
        """The key of the item that has a name in a folder."""
        self._lock = threading.Lock()

    def open(self, title: str) -> None:
        """Finds the folder of the task's course, or makes one, and lists what is in it. The title of a later try does not rename
        it.
        """
        drive_id = self._folders.root(self._root)
        courses = self._folders.courses(self._root, drive_id, self._properties())
        if courses:
            self._course = courses[0]
            self._sessions.keep_folder(COURSE, courses[0]["id"])
        else:
            name = course_name(title, self._task_id)
            self._course = self._folders.make(COURSE, name, self._root, self._properties())
        for course in courses:
            self._list(course, drive_id)
        self._add_what_no_search_shows_yet()
        for files in self._files.values():
            self._keep_one(files)

    def find(self, item: Item) -> Delivered | None:
        """The item if Drive has a whole file of it. One that lies in another folder of the task is brought to its place."""
        with self._lock:
            file = next(filter(_is_whole, self._files.get(self._key(item), ())), None)
        if file is None:
            return None
        folder = next((str(parent) for parent in file.get("parents", ())), None)
        if folder is not None and not self._is_ours(folder):
            move = partial(self._client.move, file["id"], folder, self._section(item))
            moved = self._retry_policy.call(move, self._stop)
            with self._lock:
                self._files[self._key(item)] = [moved]
        return Delivered(item.item_id, int(file["size"]), str(file["md5Checksum"]))

    def deliver(self, item: Item, file: Path, on_bytes: OnBytes) -> Delivered:
        """Uploads and verifies the file; then removes what was there of the item and was not whole."""
        key, folder = self._key(item), self._section(item)
        name = self._name(key, item, file, folder)

        def body(md5: str) -> File:
            return {"name": name, "appProperties": {**self._properties(), ITEM: key, MD5: md5}}

        done = self._uploads.upload(UploadRequest(key, file, folder, body), on_bytes, self._stop)
        with self._lock:
            others = self._files.get(key, [])
            self._files[key] = [done]
        self._keep_one([done, *others])
        return Delivered(item.item_id, int(done["size"]), str(done["md5Checksum"]))

    @property
    def location(self) -> tuple[str, str]:
        """The course folder's id and its address for a browser."""
        folder = str(self._course.get("id", self._root))
        return folder, str(
            self._course.get("webViewLink") or f"https://drive.google.com/drive/folders/{folder}"
        )

    def _properties(self) -> dict[str, str]:
        return {TASK: str(self._task_id), COURSE_KEY: self._key_of_course}

    def _key(self, item: Item) -> str:
        return item_key(self._task_id, item.item_id)

    def _list(self, course: File, drive_id: str | None) -> None:
        """Takes note of what lies in a folder of the task: sections are those of the one that is used."""
        for file in self._folders.children(course["id"], drive_id):
            section = file.get("appProperties", {}).get(SECTION)
            if file.get("mimeType") != FOLDER:
                self._know(file, course["id"])
            elif section is not None:
                if course is self._course:
                    self._sections.setdefault(section, file["id"])
                for inner in self._folders.children(file["id"], drive_id):
                    self._know(inner, file["id"])

    def _add_what_no_search_shows_yet(self) -> None:
        for key, file_id in self._sessions.delivered().items():
            if all(file["id"] != file_id for file in self._files.get(key, ())):
                file = self._folders.still_there(file_id)
                if file is not None:
                    self._know(file, str(next(iter(file.get("parents", ())), "")))

    def _know(self, file: File, folder: str) -> None:
        key = file.get("appProperties", {}).get(ITEM)
        if key is not None and carries(file, self._properties()):
            self._files.setdefault(key, []).append(file)
            self._names.setdefault((folder, str(file["name"])), key)

    def _keep_one(self, files: list[File]) -> None:
        """Where a whole file of an item is there, the others of the same item are in the way."""
        whole = next((file["id"] for file in files if _is_whole(file)), None)
        for other in files:
            if whole not in (None, other["id"]):
                self._uploads.trash_quietly(other["id"], self._stop)

    def _is_ours(self, folder: str) -> bool:
        with self._lock:
            return folder == self._course["id"] or folder in self._sections.values()

    def _section(self, item: Item) -> str:
        """The id of the folder for the item, made if it must be."""
        name = section_name(item)
        if not name:
            return str(self._course["id"])
        section = item_key(self._task_id, name)
        with self._lock:
            found = self._sections.get(section)
            making = self._making.setdefault(section, threading.Lock())
        if found is not None:
            return found
        with making:
            with self._lock:
                found = self._sections.get(section)
            if found is None:
                properties = {**self._properties(), SECTION: section}
                found = str(self._folders.make(section, name, self._course["id"], properties)["id"])
                with self._lock:
                    self._sections[section] = found
            return found

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
