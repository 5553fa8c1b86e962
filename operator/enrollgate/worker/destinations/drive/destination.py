"""The destination `drive:<folder id>`.

    <folder>/<course title> [task-7]/     appProperties: enrollgateTask, enrollgateCourse
        01 - <section>/                   and enrollgateSection
            01 - <lecture>.mp4            and enrollgateItem, enrollgateMd5

`Drive.open` lists what is there once, and keeps it in memory. An item is there if Drive's MD5 of
its file equals enrollgateMd5, which was written when the upload started.
"""

import hashlib
import threading
from functools import partial

from enrollgate.common.files import file_md5
from enrollgate.worker.course import Delivered, Fetched, Item, OnBytes
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
    IdPool,
    has_properties,
)
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.destinations.drive.sessions import SessionStore
from enrollgate.worker.destinations.drive.uploads import UploadRequest, Uploads
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
    """Build the destination of an order.

    `folder_id` is the folder that courses go to. `stop` ends requests and pauses. `socket_timeout`
    is in seconds. Raises Failure (ConfigurationError) if the credentials cannot be read.
    """
    client = Client(load_credentials(order.settings), order.settings.drive_endpoint, socket_timeout)
    return Drive(
        client,
        retry_policy or RetryPolicy(stop),
        SessionStore(order.scratch_dir / "drive"),
        chunk_size=order.settings.drive_chunk_size,
        task_id=order.task_id,
        course=course_key(order.course_url),
        root=folder_id,
    )


