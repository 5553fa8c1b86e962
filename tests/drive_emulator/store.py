"""The files of the emulator: metadata in memory, contents as size and MD5 only (or in a folder, if one is given)."""

import hashlib
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = "application/vnd.google-apps.folder"


class Refused(Exception):
    """An error as Drive says it."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.message = status, reason, message or reason


@dataclass
class Upload:
    """A resumable session."""

    body: dict[str, Any]
    size: int
    got: int = 0
    digest: Any = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))
    file: dict[str, Any] | None = None
    gone: bool = False


class Store:
    """All files and sessions. Safe for several threads: one big lock."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        shared_drive: bool = False,
        role: str = "fileOrganizer",
        lag: int = 0,
    ) -> None:
        """`role`: the account's on the shared drive (`organizer`: manager; `fileOrganizer`: content manager; `writer`).
        `lag`: searches do not show what is newer than so many requests."""
        self.lock = threading.RLock()
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, Upload] = {}
        self.generated: set[str] = set()
        self.used: set[str] = set()
        """Ids of files that were deleted for good: they are not given a second time."""
        self.refuse: Refused | None = None
        """What every creation of a file is refused with."""
        self.bytes = 0
        self.role = role if shared_drive else "owner"
        self.lag = lag
        self.requests = 0
        self._born: dict[str, int] = {}
        self._clock = 0
        self.drive_id = "shareddrive0001" if shared_drive else None
        self.root = self.insert(
            {"id": "rootfolder0001", "name": "Courses", "mimeType": FOLDER}, ours=True
        )["id"]

    def new_ids(self, count: int) -> list[str]:
        with self.lock:
            ids = [f"emulated{len(self.generated) + n:08d}" for n in range(count)]
            self.generated.update(ids)
            return ids

    def insert(self, body: dict[str, Any], *, ours: bool = False) -> dict[str, Any]:
        with self.lock:
            file_id = body.get("id") or self.new_ids(1)[0]
            if not ours:
                self.check_new(body)
            self._clock += 1
            file = {"trashed": False, "mimeType": "application/octet-stream", **body, "id": file_id}
            file["createdTime"] = f"2026-01-01T00:00:00.{self._clock:08d}Z"
            file["webViewLink"] = f"https://drive.google.com/drive/folders/{file_id}"
            if self.drive_id:
                file["driveId"] = self.drive_id
            self.files[file_id] = file
            self._born[file_id] = self.requests
            return file

    def check_new(self, body: dict[str, Any]) -> None:
        with self.lock:
            if "id" in body and body["id"] not in self.generated:
                raise Refused(400, "invalid", "The provided file ID is not usable.")
            if body.get("id") in self.files.keys() | self.used:
                raise Refused(409, "fileIdInUse", "A file already exists with the provided ID.")
            if any(
                parent not in self.files or self.files[parent]["trashed"]
                for parent in body.get("parents", ())
            ):
                raise Refused(404, "notFound", "File not found")
            if self.refuse and body.get("mimeType") != FOLDER:
                raise self.refuse

    def get(self, file_id: str) -> dict[str, Any]:
        with self.lock:
            if file_id not in self.files:
                raise Refused(404, "notFound", f"File not found: {file_id}.")
            return self.files[file_id]

    def delete(self, file_id: str) -> None:
        """For good: on a shared drive that is its managers' to do."""
        with self.lock:
            self.get(file_id)
            self._allow("owner", "organizer")
            del self.files[file_id]
            self.used.add(file_id)

    def update(
        self, file_id: str, body: dict[str, Any], add: str | None = None, remove: str | None = None
    ) -> dict[str, Any]:
        """To the bin, or from folder to folder: not for mere writers."""
        with self.lock:
            file = self.get(file_id)
            self._allow("owner", "organizer", "fileOrganizer")
            if set(body) - {"trashed"}:
                raise Refused(400, "invalid", "only `trashed` can be changed here")
            if add is not None:
                self.get(add)
                if remove not in file.get("parents", ()):
                    raise Refused(400, "invalid", "it is in no such folder")
                file["parents"] = [add]
            file |= body
            return file

    def _allow(self, *roles: str) -> None:
        if self.role not in roles:
            message = "The user does not have sufficient permissions for this file."
            raise Refused(403, "insufficientFilePermissions", message)

    def find(self, query: str) -> list[dict[str, Any]]:
        """`files.list` for the few forms of query that are used; anything else is refused."""
        found = [
            file for file in self._in_order() if self.requests - self._born[file["id"]] >= self.lag
        ]
        for part in query.split(" and appProperties has ", 1)[0].split(" and "):
            if match := re.fullmatch(r"'([^']+)' in parents", part):
                self.get(match[1])
                found = [file for file in found if match[1] in file.get("parents", ())]
            elif part == "trashed = false":
                found = [file for file in found if not file["trashed"]]
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

    def begin(self, body: dict[str, Any], size: int) -> str:
        with self.lock:
            self.check_new(body)
            name = f"session{len(self.uploads):06d}"
            self.uploads[name] = Upload(body, size)
            return name

    def forget(self, name: str) -> None:
        """Nothing of an upload under way is kept any more."""
        with self.lock:
            upload = self.uploads[name]
            if upload.file is None:
                upload.got, upload.digest = 0, hashlib.md5(usedforsecurity=False)

    def append(self, name: str, start: int, data: bytes, *, corrupt: bool = False) -> Upload:
        """Takes a chunk; what overlaps with bytes that are here is skipped."""
        with self.lock:
            upload = self.uploads.get(name)
            if upload is None or upload.gone:
                raise Refused(404, "notFound")
            if upload.file is not None:
                return upload
            if start > upload.got:
                raise Refused(400, "invalid", "the chunk begins beyond what is here")
            new = data[upload.got - start :]
            upload.digest.update(new)
            if self.folder is not None:
                with (self.folder / name).open("ab") as stream:
                    stream.write(new)
            upload.got += len(new)
            self.bytes += len(data)
            if upload.got == upload.size:
                md5 = "0" * 32 if corrupt else upload.digest.hexdigest()
                upload.file = self.insert(
                    {**upload.body, "size": str(upload.size), "md5Checksum": md5}
                )
            return upload

    def media(self) -> list[dict[str, Any]]:
        """All files that are no folders and are not in the bin."""
        return [
            file for file in self._in_order() if file["mimeType"] != FOLDER and not file["trashed"]
        ]
