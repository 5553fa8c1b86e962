"""What the next try must know: the uploads under way, what has arrived, and the folders that were made, in the run's scratch.

Drive's searches may lag behind what was created; an id that is kept here is asked for by itself. A session's URI is a bearer
credential: files of mode 0600, the URI forgotten with the upload's end, and never a word of it in a message.
"""

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from enrollgate.common.files import write_private


@dataclass(frozen=True, slots=True)
class Session:
    """One upload, under way or done."""

    file_id: str
    size: int
    """Bytes."""
    md5: str
    parent: str
    uri: str | None = None
    done: bool = False

    def __repr__(self) -> str:
        return f"Session({self.file_id}, {self.size} bytes)"

    def at(self, uri: str | None) -> "Session":
        """The same file, with this session."""
        return replace(self, uri=uri)


class SessionStore:
    """A folder with one file for each upload and each folder. Different keys may be used from different threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str) -> Session | None:
        """The upload that an earlier try began, None if there is none, it is done, or its file is damaged."""
        session = _session(self._path(key))
        return None if session is None or session.done else session

    def write(self, key: str, session: Session) -> None:
        """Keeps the session, in one piece."""
        self._write(self._path(key), json.dumps(asdict(session)))

    def finish(self, key: str, session: Session) -> None:
        """The upload has arrived whole: only its file's id is kept."""
        self.write(key, replace(session, uri=None, done=True))

    def remove(self, key: str) -> None:
        """The upload is given up."""
        self._path(key).unlink(missing_ok=True)

    def delivered(self) -> dict[str, str]:
        """The ids of the files that arrived whole, by their keys."""
        found = ((path.stem, _session(path)) for path in self._folder.glob("*.json"))
        return {
            key: session.file_id for key, session in found if session is not None and session.done
        }

    def folder(self, key: str) -> str | None:
        """The id that a folder was made with, or was about to be made with."""
        with contextlib.suppress(OSError, ValueError):
            return self._path(key, ".folder").read_text(encoding="utf-8") or None
        return None

    def keep_folder(self, key: str, folder_id: str) -> None:
        """Keeps the id of a folder before it is made."""
        self._write(self._path(key, ".folder"), folder_id)

    def _write(self, path: Path, text: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, text)

    def _path(self, key: str, ending: str = ".json") -> Path:
        return self._folder / f"{key}{ending}"


def _session(path: Path) -> Session | None:
    try:
        return Session(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
