"""The destination `drive:<folder id>`.

    <folder>/<course title> [task-7]/     appProperties: enrollgateTask, enrollgateCourse
        01 - <section>/                   and enrollgateSection
            01 - <lecture>.mp4            and enrollgateItem, enrollgateMd5, and what the
                                          site said of it: enrollgateLength, -Etag, -Modified

`Drive.open` lists what is there, and keeps it in memory. An item is there if Drive's MD5 of its
file equals enrollgateMd5, which was written when the upload started. If an item has several such
files, the newest counts and the others move to the trash: all workers of a task decide alike.
"""

import contextlib
import hashlib
import threading
from collections.abc import Sequence
from functools import partial

from enrollgate.common.files import file_md5
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import LeftOutItem
from enrollgate.worker.course import Delivered, Fetched, Item, OnBytes, Validators
from enrollgate.worker.destinations.drive.client import SOCKET_TIMEOUT, Client, Metadata
from enrollgate.worker.destinations.drive.credentials import load_credentials
from enrollgate.worker.destinations.drive.errors import NOT_FOUND, VANISHED
from enrollgate.worker.destinations.drive.files import File, media_type
from enrollgate.worker.destinations.drive.folders import (
    COURSE,
    COURSE_KEY,
    ETAG,
    ITEM,
    LENGTH,
    MD5,
    MODIFIED,
    SECTION,
    TASK,
    Folders,
    IdPool,
    has_properties,
    trash_quietly,
)
from enrollgate.worker.destinations.drive.retry import FEW_ATTEMPTS, RetryPolicy
from enrollgate.worker.destinations.drive.sessions import SessionStore
from enrollgate.worker.destinations.drive.uploads import UploadRequest, Uploads
from enrollgate.worker.identity import course_key
from enrollgate.worker.names import course_name, item_name, renumber, section_name
from enrollgate.worker.order import WorkOrder

