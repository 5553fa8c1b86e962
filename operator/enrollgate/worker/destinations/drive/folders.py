"""Find and create the folders of a course at Drive.

Folders are found again by their `appProperties`, never by their name. Searches may lag behind what
was created. So a folder's id is saved in scratch before the folder is created, and asked for by
itself. If there are two folders of one task anyway (a pod's scratch is deleted with the pod), every
attempt uses the oldest.
"""

import threading
from dataclasses import dataclass
from functools import partial

from googleapiclient.errors import HttpError

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.destinations.drive.client import FOLDER, Client, File
from enrollgate.worker.destinations.drive.errors import NOT_FOUND
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.destinations.drive.sessions import SessionStore

# The `appProperties` of folders and files.
TASK = "enrollgateTask"
COURSE_KEY = "enrollgateCourse"
SECTION = "enrollgateSection"
ITEM = "enrollgateItem"
MD5 = "enrollgateMd5"
# The key of the course's folder in the session store.
COURSE = "course"
_ID_BATCH = 100


def has_properties(file: File, properties: dict[str, str]) -> bool:
    """Return whether a file or folder has all of these `appProperties`."""
    own = file.get("appProperties", {})
    return all(own.get(name) == value for name, value in properties.items())


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
        found = self.retry_policy.call(
            partial(self.client.get, folder_id, "id,mimeType,trashed,driveId")
        )
        if found.get("trashed"):
            raise NOT_FOUND.failure()
        if found.get("mimeType") != FOLDER:
            raise Failure(
                Reason.CONFIGURATION_ERROR,
                "ENROLLGATE_DESTINATION names a file of Google Drive, not a folder",
                remedy="Set ENROLLGATE_DESTINATION to drive:<folder id>.",
            )
        drive_id = found.get("driveId")
        return None if drive_id is None else str(drive_id)

    def list_children(self, parent: str, drive_id: str | None, condition: str = "") -> list[File]:
        """Return what a folder contains, the oldest first.

        `condition` is added to the search query, for instance ` and mimeType = '...'`.
        """
        query = f"'{parent}' in parents and trashed = false{condition}"
        found: list[File] = []
        page_token: str | None = None
        while True:
            files, page_token = self.retry_policy.call(
                partial(self.client.list_page, query, drive_id, page_token)
            )
            found += files
            if page_token is None:
                return sorted(found, key=_creation_order)

    def find_course_folders(
        self, root: str, drive_id: str | None, properties: dict[str, str]
    ) -> list[File]:
        """Return the course's folders in `root`, the oldest first.

        These are the folders that the search shows, and the one that an earlier attempt created.
        """
        condition = (
            f" and mimeType = '{FOLDER}' and appProperties has "
            f"{{ key='{TASK}' and value='{properties[TASK]}' }}"
        )
        found = self.list_children(root, drive_id, condition)
        saved_id = self.sessions.load_folder_id(COURSE)
        if saved_id is not None and all(folder["id"] != saved_id for folder in found):
            created = self.get_if_exists(saved_id)
            if created is not None and root in created.get("parents", ()):
                found.append(created)
        ours = (folder for folder in found if has_properties(folder, properties))
        return sorted(ours, key=_creation_order)

    def get_if_exists(self, file_id: str) -> File | None:
        """Return the metadata of a file or folder, or None if it is missing or in the trash."""
        return self.retry_policy.call(partial(self.client.get_if_exists, file_id))

    def create(self, key: str, name: str, parent: str, properties: dict[str, str]) -> File:
        """Create a folder once, even if the request is repeated in this attempt or the next.

        `key` names the folder in the session store, `parent` is an id.
        """
        body: File = {
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
                and parent in created.get("parents", ())
                and has_properties(created, properties)
            ):
                return created
        new_id = self.ids.take()
        self.sessions.save_folder_id(key, new_id)
        created = self.retry_policy.call(partial(self._create_or_get, {**body, "id": new_id}))
        if created is None:
            raise NOT_FOUND.failure()  # someone removed it at the same moment
        return created

    def _create_or_get(self, body: File) -> File | None:
        """Return the folder; None if its id was used by a folder that was removed."""
        try:
            return self.client.create_folder(body)
        except HttpError as error:
            if error.resp.status != 409:
                raise
            return self.client.get_if_exists(str(body["id"]))


def _creation_order(file: File) -> tuple[str, str]:
    """Return the sort key that puts the oldest file first."""
    return str(file.get("createdTime")), str(file["id"])