class Drive:
    """Implement `Destination` on Google Drive.

    `retry_policy` also holds the stop event. `chunk_size` is in bytes. `course` is the course's
    key. `root` is the id of the folder that courses go to.
    """

    def __init__(
        self,
        client: Client,
        retry_policy: RetryPolicy,
        sessions: SessionStore,
        *,
        chunk_size: int,
        task_id: int,
        course: str,
        root: str,
    ) -> None:
        ids = IdPool(client, retry_policy)
        self._client = client
        self._retry_policy = retry_policy
        self._sessions = sessions
        self._folders = Folders(client, retry_policy, ids, sessions)
        self._uploads = Uploads(client, retry_policy, ids, sessions, chunk_size)
        self._task_id = task_id
        self._root = root
        # The `appProperties` of everything that belongs to this course of this task.
        self._properties = {TASK: str(task_id), COURSE_KEY: course}
        self._course: File = {}
        # The ids of the sections' folders, by section key.
        self._sections: dict[str, str] = {}
        # A lock for each section, so that its folder is created once.
        self._section_locks: dict[str, threading.Lock] = {}
        # The files that are there, by item key; those in the course's own folder come first.
        self._files: dict[str, list[File]] = {}
        # The key of the item that uses a name, by folder id and name.
        self._names: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def open(self, title: str) -> None:
        """Find or create the folder of the course, and list what is in it.

        An existing folder keeps its name, even if `title` has changed.
        """
        drive_id = self._folders.find_shared_drive(self._root)
        courses = self._folders.find_course_folders(self._root, drive_id, self._properties)
        if courses:
            self._course = courses[0]
            self._sessions.save_folder_id(COURSE, courses[0]["id"])
        else:
            name = course_name(title, self._task_id)
            self._course = self._folders.create(COURSE, name, self._root, self._properties)
        for course in courses:
            self._scan(course, drive_id)
        for (
            key,
            file_id,
        ) in self._sessions.done_file_ids().items():  # searches may not show them yet
            if all(file["id"] != file_id for file in self._files.get(key, ())):
                file = self._folders.get_if_exists(file_id)
                if file is not None:
                    self._register(file, str(next(iter(file.get("parents", ())), "")))
        for files in self._files.values():
            self._trash_duplicates(files)

    def find(self, item: Item) -> Delivered | None:
        """Return the item if Drive has a complete file of it.

        A file that is in another folder of the task is moved to this course's folder.
        """
        with self._lock:
            file = next(filter(_is_complete, self._files.get(item.key, ())), None)
            if file is None:
                return None
            folder = next((str(parent) for parent in file.get("parents", ())), None)
            known_folders = {None, self._course["id"], *self._sections.values()}
        if folder is not None and folder not in known_folders:
            target = self._section_folder(item)
            moved = self._retry_policy.call(partial(self._client.move, file["id"], folder, target))
            with self._lock:
                self._files[item.key] = [moved]
        return _delivered(item, file, str(file["md5Checksum"]))

    def deliver(self, item: Item, fetched: Fetched, on_bytes: OnBytes) -> Delivered:
        """Upload and verify the file, then move incomplete files of the same item to the trash.

        `on_bytes` gets the number of bytes sent so far. If another item has the name, the name gets
        a suffix. Raises Failure.
        """
        folder, file = self._section_folder(item), fetched.file
        md5 = file_md5(file, before_block=self._retry_policy.raise_if_stopped)
        with self._lock:
            name = item_name(item, file.suffix)
            if self._names.setdefault((folder, name), item.key) != item.key:
                name = item_name(item, file.suffix, taken=True)
                self._names[folder, name] = item.key
        properties = {**self._properties, ITEM: item.key, MD5: md5}
        metadata = {"name": name, "appProperties": properties}
        request = UploadRequest(item.key, file, md5, folder, metadata)
        uploaded = self._uploads.upload(request, on_bytes)
        with self._lock:
            others = self._files.get(item.key, [])
            self._files[item.key] = [uploaded]
        self._trash_duplicates([uploaded, *others])
        return _delivered(item, {**uploaded, "name": uploaded.get("name", name)}, md5)

    @property
    def location(self) -> tuple[str, str]:
        """Return the id of the course's folder and its address for a browser."""
        folder = str(self._course.get("id", self._root))
        address = self._course.get("webViewLink")
        return folder, str(address or f"https://drive.google.com/drive/folders/{folder}")

    def _scan(self, course: File, drive_id: str | None) -> None:
        """Register all files in a course folder. Only sections of the folder in use are reused."""
        for file in self._folders.list_children(course["id"], drive_id):
            section = file.get("appProperties", {}).get(SECTION)
            if file.get("mimeType") != FOLDER:
                self._register(file, course["id"])
            elif section is not None:
                if course is self._course:
                    self._sections.setdefault(section, file["id"])
                for inner in self._folders.list_children(file["id"], drive_id):
                    self._register(inner, file["id"])

    def _register(self, file: File, folder: str) -> None:
        """Note a file and its name, if it belongs to this course of this task."""
        key = file.get("appProperties", {}).get(ITEM)
        if key is not None and has_properties(file, self._properties):
            self._files.setdefault(key, []).append(file)
            self._names.setdefault((folder, str(file["name"])), key)

    def _trash_duplicates(self, files: list[File]) -> None:
        """If one file of an item is complete, move the item's other files to the trash."""
        complete = next((file["id"] for file in files if _is_complete(file)), None)
        for other in files:
            if complete not in (None, other["id"]):
                self._uploads.trash_quietly(other["id"])

    def _section_folder(self, item: Item) -> str:
        """Return the id of the folder for the item, and create the folder if needed.

        Each section has a lock of its own: an existing section never waits for one being created.
        """
        name = section_name(item)
        if not name:
            return str(self._course["id"])
        key = hashlib.sha256(name.encode()).hexdigest()[:32]
        with self._lock:
            found = self._sections.get(key)
            section_lock = self._section_locks.setdefault(key, threading.Lock())
        if found is not None:
            return found
        with section_lock:
            with self._lock:
                found = self._sections.get(key)
            if found is None:
                properties = {**self._properties, SECTION: key}
                folder = self._folders.create(key, name, self._course["id"], properties)
                found = str(folder["id"])
                with self._lock:
                    self._sections[key] = found
            return found


def _delivered(item: Item, file: File, md5: str) -> Delivered:
    """Return the item as it is on Drive. Drive's files have an address, links between them none."""
    path = "/".join(filter(None, (section_name(item), str(file.get("name", "")))))
    url = f"https://drive.google.com/file/d/{file['id']}/view"
    return Delivered(item.item_id, int(file["size"]), md5, path=path, url=url)


def _is_complete(file: File) -> bool:
    """Return whether the file has the MD5 that was recorded when its upload started."""
    md5 = file.get("md5Checksum")
    return md5 is not None and "size" in file and md5 == file.get("appProperties", {}).get(MD5)
