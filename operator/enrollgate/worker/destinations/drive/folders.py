"""The course's folders at Drive: found again by what they carry in `appProperties`, made if they are not there.

Searches may lag behind what was created; if that ever leaves two folders or files of one key, all tries use the oldest.
"""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from googleapiclient.errors import HttpError

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.destinations.drive.client import FOLDER, Client
from enrollgate.worker.destinations.drive.errors import NOT_FOUND, failure_by
from enrollgate.worker.destinations.drive.patience import Patience
from enrollgate.worker.destinations.drive.uploads import Ids

TASK, COURSE_KEY, SECTION, ITEM, MD5 = (
    "enrollgateTask",
    "enrollgateCourse",
    "enrollgateSection",
    "enrollgateItem",
    "enrollgateMd5",
)
"""The `appProperties` by which folders and files are known again."""


def item_key(task_id: int, item_id: str) -> str:
    """What a file carries for its item: whatever the item is called, 32 harmless characters."""
    return hashlib.sha256(f"{task_id}\n{item_id}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Folders:
    """Finds and makes folders. Safe for several threads."""

    client: Client
    patience: Patience
    ids: Ids
    stop: threading.Event

    def root(self, folder_id: str) -> str | None:
        """The id of the shared drive that the given folder is on, None for My Drive. Raises Failure if it is no folder."""
        request = self.client.get(folder_id, "id,mimeType,trashed,driveId")
        found = self.patience.call(request.execute, self.stop)
        if found.get("trashed"):
            raise failure_by(NOT_FOUND)
        if found.get("mimeType") != FOLDER:
            raise Failure(
                Reason.CONFIGURATION_ERROR, "ENROLLGATE_DESTINATION names a file of Google Drive, not a folder"
            )
        drive_id = found.get("driveId")
        return None if drive_id is None else str(drive_id)

    def children(self, parent: str, drive_id: str | None, also: str = "") -> Iterator[dict[str, Any]]:
        """What lies in a folder, the oldest first, page by page."""
        query = f"'{parent}' in parents and trashed = false{also}"
        found: list[dict[str, Any]] = []
        page: str | None = None
        while True:
            answer = self.patience.call(self.client.list(query, drive_id, page).execute, self.stop)
            found += answer.get("files", ())
            page = answer.get("nextPageToken")
            if not page:
                break
        yield from sorted(found, key=lambda file: (str(file.get("createdTime")), str(file["id"])))

    def find_course(self, root: str, drive_id: str | None, properties: dict[str, str]) -> dict[str, Any] | None:
        """The folder of the task's course, the oldest if there are several. A corrected course URL is another course."""
        own = f" and mimeType = '{FOLDER}' and appProperties has {{ key='{TASK}' and value='{properties[TASK]}' }}"
        found = self.children(root, drive_id, own)
        return next(
            (file for file in found if file.get("appProperties", {}).get(COURSE_KEY) == properties[COURSE_KEY]), None
        )

    def make(self, name: str, parent: str, properties: dict[str, str]) -> dict[str, Any]:
        """A new folder: once, however often the request must be repeated."""
        body = {
            "id": self.ids.take(self.stop),
            "name": name,
            "mimeType": FOLDER,
            "parents": [parent],
            "appProperties": properties,
        }

        def create() -> dict[str, Any]:
            try:
                made: dict[str, Any] = self.client.create(body).execute()
            except HttpError as error:
                if error.resp.status != 409:
                    raise
                made = self.client.get(str(body["id"])).execute()
            return made

        return self.patience.call(create, self.stop)
