"""One file to Drive: resumable, chunk by chunk, verified, and never twice.

    id from generateIds ─▶ kept in scratch ─▶ session ─▶ kept ─▶ chunks ─▶ size and MD5 ─▶ done
         ▲                        ▲ 404/410: a new session, same id        └─ wrong: to the bin, new id
         └── a killed worker goes on with what was kept; 409 means the file is there already: it is verified

Nothing is sent before its session is on disk: what Drive has taken of it, the next try need not send. A chunk is read while it is
sent; a stop ends it in the middle, and Drive keeps the whole 256 KiB of it.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from googleapiclient.errors import HttpError

from enrollgate.domain.reasons import Failure
from enrollgate.worker.course import OnBytes
from enrollgate.worker.destinations.drive.client import ChunkReader, Client, File
from enrollgate.worker.destinations.drive.errors import (
    CORRUPT,
    SESSION_GONE,
    Answer,
    answer_of,
    failure_by,
)
from enrollgate.worker.destinations.drive.retry import RetryPolicy, stopped
from enrollgate.worker.destinations.drive.sessions import Session, SessionStore

ATTEMPTS = 3
"""How often a file is begun anew: after a corrupt upload, after a session that is gone, or an id that is used up."""
SETBACKS = 5
"""How often Drive may have less of an upload than it had before."""
_IDS = 100
_STUCK = Answer(0, ("stuck",))
_BLOCK = 1 << 20


class _SessionGone(Exception):
    """The session's URI answers 404 or 410."""


class Ids:
    """Ids of files that are yet to be, fetched in batches."""

    def __init__(self, client: Client, retry_policy: RetryPolicy) -> None:
        self._client = client
        self._retry_policy = retry_policy
        self._ids: list[str] = []
        self._lock = threading.Lock()

    def take(self, stop: threading.Event) -> str:
        """An id that nobody else has. Raises Failure."""
        with self._lock:
            if not self._ids:
                self._ids = self._retry_policy.call(partial(self._client.generate_ids, _IDS), stop)
            return self._ids.pop()


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What is to be sent where."""

    key: str
    file: Path
    parent: str
    """The folder's id."""
    body: Callable[[str], File]
    """The metadata to send with it, for its MD5."""


class FileSource:
    """A file on its way: reads it for the client, tells of what was sent, and ends when it is to stop."""

    def __init__(self, stream: BinaryIO, on_bytes: OnBytes, stop: threading.Event) -> None:
        self._stream = stream
        self._on_bytes = on_bytes
        self._sent = 0
        self.stop = stop
        self.size = os.fstat(stream.fileno()).st_size

    def digest(self) -> str:
        """The file's MD5."""
        md5 = hashlib.md5(usedforsecurity=False)
        while not self._is_over() and (block := self._stream.read(_BLOCK)):
            md5.update(block)
        return md5.hexdigest()

    def piece(self, start: int, length: int) -> ChunkReader:
        """A stretch of it, as a request's body."""
        return ChunkReader(self._stream, start, length, self._told)

    def _told(self, size: int) -> None:
        if not self._is_over():
            self._sent += size
            self._on_bytes(self._sent)

    def _is_over(self) -> bool:
        if self.stop.is_set():
            raise stopped()
        return False


