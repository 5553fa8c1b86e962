"""Upload one file to Drive: resumable, chunk by chunk, verified, and never twice.

    StartSession ──▶ SendChunk ◀──▶ AskPosition        an error: ask Drive how much it has
         ▲   │           │  │
         │   ▼           │  ▼
         │  FileExists   │  Complete ──▶ size and MD5 are right ──▶ done
         │               ▼          └──▶ wrong, or in the trash: a new file id
         └────────── SessionExpired

Drive computes the MD5 by itself. If it is missing, it is asked for again, and never guessed.

The file's id comes from generateIds and is saved in scratch first, so that a repeated request never
creates a second file. The session's URI is saved before the first byte is sent: the next attempt
starts in AskPosition and does not send again what Drive has. A chunk is read while it is sent. A
stop ends it in the middle, and Drive keeps what it has in whole 256 KiB.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from googleapiclient.errors import HttpError

from enrollgate.worker.course import OnBytes
from enrollgate.worker.destinations.drive.client import ChunkReader, Client, Metadata
from enrollgate.worker.destinations.drive.errors import (
    CORRUPT,
    NOT_FOUND,
    SESSION_EXPIRED,
    STALLED,
    ChecksumMissing,
    UploadStalled,
)
from enrollgate.worker.destinations.drive.files import File
from enrollgate.worker.destinations.drive.folders import IdPool, trash_quietly
from enrollgate.worker.destinations.drive.retry import RetryPolicy
from enrollgate.worker.destinations.drive.sessions import Session, SessionStore

# How often one attempt starts an upload from zero: after a corrupt upload, an expired session, or a
# file id that is used up.
MAX_STARTS = 3
# How often Drive may have less of an upload than it had before.
MAX_SETBACKS = 5
# The answers of an upload's session that say it cannot go on. Drive answers 400 to a session that
# is damaged or used up (see https://github.com/googleapis/google-api-php-client/issues/1227).
_DEAD_SESSION = (400, 404, 410, 416)


@dataclass(frozen=True, slots=True)
class StartSession:
    """There is no session: open one."""


@dataclass(frozen=True, slots=True)
class AskPosition:
    """There is a session, but how much Drive has is unknown: ask."""


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Drive has the bytes before `start`: send those that follow."""

    start: int


@dataclass(frozen=True, slots=True)
class SessionExpired:
    """The session cannot go on: open another one for the same file id."""


@dataclass(frozen=True, slots=True)
class FileExists:
    """The file id is used (409), since an earlier final response was lost: fetch the file."""


@dataclass(frozen=True, slots=True)
class Complete:
    """Drive has the whole file: this is its metadata."""

    file: File


State = StartSession | AskPosition | SendChunk | SessionExpired | FileExists | Complete


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """Describe what to upload, and where to.

    `key` names the upload in the session store. `md5` is the file's, in hexadecimal digits.
    `parent` is the folder's id. `metadata` is sent with the file; its id, parent and type are
    added. `media_type` is the file's MIME type.
    """

    key: str
    file: Path
    md5: str
    parent: str
    metadata: Metadata
    media_type: str


