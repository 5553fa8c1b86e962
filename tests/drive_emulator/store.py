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

    def __init__(self, folder: Path | None = None, *, shared_drive: bool = False) -> None:
        self.lock = threading.RLock()
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, Upload] = {}
        self.generated: set[str] = set()
        self.refuse: Refused | None = None
        """What every creation of a file is refused with."""
        self.bytes = 0
        self._clock = 0
        self.drive_id = "shareddrive0001" if shared_drive else None
        self.root = self.insert({"id": "rootfolder0001", "name": "Courses", "mimeType": FOLDER}, ours=True)["id"]

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
            return file

    def check_new(self, body: dict[str, Any]) -> None:
        with self.lock:
            if "id" in body and body["id"] not in self.generated:
                raise Refused(400, "invalid", "The provided file ID is not usable.")
            if body.get("id") in self.files:
                raise Refused(409, "fileIdInUse", "A file already exists with the provided ID.")
            if any(parent not in self.files for parent in body.get("parents", ())):
                raise Refused(404, "notFound", "File not found")
            if self.refuse and body.get("mimeType") != FOLDER:
                raise self.refuse

    def get(self, file_id: str) -> dict[str, Any]:
        with self.lock:
            if file_id not in self.files:
                raise Refused(404, "notFound", f"File not found: {file_id}.")
            return self.files[file_id]

    def delete(self, file_id: str) -> None:
        with self.lock:
            self.get(file_id)
            del self.files[file_id]

    def find(self, query: str) -> list[dict[str, Any]]:
        """`files.list` for the few forms of query that are used; anything else is refused."""
        found = list(self._in_order())
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
            found = [file for file in found if file.get("appProperties", {}).get(match[1]) == match[2]]
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
                upload.file = self.insert({**upload.body, "size": str(upload.size), "md5Checksum": md5})
            return upload

    def media(self) -> list[dict[str, Any]]:
        """All files that are no folders."""
        return [file for file in self._in_order() if file["mimeType"] != FOLDER]
