"""Where courses are delivered: a folder of the file system or of Google Drive.

The text of the setting is parsed here, once; everything else holds a `Destination`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_FOLDER_ID = re.compile(r"[A-Za-z0-9_-]{10,}")
_FOLDER_URL = re.compile(
    r"https://drive\.google\.com/drive/(?:u/\d+/)?folders/([A-Za-z0-9_-]{10,})(?:[?#/].*)?"
)


@dataclass(frozen=True, slots=True)
class DirectoryDestination:
    """A folder of the worker's file system. The path is absolute."""

    path: Path

    def __str__(self) -> str:
        return f"directory:{self.path}"


@dataclass(frozen=True, slots=True)
class DriveDestination:
    """A folder of Google Drive."""

    folder_id: str

    def __str__(self) -> str:
        return f"drive:{self.folder_id}"


Destination = DirectoryDestination | DriveDestination
# Characters of the address of a course's folder, at most.
_LINK_LIMIT = 500


def folder_link(text: str) -> str:
    """Return the address of a course's folder, cut; empty if it is none.

    A worker's report or progress says it, so it may be anything. Front ends show it as a link.
    """
    link = text[:_LINK_LIMIT]
    return link if link.startswith(("https://", "file:///")) and link.isprintable() else ""


def parse_destination(text: str) -> Destination:
    """Parse `directory:/path` or `drive:<folder id>`, or the folder's URL from the browser.

    A relative path is relative to the current folder, and `~` is the user's home folder. Raises
    ValueError whose message says what to write.
    """
    if url := _FOLDER_URL.fullmatch(text.removeprefix("drive:")):
        return DriveDestination(url[1])
    scheme, _, rest = text.partition(":")
    if scheme == "drive":
        if not _FOLDER_ID.fullmatch(rest):
            raise ValueError(
                "write drive:<folder id>, or the folder's address: "
                "https://drive.google.com/drive/folders/<folder id>"
            )
        return DriveDestination(rest)
    if scheme != "directory" or not rest.strip():
        raise ValueError("write directory:/path or drive:<folder id>")
    try:
        return DirectoryDestination(Path(rest).expanduser().absolute())
    except RuntimeError as error:
        raise ValueError(
            "that user has no home folder here: write directory: and an absolute path"
        ) from error
