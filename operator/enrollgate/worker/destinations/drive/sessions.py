"""Keep on disk, in the run's scratch, what the next attempt must know about uploads and folders.

Drive's searches may lag behind what was created. An id that is kept here is asked for by itself, so
nothing is created twice. A session's URI is a bearer credential: the files have mode 0600, the URI
is deleted when the upload ends, and it never appears in a message.
"""

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from enrollgate.common.files import write_private
from enrollgate.worker.destinations.drive.files import is_id


@dataclass(frozen=True, slots=True)
class Session:
    """Describe one upload, under way or done.

    `size` is in bytes, `parent` is the id of the folder. `uri` is None until Drive has opened a
    resumable session, and once the upload is done.
    """

    file_id: str
    size: int
    md5: str
    parent: str
    uri: str | None = None
    done: bool = False

    def is_for(self, size: int, md5: str, parent: str) -> bool:
        """Return whether the session uploads this content to this folder."""
        return (self.size, self.md5, self.parent) == (size, md5, parent)

    def __repr__(self) -> str:
        return f"Session({self.file_id}, {self.size} bytes)"  # without the URI


_SESSION = TypeAdapter(Session)


class SessionStore:
    """Store one file per upload and per folder. Threads may use different keys at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, key: str) -> Session | None:
        """Return the upload that an earlier attempt left unfinished.

        Returns None if there is none, if it is done, or if its file is damaged.
        """
        session = _read_session(self._path(key))
        return None if session is None or session.done else session

    def save(self, key: str, session: Session) -> None:
        """Write the session, as a whole or not at all."""
        self._write(self._path(key), json.dumps(asdict(session)))

    def mark_done(self, key: str, session: Session) -> None:
        """Record that the file is complete at Drive. Keeps its id and deletes the URI."""
        self.save(key, replace(session, uri=None, done=True))

    def delete(self, key: str) -> None:
        """Forget the upload, so that the next one starts from zero."""
        self._path(key).unlink(missing_ok=True)

    def done_file_ids(self) -> dict[str, str]:
        """Return the ids of the files that are complete at Drive, by key."""
        found = ((path.stem, _read_session(path)) for path in self._folder.glob("*.json"))
        return {
            key: session.file_id for key, session in found if session is not None and session.done
        }

    def load_folder_id(self, key: str) -> str | None:
        """Return the id that a folder was created with, or was about to be created with."""
        with contextlib.suppress(OSError, ValueError):
            folder_id = self._path(key, ".folder").read_text(encoding="utf-8")
            return folder_id if is_id(folder_id) else None
        return None

    def save_folder_id(self, key: str, folder_id: str) -> None:
        """Write the id of a folder before the folder is created."""
        self._write(self._path(key, ".folder"), folder_id)

    def _write(self, path: Path, text: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, text)

    def _path(self, key: str, ending: str = ".json") -> Path:
        return self._folder / f"{key}{ending}"


def _read_session(path: Path) -> Session | None:
    """Return the session in a file, or None if the file is missing or damaged."""
    try:
        session = _SESSION.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None
    return session if is_id(session.file_id) and is_id(session.parent) else None
