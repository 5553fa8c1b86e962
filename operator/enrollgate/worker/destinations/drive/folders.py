"""Find and create the folders of a course at Drive.

Folders are found again by their `appProperties`, never by their name. Searches may lag behind what
was created. So a folder's id is saved in scratch before the folder is created, and asked for by
itself.

Two workers of one task may create the same folder at once. So each lists the folders after it has
created one: everybody uses the oldest, and moves its own younger folder to the trash. If the search
showed it too late, `gather` merges the folders at the end of the run, or at the start of the next.
"""

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from googleapiclient.errors import HttpError

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.destinations.drive.client import Client, Metadata
from enrollgate.worker.destinations.drive.errors import NOT_FOUND, UNREADABLE
from enrollgate.worker.destinations.drive.files import FOLDER, SHORTCUT, File
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.destinations.drive.sessions import SessionStore

# The `appProperties` of folders and files.
TASK = "enrollgateTask"
COURSE_KEY = "enrollgateCourse"
SECTION = "enrollgateSection"
ITEM = "enrollgateItem"
MD5 = "enrollgateMd5"
# What the site said of the version that was delivered.
LENGTH = "enrollgateLength"
ETAG = "enrollgateEtag"
MODIFIED = "enrollgateModified"
# The key of the course's folder in the session store.
COURSE = "course"
_ID_BATCH = 100
# Pages of 1000 files. Drive allows 500,000 files in a folder.
_MAX_PAGES = 1000


def has_properties(file: File, properties: Mapping[str, str]) -> bool:
    """Return whether a file or folder has all of these `appProperties`."""
    return all(file.properties.get(name) == value for name, value in properties.items())


class IdPool:
    """Hand out ids for files that do not exist yet, fetched from Drive in batches. Thread-safe."""

    def __init__(self, client: Client, retry_policy: RetryPolicy) -> None:
        self._client = client
        self._retry_policy = retry_policy
        self._ids: list[str] = []
        self._lock = threading.Lock()

    def take(self) -> str:
        """Return an id that nobody else has. Raises Failure."""
        with self._lock:
            if not self._ids:
                self._ids = self._retry_policy.call(partial(self._client.generate_ids, _ID_BATCH))
            return self._ids.pop()