# Bytes of the name and the value of a property, together.
_MAX_PROPERTY = 124


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
        self._drive_id: str | None = None
        # The `appProperties` of everything that belongs to this course of this task.
        self._properties = {TASK: str(task_id), COURSE_KEY: course}
        self._course: File | None = None
        # The ids of the sections' folders, by section key.
        self._sections: dict[str, str] = {}
        # A lock for each section, so that its folder is created once.
        self._section_locks: dict[str, threading.Lock] = {}
        # The files that are there, by item key.
        self._files: dict[str, list[File]] = {}
        # The keys that this attempt has looked for. The files of all others may be adopted.
        self._listed: set[str] = set()
        # The ids of the files that `find` and `deliver` have returned, by item key.
        self._counted: dict[str, str] = {}
        # The key of the item that uses a name, by folder id and name.
        self._names: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._reopening = threading.Lock()

    def open(self, title: str) -> None:
        """Find or create the folder of the course, and list what is in it.

        An existing folder keeps its name, even if `title` has changed.
        """
        self._drive_id = self._folders.find_shared_drive(self._root)
        courses = self._find_courses()
        if not courses:
            name = course_name(title, self._task_id)
            courses = [
                self._folders.create(COURSE, name, self._root, self._drive_id, self._properties)
            ]
        self._use(courses)

    def find(self, item: Item) -> Delivered | None:
        """Return the item if Drive has a complete file of it.

        If the item's number has changed, the file is renamed.
        """
        with self._lock:
            self._listed.add(item.key)
            files = self._files.get(item.key, [])
        if files and not any(map(_is_complete, files)):
            # A file without MD5 may be complete: Drive computes it after the upload. If it stays
            # away, the item is delivered again.
            with contextlib.suppress(Failure):
                files = [self._uploads.complete(file) for file in files]
            self._retry_policy.raise_if_stopped()
        newest = max(filter(_is_complete, files), key=_age, default=None)
        if newest is None:
            return None
        newest = self._renumber(item, newest)
        with self._lock:
            self._counted[item.key] = newest.file_id
        return _delivered(item, newest)

    def _renumber(self, item: Item, file: File) -> File:
        """Give the item's file its number of today. If that fails, it keeps its name."""
        name, source = renumber(file.name, item), next(iter(file.parents), "")
        try:
            folder = self._section_folder(item)
            if not source or (name, source) == (file.name, folder):
                return file
            with self._lock:
                if self._names.setdefault((folder, name), item.key) != item.key:
                    return file
            renamed = self._retry_policy.with_few_attempts().call(
                partial(self._client.update, file.file_id, {"name": name}, source, folder)
            )
        except Failure:
            self._retry_policy.raise_if_stopped()
            return file
        with self._lock:
            others = [each for each in self._files.get(item.key, ()) if each is not file]
            self._files[item.key] = [*others, renamed]
        return renamed

    def deliver(self, item: Item, fetched: Fetched, on_bytes: OnBytes) -> Delivered:
        """Upload and verify the file, then move other files of the same item to the trash.

        `on_bytes` gets the number of bytes sent so far. If another item has the name, the name gets
        a suffix. Raises Failure.
        """
        before_block = self._retry_policy.raise_if_stopped
        md5 = fetched.md5 or file_md5(fetched.file, before_block=before_block)
        course, folder = self._course, ""
        try:
            folder = self._section_folder(item)
            uploaded = self._adopt(item, fetched, md5, folder) or self._upload(
                item, fetched, md5, folder, on_bytes
            )
        except Failure as failure:
            if failure.reason is not Reason.DESTINATION_NOT_FOUND or not self._reopen(course):
                raise
            merged = self._section_folder(item)
            if merged == folder:
                raise
            uploaded = self._upload(item, fetched, md5, merged, on_bytes)
        with self._lock:
            known = self._files.get(item.key, [])
        # What another worker delivers meanwhile is found by `finish`.
        copies = {each.file_id: each for each in (*known, uploaded)}
        newest = self._trash_older(list(copies.values())) or uploaded
        with self._lock:
            self._files[item.key] = [newest]
            self._counted[item.key] = newest.file_id
        return _delivered(item, newest)

    def finish(self, left_out: Sequence[LeftOutItem] = ()) -> None:  # noqa: ARG002 -- no manifest
        """Merge what another worker of the task delivered, and check that all items are there.

        Raises Failure if a file that was found or delivered is gone.
        """
        courses = self._find_courses()
        own = self._course
        for attempt in range(1, FEW_ATTEMPTS):
            if own is None or any(course.file_id == own.file_id for course in courses):
                break
            self._retry_policy.pause(attempt)  # the search lags: another folder may be hidden
            courses = self._find_courses()
        if not courses:
            raise NOT_FOUND.failure()
        self._use(courses)
        for key, file_id in self._counted.items():
            if not any(map(_is_complete, self._files.get(key, ()))):
                file = self._folders.get_if_exists(file_id)
                if file is None or not _is_complete(self._uploads.complete(file)):
                    raise VANISHED.failure()

    def _find_courses(self) -> list[File]:
        return self._folders.find(COURSE, self._root, self._drive_id, self._properties)

    def _reopen(self, course: File | None) -> bool:
        """Use the folder that another worker has merged `course` into, if there is one.

        Called when the folder of an upload is gone. Returns False if no folder is left.
        """
        with self._reopening:
            if self._course is course:
                courses = self._find_courses()
                if courses:
                    self._use(courses)
                return bool(courses)
        return True

    def _use(self, courses: list[File]) -> None:
        """Use the oldest of the course's folders, and note what is in it."""
        contents = self._folders.gather(courses, self._drive_id, self._properties)
        self._sessions.save_folder_id(COURSE, courses[0].file_id)
        files = {file.file_id: file for file in contents.files}
        for file_id in self._sessions.done_file_ids().values():
            if file_id not in files:  # searches may not show it yet
                file = self._folders.get_if_exists(file_id)
                if file is not None and has_properties(file, self._properties):
                    files[file_id] = file
        found: dict[str, list[File]] = {}
        for file in files.values():
            found.setdefault(file.properties.get(ITEM, ""), []).append(file)
        with self._lock:
            self._course, self._sections, self._files = courses[0], contents.sections, found
            for file in files.values():
                parent = next(iter(file.parents), courses[0].file_id)
                self._names.setdefault((parent, file.name), file.properties.get(ITEM, ""))
        for copies in found.values():
            self._trash_older(copies)

    def _upload(
        self, item: Item, fetched: Fetched, md5: str, folder: str, on_bytes: OnBytes
    ) -> File:
        file = fetched.file
        name, properties = self._describe(item, fetched, md5, folder)
        metadata: Metadata = {"name": name, "appProperties": properties}
        request = UploadRequest(item.key, file, md5, folder, metadata, media_type(file))
        return self._uploads.upload(request, on_bytes)

    def _describe(
        self, item: Item, fetched: Fetched, md5: str, folder: str
    ) -> tuple[str, dict[str, str]]:
        """Return the name and the properties of the item's file in this folder."""
        with self._lock:
            name = item_name(item, fetched.suffix)
            if self._names.setdefault((folder, name), item.key) != item.key:
                name = item_name(item, fetched.suffix, taken=True)
                self._names[folder, name] = item.key
        known = fetched.validators
        length = "" if known.length is None else str(known.length)
        values = {LENGTH: length, ETAG: known.etag, MODIFIED: known.last_modified}
        # Drive refuses more than 124 bytes of a name and its value. See
        # https://developers.google.com/workspace/drive/api/guides/properties.
        validators = {
            key: value
            for key, value in values.items()
            if value and len((key + value).encode()) <= _MAX_PROPERTY
        }
        properties = {**self._properties, ITEM: item.key, MD5: md5, **validators}
        return name, properties

    def _adopt(self, item: Item, fetched: Fetched, md5: str, folder: str) -> File | None:
        """Give the item the file that has its bytes and belongs to no listed item.

        Returns None if there is none, or if Drive refuses the change.
        """
        with self._lock:
            self._listed.add(item.key)
            keys = sorted(self._files.keys() - self._listed)
            found = [
                (key, file)
                for key in (item.key, *keys)
                for file in self._files.get(key, ())
                if _is_complete(file) and file.md5 == md5
            ][:1]
            for key, file in found:
                others = [each for each in self._files[key] if each is not file]
                self._files[key] = others
        for _, file in found:
            name, properties = self._describe(item, fetched, md5, folder)
            removed = dict.fromkeys((LENGTH, ETAG, MODIFIED))
            metadata: Metadata = {"name": name, "appProperties": {**removed, **properties}}
            source = next(iter(file.parents), folder)
            try:
                return self._retry_policy.call(
                    partial(self._client.update, file.file_id, metadata, source, folder)
                )
            except Failure:
                self._retry_policy.raise_if_stopped()
        return None

    def _trash_older(self, copies: list[File]) -> File | None:
        """Keep the newest complete file of an item, and return it.

        All others move to the trash, but for a younger one whose MD5 is not known yet.
        """
        newest = max(filter(_is_complete, copies), key=_age, default=None)
        for other in copies:
            if newest is None or other.file_id == newest.file_id:
                continue
            if other.md5 is not None or other.age < newest.age:
                trash_quietly(self._client, self._retry_policy, other.file_id)
        return newest

    @property
    def location(self) -> tuple[str, str]:
        """Return the id of the course's folder and its address for a browser."""
        course = self._course
        folder = self._root if course is None else course.file_id
        address = course.url if course is not None else None
        return folder, address or f"https://drive.google.com/drive/folders/{folder}"

    def _section_folder(self, item: Item) -> str:
        """Return the id of the folder for the item, and create the folder if needed.

        Each section has a lock of its own: an existing section never waits for one being created.
        """
        if self._course is None:
            raise AssertionError("open() must be called first")
        name, course = section_name(item), self._course.file_id
        if not name:
            return course
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
                folder = self._folders.create(key, name, course, self._drive_id, properties)
                found = folder.file_id
                with self._lock:
                    self._sections[key] = found
            return found


def _delivered(item: Item, file: File) -> Delivered:
    """Return the item as it is on Drive. Drive's files have an address, links between them none."""
    path = "/".join(filter(None, (section_name(item), file.name)))
    url = f"https://drive.google.com/file/d/{file.file_id}/view"
    length = file.properties.get(LENGTH, "")
    validators = Validators(
        int(length) if length.isascii() and length.isdigit() else None,
        file.properties.get(ETAG, ""),
        file.properties.get(MODIFIED, ""),
    )
    return Delivered(item.item_id, file.size or 0, file.md5 or "", validators, path, url)


def _is_complete(file: File) -> bool:
    """Return whether the file has the MD5 that was recorded when its upload started."""
    return file.md5 is not None and file.size is not None and file.md5 == file.properties.get(MD5)


def _age(file: File) -> tuple[str, str]:
    return file.age
