"""The course's folders at Drive: found again by what they carry in `appProperties`, made if they are not there.

Searches may lag behind what was created. So a folder's id is kept in scratch before it is made, and asked for by itself; and if
there ever are two folders of one task (a pod's scratch goes with the pod), all tries keep to the oldest.
"""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from googleapiclient.errors import HttpError

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.destinations.drive.client import FOLDER, Client, File
from enrollgate.worker.destinations.drive.errors import NOT_FOUND, failure_by
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.destinations.drive.sessions import SessionStore
from enrollgate.worker.destinations.drive.uploads import Ids

TASK, COURSE_KEY, SECTION, ITEM, MD5 = (
    "enrollgateTask",
    "enrollgateCourse",
    "enrollgateSection",
    "enrollgateItem",
    "enrollgateMd5",
)
"""The `appProperties` by which folders and files are known again."""
COURSE = "course"
"""The key of the course's folder in scratch."""


def item_key(task_id: int, item_id: str) -> str:
    """What a file carries for its item: whatever the item is called, 32 harmless characters."""
    return hashlib.sha256(f"{task_id}\n{item_id}".encode()).hexdigest()[:32]


def carries(file: File, properties: dict[str, str]) -> bool:
    """Whether a file or folder has all of these `appProperties`."""
    own = file.get("appProperties", {})
    return all(own.get(name) == value for name, value in properties.items())


def age(file: File) -> tuple[str, str]:
    """What files and folders are ordered by, the oldest first."""
    return str(file.get("createdTime")), str(file["id"])


@dataclass(frozen=True)
class Folders:
    """Finds and makes folders. Safe for several threads."""

    client: Client
    retry_policy: RetryPolicy
    ids: Ids
    sessions: SessionStore
    stop: threading.Event

    def root(self, folder_id: str) -> str | None:
        """The id of the shared drive that the given folder is on, None for My Drive. Raises Failure if it is no folder."""
        found = self.retry_policy.call(
            partial(self.client.get, folder_id, "id,mimeType,trashed,driveId"), self.stop
        )
        if found.get("trashed"):
            raise failure_by(NOT_FOUND)
        if found.get("mimeType") != FOLDER:
            raise Failure(
                Reason.CONFIGURATION_ERROR,
                "ENROLLGATE_DESTINATION names a file of Google Drive, not a folder",
            )
        drive_id = found.get("driveId")
        return None if drive_id is None else str(drive_id)

    def children(self, parent: str, drive_id: str | None, also: str = "") -> Iterator[File]:
        """What lies in a folder, the oldest first, page by page."""
        query = f"'{parent}' in parents and trashed = false{also}"
        found: list[File] = []
        page: str | None = None
        while True:
            files, page = self.retry_policy.call(
                partial(self.client.list_page, query, drive_id, page), self.stop
            )
            found += files
            if page is None:
                break
        yield from sorted(found, key=age)

    def courses(self, root: str, drive_id: str | None, properties: dict[str, str]) -> list[File]:
        """The course's folders, the oldest first: those that the search shows, and the one that an earlier try made."""
        own = f" and mimeType = '{FOLDER}' and appProperties has {{ key='{TASK}' and value='{properties[TASK]}' }}"
        found = list(self.children(root, drive_id, own))
        kept = self.sessions.folder(COURSE)
        if kept is not None and all(folder["id"] != kept for folder in found):
            made = self.still_there(kept)
            if made is not None and root in made.get("parents", ()):
                found.append(made)
        return sorted((folder for folder in found if carries(folder, properties)), key=age)

    def still_there(self, file_id: str) -> File | None:
        """The file or folder, None if it was removed."""
        return self.retry_policy.call(partial(self.client.find, file_id), self.stop)

    def make(self, key: str, name: str, parent: str, properties: dict[str, str]) -> File:
        """A new folder: once, however often the request must be repeated, in this try or the next."""
        body: File = {
            "name": name,
            "mimeType": FOLDER,
            "parents": [parent],
            "appProperties": properties,
        }
        kept = self.sessions.folder(key)
        if kept is not None:
            made = self.retry_policy.call(partial(self._create, {**body, "id": kept}), self.stop)
            if made is not None and parent in made.get("parents", ()) and carries(made, properties):
                return made
        new = self.ids.take(self.stop)
        self.sessions.keep_folder(key, new)
        made = self.retry_policy.call(partial(self._create, {**body, "id": new}), self.stop)
        if made is None:
            raise failure_by(NOT_FOUND)  # someone removed it in the same moment
        return made

    def _create(self, body: File) -> File | None:
        """The folder; None if its id is used up, by one that was removed."""
        try:
            return self.client.create_folder(body)
        except HttpError as error:
            if error.resp.status != 409:
                raise
            return self.client.find(str(body["id"]))