class FileSource:
    """Read a file for the client, and report the bytes that were sent.

    `raise_if_stopped` is called before each report, and ends the request in the middle.
    """

    def __init__(
        self, stream: BinaryIO, on_bytes: OnBytes, raise_if_stopped: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._on_bytes = on_bytes
        self._raise_if_stopped = raise_if_stopped
        self._sent = 0
        self.size = os.fstat(stream.fileno()).st_size

    def chunk(self, start: int, length: int) -> ChunkReader:
        """Return `length` bytes from `start` on, as the body of a request."""
        return ChunkReader(self._stream, start, length, self._report)

    def _report(self, size: int) -> None:
        self._raise_if_stopped()
        self._sent += size
        self._on_bytes(self._sent)


@dataclass(frozen=True)
class Uploads:
    """Upload files. Thread-safe. `chunk_size` is in bytes."""

    client: Client
    retry_policy: RetryPolicy
    ids: IdPool
    sessions: SessionStore
    chunk_size: int

    def upload(self, request: UploadRequest, on_bytes: OnBytes) -> File:
        """Upload the file and return Drive's metadata of it, once size and MD5 are verified.

        `on_bytes` gets the number of bytes sent so far. Raises Failure.
        """
        with request.file.open("rb") as stream:
            source = FileSource(stream, on_bytes, self.retry_policy.raise_if_stopped)
            for _ in range(MAX_STARTS):
                session = self.sessions.load(request.key)  # of an earlier attempt
                if session is None or not session.is_for(source.size, request.md5, request.parent):
                    file_id = self.ids.take()
                    session = Session(file_id, source.size, request.md5, request.parent)
                    self.sessions.save(request.key, session)
                file = _Transfer(self, request, session, source).run()
                if file is not None and not file.trashed:
                    file = self.complete(file)
                    if (file.size, file.md5) == (source.size, request.md5):
                        self.sessions.mark_done(request.key, session)
                        return file
                    trash_quietly(self.client, self.retry_policy, session.file_id)
                elif file is not None:
                    # What is uploaded to a folder that is gone lands in the trash.
                    find_folder = partial(self.client.get_if_exists, request.parent)
                    if self.retry_policy.call(find_folder) is None:
                        raise NOT_FOUND.failure()
                self.sessions.delete(request.key)
        raise CORRUPT.failure()

    def complete(self, file: File) -> File:
        """Return the file with its size and MD5. Ask Drive for them again if they are missing.

        Raises Failure if Drive does not give them.
        """

        def ask() -> File:
            found = self.client.get(file.file_id)
            if found.size is None or found.md5 is None:
                raise ChecksumMissing
            return found

        if file.size is None or file.md5 is None:
            return self.retry_policy.call(ask)
        return file


class _Transfer:
    """Move one upload from state to state until the file is complete."""

    def __init__(
        self, uploads: Uploads, request: UploadRequest, session: Session, source: FileSource
    ) -> None:
        self._client = uploads.client
        self._retry_policy = uploads.retry_policy
        self._sessions = uploads.sessions
        self._chunk_size = uploads.chunk_size
        self._request = request
        self._session = session
        self._source = source
        self._state: State = StartSession() if session.uri is None else AskPosition()
        self._confirmed = 0  # bytes that Drive had when it answered last
        self._setbacks = 0
        self._expired = 0

    def run(self) -> File | None:
        """Return the complete file; None if its id was used by a file that was removed.

        Raises Failure.
        """
        while True:
            match self._state:
                case StartSession():
                    self._state = self._retry_policy.call(self._start_session)
                case AskPosition() | SendChunk():
                    self._retry_policy.call(self._advance)
                case SessionExpired():
                    self._save_uri(None)
                    self._expired += 1
                    if self._expired == MAX_STARTS:
                        raise SESSION_EXPIRED.failure()
                    self._state = StartSession()
                case FileExists():
                    find = partial(self._client.get_if_exists, self._session.file_id)
                    return self._retry_policy.call(find)
                case Complete(file):
                    return file

    def _start_session(self) -> State:
        """Open a session and save its URI before anything is sent."""
        metadata = {
            **self._request.metadata,
            "id": self._session.file_id,
            "parents": [self._request.parent],
            "mimeType": self._request.media_type,
        }
        try:
            uri = self._client.begin_upload(metadata, self._source.size, self._request.media_type)
        except HttpError as error:
            if error.resp.status != 409:
                raise
            return FileExists()
        self._save_uri(uri)
        self._confirmed = self._setbacks = 0
        return SendChunk(0)

    def _advance(self) -> None:
        """Ask for the position if it is unknown, then send a chunk, until Drive has more or all.

        Raises UploadStalled if Drive has no more than before: the retry policy then calls again.
        """
        before, state = self._confirmed, self._state
        self._state = AskPosition()  # stays so if the request fails
        uri, size = str(self._session.uri), self._source.size
        if isinstance(state, AskPosition):
            state = _read_answer(partial(self._client.query_upload, uri, size))
        if state == SendChunk(before):
            length = min(self._chunk_size, size - before)
            chunk = self._source.chunk(before, length)
            state = _read_answer(
                partial(self._client.upload_chunk, uri, chunk, before, length, size)
            )
        self._state = state
        if isinstance(state, SendChunk):
            self._confirmed = state.start
            self._setbacks += state.start < before
            if self._setbacks > MAX_SETBACKS:
                raise STALLED.failure()
            if state.start <= before:
                raise UploadStalled

    def _save_uri(self, uri: str | None) -> None:
        self._session = replace(self._session, uri=uri)
        self._sessions.save(self._request.key, self._session)


def _read_answer(request: Callable[[], int | File]) -> State:
    """Send a request of an upload session, and return the state that its answer leads to."""
    try:
        answer = request()
    except HttpError as error:
        if error.resp.status == 409:
            return FileExists()
        if error.resp.status in _DEAD_SESSION:
            return SessionExpired()
        raise
    return SendChunk(answer) if isinstance(answer, int) else Complete(answer)
