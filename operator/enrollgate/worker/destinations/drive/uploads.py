"""One file to Drive: resumable, chunk by chunk, verified, and never twice.

    id from generateIds ─▶ kept in scratch ─▶ session ─▶ kept ─▶ chunks ─▶ size and MD5 ─▶ done
         ▲                        ▲ 404/410: a new session, same id        └─ wrong: deleted, new id
         └── a killed worker goes on with what was kept; 409 means the file is there already: it is verified

Chunks are held in memory: google-api-python-client 2.202 sends an empty body when it repeats one from a stream.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from googleapiclient.errors import HttpError
from googleapiclient.http import MediaIoBaseUpload

from enrollgate.worker.course import OnBytes
from enrollgate.worker.destinations.drive.client import Client
from enrollgate.worker.destinations.drive.errors import CORRUPT, SESSION_GONE, Answer, answer_of, failure_by
from enrollgate.worker.destinations.drive.patience import Patience, stopped
from enrollgate.worker.destinations.drive.sessions import Session, SessionStore

ATTEMPTS = 3
"""How often a file is begun anew: after a corrupt upload, or after a session that is gone."""
_IDS = 100
_STUCK = Answer(0, ("stuck",))


class _SessionGone(Exception):
    """The session's URI answers 404 or 410."""


class _InMemory(MediaIoBaseUpload):  # type: ignore[misc]  # googleapiclient has no types
    def has_stream(self) -> bool:
        return False


class Ids:
    """Ids of files that are yet to be, fetched in batches."""

    def __init__(self, client: Client, patience: Patience) -> None:
        self._client = client
        self._patience = patience
        self._ids: list[str] = []
        self._lock = threading.Lock()

    def take(self, stop: threading.Event) -> str:
        """An id that nobody else has. Raises Failure."""
        with self._lock:
            if not self._ids:
                self._ids = list(self._patience.call(self._client.generate_ids(_IDS).execute, stop)["ids"])
            return self._ids.pop()


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is to be sent where."""

    key: str
    file: Path
    parent: str
    """The folder's id."""
    body: Callable[[str], dict[str, Any]]
    """The metadata to send with it, for its MD5."""


@dataclass(frozen=True, slots=True)
class _Sending:
    body: dict[str, Any]
    stream: BinaryIO
    told: OnBytes
    stop: threading.Event


@dataclass(frozen=True)
class Uploads:
    """Everything that uploads share. Safe for several threads."""

    client: Client
    patience: Patience
    ids: Ids
    sessions: SessionStore
    chunk_size: int

    def upload(self, parcel: Parcel, on_bytes: OnBytes, stop: threading.Event) -> dict[str, Any]:
        """Drive's metadata of the complete, verified file. Raises Failure."""
        key, parent = parcel.key, parcel.parent
        size = parcel.file.stat().st_size
        with parcel.file.open("rb") as stream:
            md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            told = _Monotonic(on_bytes)
            for _ in range(ATTEMPTS):
                session = self.sessions.read(key)
                if session is None or (session.size, session.md5, session.parent) != (size, md5, parent):
                    session = Session(self.ids.take(stop), size, md5, parent)
                    self.sessions.write(key, session)
                metadata = {**parcel.body(md5), "id": session.file_id, "parents": [parent]}
                done = self._send(key, session, _Sending(metadata, stream, told, stop))
                if int(done.get("size", -1)) == size and done.get("md5Checksum") == md5:
                    self.sessions.remove(key)
                    told(size)
                    return done
                self.patience.call(partial(self.client.delete, session.file_id), stop)
                self.sessions.remove(key)
        raise failure_by(CORRUPT)

    def _send(self, key: str, session: Session, sending: _Sending) -> dict[str, Any]:
        for _ in range(ATTEMPTS):
            try:
                return self._go_on(key, session, sending)
            except _SessionGone:
                session = session.at(None)
                self.sessions.write(key, session)
        raise failure_by(SESSION_GONE)

    def _there_already(self, file_id: str) -> dict[str, Any]:
        return _checked(self.client.get(file_id).execute())

    def _go_on(self, key: str, session: Session, sending: _Sending) -> dict[str, Any]:
        """Sends chunk after chunk until the file is complete. After any trouble, Drive is asked how far it got."""
        stop = sending.stop
        media = _InMemory(sending.stream, "application/octet-stream", chunksize=self.chunk_size, resumable=True)
        request = self.client.create(sending.body, media)
        request.resumable_uri = session.uri
        request._in_error_state = session.uri is not None  # makes the client ask first, as after an error
        failures, furthest = 0, 0
        while True:
            if stop.is_set():
                raise stopped()
            answer = _STUCK
            try:
                _, done = request.next_chunk(num_retries=0)
                if done is not None:
                    return _checked(done)
            except Exception as error:
                status = error.resp.status if isinstance(error, HttpError) else 0
                if status == 409:  # it is there already: an earlier last answer was lost
                    return self.patience.call(partial(self._there_already, session.file_id), stop)
                if status in (404, 410) and request.resumable_uri is not None:
                    raise _SessionGone from None
                found = answer_of(error)
                if found is None:
                    raise
                answer = found
                self.client.hang_up()
                request._in_error_state = True
            if request.resumable_uri != session.uri:
                session = session.at(request.resumable_uri)
                self.sessions.write(key, session)
            if request.resumable_progress > furthest:
                furthest, failures = request.resumable_progress, 0
                sending.told(furthest)
                if answer is _STUCK:
                    continue
            failures += 1
            self.patience.pause(answer, failures, stop)


class _Monotonic:
    """Passes on only what is more than before: a new session begins at 0 again."""

    def __init__(self, on_bytes: OnBytes) -> None:
        self._on_bytes = on_bytes
        self._most = 0

    def __call__(self, sent: int) -> None:
        if sent > self._most:
            self._most = sent
            self._on_bytes(sent)


def _checked(answer: object) -> dict[str, Any]:
    """The file's metadata. Raises ValueError if the answer is something else."""
    if not isinstance(answer, dict) or "id" not in answer:
        raise ValueError("no metadata of a file")
    return answer
