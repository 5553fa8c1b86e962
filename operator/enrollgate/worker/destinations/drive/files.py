"""Drive's metadata of a file or folder, parsed: the one place that reads Drive's JSON.

In comes a value of `json.loads`, out goes a `File` or an `UnreadableResponse`. Nothing behind this
module sees a field of an unexpected type.
"""

import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enrollgate.common.strict_json import parse_json as parse_strictly
from enrollgate.worker.destinations.drive.errors import UnreadableResponse

# MIME types by extension: the standard library's, and what it lacks. The operating system's table
# is not used: it differs from machine to machine. See
# https://www.iana.org/assignments/media-types/ and, for Office,
# https://developers.google.com/workspace/drive/api/guides/ref-export-formats.
_OFFICE = "application/vnd.openxmlformats-officedocument"
_MEDIA_TYPES = mimetypes.MimeTypes(filenames=()).types_map[True] | {
    ".7z": "application/x-7z-compressed",
    ".ass": "text/x-ssa",
    ".docx": f"{_OFFICE}.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".flac": "audio/flac",
    ".flv": "video/x-flv",
    ".gz": "application/gzip",
    ".ipynb": "application/x-ipynb+json",
    ".m4a": "audio/mp4",
    ".m4v": "video/x-m4v",
    ".mka": "audio/matroska",
    ".mkv": "video/matroska",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".pptx": f"{_OFFICE}.presentationml.presentation",
    ".rar": "application/vnd.rar",
    ".srt": "application/x-subrip",
    ".ssa": "text/x-ssa",
    ".ts": "video/mp2t",
    ".ttml": "application/ttml+xml",
    ".weba": "audio/webm",
    ".wmv": "video/x-ms-wmv",
    ".xlsx": f"{_OFFICE}.spreadsheetml.sheet",
}
FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
# The fields that are asked for, and those of them that every file and folder has.
FIELDS = (
    "id,name,mimeType,size,md5Checksum,createdTime,appProperties,parents,trashed,webViewLink,"
    "driveId,shortcutDetails"
)
_ALWAYS = ("id", "name", "mimeType", "createdTime", "trashed")
# Bytes of an answer, at most. A page of a listing has some hundred kilobytes.
_ANSWER_LIMIT = 2**24
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_SIZE = re.compile(r"\d{1,15}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_URL = re.compile(r"https?://[!-~]{1,500}")


@dataclass(frozen=True, slots=True)
class File:
    """A file or a folder at Drive: what we use of the `File` resource of the API.

    `size` is in bytes; folders have none. `md5` is None until Drive has computed it. `created` is
    RFC 3339 text, which sorts by time. `target` is the id that a shortcut points to.
    """

    file_id: str
    name: str
    mime_type: str
    size: int | None
    md5: str | None
    created: str
    properties: Mapping[str, str] = field(repr=False)
    parents: tuple[str, ...]
    trashed: bool
    url: str | None
    drive_id: str | None
    target: str | None

    @property
    def age(self) -> tuple[str, str]:
        """Return the sort key that puts the oldest file first, the same for every reader."""
        return self.created, self.file_id


def media_type(file: Path) -> str:
    """Return the MIME type to send with a file, by the extension that its downloader gave it."""
    return _MEDIA_TYPES.get(file.suffix.lower(), "application/octet-stream")


def parse_json(content: bytes) -> dict[str, object]:
    """Return the JSON object of an answer. Raises UnreadableResponse."""
    try:
        answer = parse_strictly(content, _ANSWER_LIMIT)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise UnreadableResponse("no JSON object")
    return answer


def parse_file(answer: object) -> File:
    """Return the metadata of a file. Raises UnreadableResponse if a field is missing or odd."""
    if not isinstance(answer, dict) or any(name not in answer for name in _ALWAYS):
        raise UnreadableResponse("no metadata of a file")
    size = _text(answer, "size", _SIZE)
    properties, parents, shortcut = (
        default if answer.get(name) is None else answer[name]
        for name, default in (("appProperties", {}), ("parents", []), ("shortcutDetails", {}))
    )
    if (
        not isinstance(properties, dict)
        or not all(isinstance(value, str) for value in properties.values())
        or not isinstance(parents, list)
        or not all(isinstance(parent, str) for parent in parents)
        or not isinstance(shortcut, dict)
        or not isinstance(answer["trashed"], bool)
    ):
        raise UnreadableResponse("metadata of a wrong type")
    return File(
        file_id=parse_id(answer["id"]),
        name=_text(answer, "name") or "",
        mime_type=_text(answer, "mimeType") or "",
        size=None if size is None else int(size),
        md5=_text(answer, "md5Checksum", _MD5),
        created=_text(answer, "createdTime") or "",
        properties=properties,
        parents=tuple(parents),
        trashed=answer["trashed"],
        url=_text(answer, "webViewLink", _URL),
        drive_id=_text(answer, "driveId", _ID),
        target=_text(shortcut, "targetId", _ID),
    )


def parse_id(value: object) -> str:
    """Return the value if it can be a file's id. Raises UnreadableResponse."""
    if not isinstance(value, str) or not is_id(value):
        raise UnreadableResponse("no id")
    return value


def is_id(value: str) -> bool:
    """Return whether the text can be the id of a file or a folder."""
    return _ID.fullmatch(value) is not None


def _text(
    answer: Mapping[str, object], name: str, pattern: re.Pattern[str] | None = None
) -> str | None:
    value = answer.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise UnreadableResponse(f"an odd `{name}`")
    return value
