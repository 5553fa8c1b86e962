"""What a killed worker's next try needs to go on with an upload: the file's id and the session's URI, in the run's scratch.

The URI is a bearer credential: files of mode 0600, removed with the upload, and never a word of it in a message.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Session:
    """One upload under way."""

    file_id: str
    size: int
    """Bytes."""
    md5: str
    parent: str
    uri: str | None = None

    def __repr__(self) -> str:
        return f"Session({self.file_id}, {self.size} bytes)"

    def at(self, uri: str | None) -> "Session":
        """The same file, with this session."""
        return replace(self, uri=uri)


class SessionStore:
    """A folder with one file for each upload under way. Different keys may be used from different threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str) -> Session | None:
        """What an earlier try left, None if there is nothing or it is damaged."""
        try:
            return Session(**json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, key: str, session: Session) -> None:
        """Keeps the session, in one piece."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self._path(key).with_suffix(".new")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            json.dump(asdict(session), stream)
        part.replace(self._path(key))

    def remove(self, key: str) -> None:
        """The upload is over."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"