@dataclass(frozen=True)
class Folders:
    """Find, list and create folders. Thread-safe. All methods raise Failure."""

    client: Client
    retry_policy: RetryPolicy
    ids: IdPool
    sessions: SessionStore

    def find_shared_drive(self, folder_id: str) -> str | None:
        """Return the id of the shared drive that has the folder, or None if it is in My Drive.

        Raises Failure if the id is not that of a folder.
        """
        found = self.retry_policy.call(partial(self.client.get, folder_id))
        if found.trashed:
            raise NOT_FOUND.failure()
        if found.mime_type == SHORTCUT:
            raise Failure(
                Reason.CONFIGURATION_ERROR,
                "ENROLLGATE_DESTINATION names a shortcut of Google Drive, not a folder",
                remedy=f"Set ENROLLGATE_DESTINATION to drive:{found.target or '<folder id>'}, "
                "which the shortcut points to.",
            )
        if found.mime_type != FOLDER:
            raise Failure(
                Reason.CONFIGURATION_ERROR,
                "ENROLLGATE_DESTINATION names a file of Google Drive, not a folder",
                remedy="Set ENROLLGATE_DESTINATION to drive:<folder id>.",
            )
        return found.drive_id

    def list_children(self, parent: str, drive_id: str | None, condition: str = "") -> list[File]:
        """Return what a folder contains, the oldest first.

        `condition` is added to the search query, for instance ` and mimeType = '...'`.
        """
        query = f"'{parent}' in parents and trashed = false{condition}"
        found: list[File] = []
        page_token: str | None = None
        for _ in range(_MAX_PAGES):
            files, page_token = self.retry_policy.call(
                partial(self.client.list_page, query, drive_id, page_token)
            )
            found += files
            if page_token is None:
                return sorted(found, key=_age)
        raise UNREADABLE.failure()

    def find(
        self, key: str, parent: str, drive_id: str | None, properties: Mapping[str, str]
    ) -> list[File]:
        """Return the folders in `parent` that have these properties, the oldest first.

        These are the folders that the search shows, and the one that an earlier attempt created.
        `key` names the folder in the session store.
        """
        condition = (
            f" and mimeType = '{FOLDER}' and appProperties has "
            f"{{ key='{TASK}' and value='{properties[TASK]}' }}"
        )
        found = self.list_children(parent, drive_id, condition)
        saved_id = self.sessions.load_folder_id(key)
        if saved_id is not None and all(folder.file_id != saved_id for folder in found):
            created = self.get_if_exists(saved_id)
            if created is not None and parent in created.parents:
                found.append(created)
        ours = (folder for folder in found if has_properties(folder, properties))
        return sorted(ours, key=_age)

    def get_if_exists(self, file_id: str) -> File | None:
        """Return the metadata of a file or folder, or None if it is missing or in the trash."""
        return self.retry_policy.call(partial(self.client.get_if_exists, file_id))

    def create(
        self,
        key: str,
        name: str,
        parent: str,
        drive_id: str | None,
        properties: Mapping[str, str],
    ) -> File:
        """Create a folder once, even if the request is repeated in this attempt or the next.

        `key` names the folder in the session store, `parent` is an id. If another worker has
        created the folder before, its folder is returned.
        """
        body: Metadata = {
            "name": name,
            "mimeType": FOLDER,
            "parents": [parent],
            "appProperties": properties,
        }
        saved_id = self.sessions.load_folder_id(key)
        if saved_id is not None:
            created = self.retry_policy.call(partial(self._create_or_get, {**body, "id": saved_id}))
            if (
                created is not None
                and parent in created.parents
                and has_properties(created, properties)
            ):
                return created
        new_id = self.ids.take()
        self.sessions.save_folder_id(key, new_id)
        created = self.retry_policy.call(partial(self._create_or_get, {**body, "id": new_id}))
        if created is None:
            raise NOT_FOUND.failure()  # someone removed it, or `parent`, at the same moment
        oldest = min([created, *self.find(key, parent, drive_id, properties)], key=_age)
        if oldest.file_id != created.file_id:
            self.sessions.save_folder_id(key, oldest.file_id)
            trash_quietly(self.client, self.retry_policy, created.file_id)
        return oldest

    def _create_or_get(self, body: Metadata) -> File | None:
        """Return the folder; None if its id was used by a folder that was removed."""
        try:
            created = self.client.create_folder(body)
        except HttpError as error:
            if error.resp.status != 409:
                raise
            return self.client.get_if_exists(str(body["id"]))
        return None if created.trashed else created

    def gather(
        self, courses: list[File], drive_id: str | None, properties: Mapping[str, str]
    ) -> "Contents":
        """List what is in the course's folders, and merge them into the first.

        `courses` are the folders of one course, the oldest first. Files and sections of the others
        move to the first; sections of the same key are merged as well. A folder that is empty then
        moves to the trash. What is not ours stays where it is.
        """
        home = courses[0].file_id
        contents = Contents({}, [])
        for course in courses:
            for child in self.list_children(course.file_id, drive_id):
                if not has_properties(child, properties):
                    continue
                section = child.properties.get(SECTION)
                if ITEM in child.properties:
                    contents.files.append(self._move_quietly(child, course.file_id, home))
                elif child.mime_type == FOLDER and section is not None:
                    target = contents.sections.setdefault(section, child.file_id)
                    for file in self.list_children(child.file_id, drive_id):
                        if ITEM in file.properties and has_properties(file, properties):
                            moved = self._move_quietly(file, child.file_id, target)
                            contents.files.append(moved)
                    if target == child.file_id:
                        self._move_quietly(child, course.file_id, home)
                    else:
                        self._trash_if_empty(child.file_id, drive_id)
            if course.file_id != home:
                self._trash_if_empty(course.file_id, drive_id)
        return contents

    def _move_quietly(self, file: File, source: str, target: str) -> File:
        """Move a file to another folder. Another worker may do the same: a failure is ignored."""
        if source == target:
            return file
        try:
            return self.retry_policy.with_few_attempts().call(
                partial(self.client.move, file.file_id, source, target)
            )
        except Failure:
            return file

    def _trash_if_empty(self, folder_id: str, drive_id: str | None) -> None:
        if not self.list_children(folder_id, drive_id):
            trash_quietly(self.client, self.retry_policy, folder_id)


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a course's folder: the ids of the sections' folders by section key, all files."""

    sections: dict[str, str]
    files: list[File]


def trash_quietly(client: Client, retry_policy: RetryPolicy, file_id: str) -> None:
    """Move a file or folder that is in the way to the trash, and ignore a failure.

    Nothing that was delivered depends on it: the next attempt tries again in `Drive.open`.
    """
    with contextlib.suppress(Failure):
        retry_policy.with_few_attempts().call(partial(client.trash, file_id))


def _age(file: File) -> tuple[str, str]:
    return file.age