@dataclass(frozen=True)
class Uploads:
    """Everything that uploads share. Safe for several threads. `chunk_size` in bytes."""

    client: Client
    retry_policy: RetryPolicy
    ids: Ids
    sessions: SessionStore
    chunk_size: int

    def upload(self, parcel: UploadRequest, on_bytes: OnBytes, stop: threading.Event) -> File:
        """Drive's metadata of the complete, verified file. Raises Failure."""
        with parcel.file.open("rb") as stream:
            sending = FileSource(stream, on_bytes, stop)
            md5 = sending.digest()
            for _ in range(ATTEMPTS):
                session = self._session(parcel, sending, md5)
                metadata = {**parcel.body(md5), "id": session.file_id, "parents": [parcel.parent]}
                done = self._send(parcel.key, session, metadata, sending)
                if (
                    done is not None
                    and int(done.get("size", -1)) == sending.size
                    and done.get("md5Checksum") == md5
                ):
                    self.sessions.finish(parcel.key, session)
                    return done
                if done is not None:
                    self.trash_quietly(session.file_id, stop)
                self.sessions.remove(parcel.key)
        raise failure_by(CORRUPT)

    def trash_quietly(self, file_id: str, stop: threading.Event) -> None:
        """Puts into the bin what is in the way. If that cannot be done now, the next try's `open` does it: nothing that was
        delivered depends on it."""
        try:
            self.retry_policy.shorter().call(partial(self.client.trash, file_id), stop)
        except Failure:
            return

    def _session(self, parcel: UploadRequest, sending: FileSource, md5: str) -> Session:
        """What an earlier try began for the same file, or a new beginning."""
        kept = self.sessions.read(parcel.key)
        if kept is not None and (kept.size, kept.md5, kept.parent) == (
            sending.size,
            md5,
            parcel.parent,
        ):
            return kept
        session = Session(self.ids.take(sending.stop), sending.size, md5, parcel.parent)
        self.sessions.write(parcel.key, session)
        return session

    def _send(self, key: str, session: Session, metadata: File, sending: FileSource) -> File | None:
        """The complete file; None if its id is used up, by a file that was removed."""
        for _ in range(ATTEMPTS):
            try:
                if session.uri is not None:
                    return self._go_on(session, sending, None)
                begun = self.retry_policy.call(
                    partial(self._begin, metadata, sending.size), sending.stop
                )
                if begun is None:
                    return self.retry_policy.call(
                        partial(self.client.find, session.file_id), sending.stop
                    )
                session = session.at(begun)
                self.sessions.write(key, session)
                return self._go_on(session, sending, 0)
            except _SessionGone:
                session = session.at(None)
                self.sessions.write(key, session)
        raise failure_by(SESSION_GONE)

    def _begin(self, metadata: File, size: int) -> str | None:
        """A session's URI; None if the file is there already: an earlier last answer was lost."""
        try:
            return self.client.begin_upload(metadata, size)
        except HttpError as error:
            if error.resp.status != 409:
                raise
            return None

    def _go_on(self, session: Session, sending: FileSource, position: int | None) -> File | None:
        """Sends chunk after chunk until the file is complete. `position` is what Drive has; None: it must be asked first, as
        after any trouble."""
        last, failures, setbacks = position or 0, 0, 0
        while True:
            try:
                found = self._step(session, sending, position)
            except Exception as error:
                self.client.close_connections()
                status = error.resp.status if isinstance(error, HttpError) else 0
                if status == 409:
                    return self.retry_policy.call(
                        partial(self.client.find, session.file_id), sending.stop
                    )
                if status in (404, 410):
                    raise _SessionGone from None
                answer = answer_of(error)
                if answer is None:
                    raise
                position, failures = None, failures + 1
                self.retry_policy.pause(answer, failures, sending.stop)
                continue
            if not isinstance(found, int):
                return found
            if found > last:
                failures = 0
            elif (
                found < last or position is not None
            ):  # less than before, or not one byte of what was sent
                failures, setbacks = failures + 1, setbacks + (found < last)
                self.retry_policy.pause(
                    _STUCK,
                    self.retry_policy.tries if setbacks > SETBACKS else failures,
                    sending.stop,
                )
            position = last = found

    def _step(self, session: Session, sending: FileSource, position: int | None) -> int | File:
        if sending.stop.is_set():
            raise stopped()
        uri = str(session.uri)
        if position is None:
            return self.client.upload_state(uri, sending.size)
        length = min(self.chunk_size, sending.size - position)
        return self.client.upload_piece(
            uri, sending.piece(position, length), position, length, sending.size
        )
