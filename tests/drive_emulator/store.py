"""The emulator's files and upload sessions.

Metadata is in memory. Of the contents only size and MD5 are kept, unless a folder is given.
"""

import hashlib
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The MD5 of a file that the emulator has spoiled on request.
CORRUPT_MD5 = "0" * 32
FOLDER = "application/vnd.google-apps.folder"
# How deep folders may be nested, with the topmost one.
DEPTH = 100


class Refused(Exception):
    """Report an error of Drive: HTTP status, reason and message."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.message = status, reason, message or reason


@dataclass
class Upload:
    """Hold a resumable session. `received` is the number of bytes kept so far."""

    body: dict[str, Any]
    size: int
    fields: str | None = None
    received: int = 0
    digest: Any = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))
    file: dict[str, Any] | None = None
    expired: bool = False


class Store:
    """Hold all files and sessions. Thread-safe: there is one lock for everything.

    `role` is the account's role on the shared drive: `organizer` (manager), `fileOrganizer`
    (content manager) or `writer`. `lag`: searches do not show what is newer than so many requests.
    `accepts_trashed_parents`: a folder in the trash still takes files, which are in the trash then.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        shared_drive: bool = False,
        role: str = "fileOrganizer",
        lag: int = 0,
        accepts_trashed_parents: bool = False,
    ) -> None:
        self.lock = threading.RLock()
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, Upload] = {}
        self.generated: set[str] = set()
        self.deleted_ids: set[str] = set()  # ids of deleted files cannot be used again
        self.refuse: Refused | None = None  # the answer to every creation of a file
        self.bytes = 0
        self.role = role if shared_drive else "owner"
        self.lag = lag
        self.accepts_trashed_parents = accepts_trashed_parents
        self.requests = 0
        self._created_at_request: dict[str, int] = {}
        self._clock = 0
        self.drive_id = "shareddrive0001" if shared_drive else None
        self.root = self.insert(
            {"id": "rootfolder0001", "name": "Courses", "mimeType": FOLDER}, checked=False
        )["id"]

    def new_ids(self, count: int) -> list[str]:
        """Return new file ids."""
        with self.lock:
            ids = [f"emulated{len(self.generated) + n:08d}" for n in range(count)]
            self.generated.update(ids)
            return ids

    def insert(self, body: dict[str, Any], *, checked: bool = True) -> dict[str, Any]:
        """Create a file or folder. `checked=False` skips the checks of a client's request."""
        with self.lock:
            file_id = body.get("id") or self.new_ids(1)[0]
            if checked:
                self.check_new(body)
            self._clock += 1
            file = {"trashed": False, "mimeType": "application/octet-stream", **body, "id": file_id}
            file["kind"] = "drive#file"
            file["createdTime"] = f"2026-01-01T00:00:00.{self._clock:08d}Z"
            file["webViewLink"] = f"https://drive.google.com/drive/folders/{file_id}"
            if self.drive_id:
                file["driveId"] = self.drive_id
            self.files[file_id] = file
            self._created_at_request[file_id] = self.requests
            return file

    def check_new(self, body: dict[str, Any]) -> None:
        """Raise Refused if Drive would not create this file."""
        with self.lock:
            if "id" in body and body["id"] not in self.generated:
                raise Refused(400, "invalid", "The provided file ID is not usable.")
            if body.get("id") in self.files.keys() | self.deleted_ids:
                raise Refused(409, "fileIdInUse", "A file already exists with the provided ID.")
            parents = body.get("parents", ())
            for parent in parents:
                if parent not in self.files or (
                    self._is_trashed(parent) and not self.accepts_trashed_parents
                ):
                    raise Refused(404, "notFound", f"File not found: {parent}.")
                if self.files[parent]["mimeType"] != FOLDER:
                    message = "The specified parent is not a folder."
                    raise Refused(403, "parentNotAFolder", message)
            if len(parents) > 1:
                message = "A shared drive item must have exactly one parent."
                raise Refused(403, "teamDrivesParentLimit", message)
            if body.get("mimeType") == FOLDER and self._depth(next(iter(parents), "")) >= DEPTH:
                self._refuse_depth()
            for key, value in body.get("appProperties", {}).items():
                if len(key.encode()) + len(value.encode()) > 124:
                    raise Refused(400, "invalid", "a property has at most 124 bytes")
            if self.refuse and body.get("mimeType") != FOLDER:
                raise self.refuse

    def get(self, file_id: str) -> dict[str, Any]:
        """Return a file's metadata. Raises Refused (404)."""
        with self.lock:
            if file_id not in self.files:
                raise Refused(404, "notFound", f"File not found: {file_id}.")
            return {**self.files[file_id], "trashed": self._is_trashed(file_id)}

    def lineage(self, file_id: str) -> list[dict[str, Any]]:
        """Return the file and the folders above it, the topmost one last."""
        found: list[dict[str, Any]] = []
        while file_id in self.files:
            found.append(self.files[file_id])
            file_id = next(iter(found[-1].get("parents", ())), "")
        return found

    def _is_trashed(self, file_id: str) -> bool:
        """Say whether the file, or a folder above it, is in the trash."""
        return any(file["trashed"] for file in self.lineage(file_id))

    def _depth(self, folder_id: str) -> int:
        return len(self.lineage(folder_id))

    def _refuse_depth(self) -> None:
        if self.drive_id:
            message = "The shared drive hierarchy depth will exceed the limit."
            raise Refused(403, "teamDriveHierarchyTooDeep", message)
        message = "Your My Drive can't contain more than 100 levels of folders."
        raise Refused(403, "myDriveHierarchyDepthLimitExceeded", message)

    def delete(self, file_id: str) -> None:
        """Delete a file for good. On a shared drive only managers may do that."""
        with self.lock:
            self.get(file_id)
            self._allow("owner", "organizer")
            del self.files[file_id]
            self.deleted_ids.add(file_id)

    def update(
        self, file_id: str, body: dict[str, Any], add: str | None = None, remove: str | None = None
    ) -> dict[str, Any]:
        """Trash or move a file. Writers may not do that on a shared drive."""
        with self.lock:
            self.get(file_id)
            file = self.files[file_id]
            self._allow("owner", "organizer", "fileOrganizer")
            if set(body) - {"trashed", "name", "appProperties"}:
                raise Refused(400, "invalid", "this cannot be changed here")
            if "appProperties" in body:
                merged = {**file.get("appProperties", {}), **body["appProperties"]}
                kept = {name: value for name, value in merged.items() if value is not None}
                body = {**body, "appProperties": kept}
            if add is not None:
                self.get(add)
                if remove not in file.get("parents", ()):
                    raise Refused(400, "invalid", "the file is not in that folder")
                file["parents"] = [add]
            file |= body
            return self.get(file_id)

    def _allow(self, *roles: str) -> None:
        if self.role not in roles:
            message = "The user does not have sufficient permissions for this file."
            raise Refused(403, "insufficientFilePermissions", message)

    def find(self, query: str) -> list[dict[str, Any]]:
        """Answer `files.list`. Only the forms of query that the client uses are accepted."""
        found = [
            self.get(file["id"])
            for file in self._in_order()
            if self.requests - self._created_at_request[file["id"]] >= self.lag
        ]
        conditions = query.split(" and appProperties has ", 1)[0]
        for part in conditions.split(" and ") if conditions else ():
            if match := re.fullmatch(r"'([^']+)' in parents", part):
                self.get(match[1])
                found = [file for file in found if match[1] in file.get("parents", ())]
            elif part == "trashed = false":
                found = [file for file in found if not self._is_trashed(file["id"])]
            elif match := re.fullmatch(r"mimeType = '([^']+)'", part):
                found = [file for file in found if file["mimeType"] == match[1]]
            else:
                raise Refused(400, "invalid", f"Invalid Value: {part}")
        if match := re.search(r"appProperties has \{ key='([^']+)' and value='([^']+)' \}$", query):
            found = [
                file for file in found if file.get("appProperties", {}).get(match[1]) == match[2]
            ]
        return found

    def _in_order(self) -> list[dict[str, Any]]:
        with self.lock:
            return sorted(self.files.values(), key=lambda file: file["createdTime"])

    def begin(self, body: dict[str, Any], size: int, fields: str | None = None) -> str:
        """Open a resumable session and return its name. `fields` selects those of the answer."""
        with self.lock:
            self.check_new(body)
            name = f"session{len(self.uploads):06d}"
            self.uploads[name] = Upload(body, size, fields)
            return name

    def drop(self, name: str) -> None:
        """Delete what was kept of an unfinished upload."""
        with self.lock:
            upload = self.uploads[name]
            if upload.file is None:
                upload.received, upload.digest = 0, hashlib.md5(usedforsecurity=False)

    def append(self, name: str, start: int, data: bytes, *, corrupt: bool = False) -> Upload:
        """Take a chunk, and skip the bytes that were received before."""
        with self.lock:
            upload = self.uploads.get(name)
            if upload is None or upload.expired:
                raise Refused(404, "notFound")
            if upload.file is not None:
                return upload
            if start > upload.received:
                raise Refused(400, "invalid", "the chunk starts after the received bytes")
            new = data[upload.received - start :]
            upload.digest.update(new)
            if self.folder is not None:
                with (self.folder / name).open("ab") as stream:
                    stream.write(new)
            upload.received += len(new)
            self.bytes += len(data)
            if upload.received == upload.size:
                md5 = CORRUPT_MD5 if corrupt else upload.digest.hexdigest()
                upload.file = self.insert(
                    {**upload.body, "size": str(upload.size), "md5Checksum": md5}
                )
            return upload

    def media(self) -> list[dict[str, Any]]:
        """Return all files that are not folders and not in the trash."""
        return [
            file
            for file in self._in_order()
            if file["mimeType"] != FOLDER and not self._is_trashed(file["id"])
        ]
