"""The Drive v3 client: one HTTP object a thread, the static discovery document, any endpoint, no answer taken on trust.

What Drive says that is no success is raised as the client library raises it; what cannot be read, a proxy's page for instance,
is `Unreadable`. Resumable uploads are spoken here and not by the library's `next_chunk`: that one opens the session and sends the
first chunk in one call (a worker killed in between would not know its session), and sends an empty body when it repeats a stream.
"""

import io
import json
import re
import threading
import weakref
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, BinaryIO

import google_auth_httplib2
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaIoBaseUpload, build_http

from enrollgate.worker.destinations.drive.errors import Unreadable

SOCKET_TIMEOUT = 60.0
"""Seconds without progress in either direction, after which a connection counts as cut. Bodies are sent in small pieces, each with
this time-out of its own: a slow chunk is no socket_timeout."""
FOLDER = "application/vnd.google-apps.folder"
FIELDS = "id,name,mimeType,size,md5Checksum,createdTime,appProperties,parents,trashed,webViewLink"
_MEDIA_TYPE = "application/octet-stream"

File = dict[str, Any]
"""Drive's metadata of a file or a folder."""


class ChunkReader:
    """A stretch of a stream as a request's body. `on_read` is told of all that is taken to be sent, and may raise."""

    def __init__(
        self, stream: BinaryIO, start: int, size: int, on_read: Callable[[int], None]
    ) -> None:
        self._stream = stream
        self._start = start
        self._size = size
        self._on_read = on_read
        self._at = 0
        self._ended = False

    def tell(self) -> int:
        """How far it has been read."""
        return self._at

    def seek(self, position: int) -> None:
        """Goes back, for the same request to be sent with another token."""
        self._at, self._ended = position, False

    def read(self, size: int) -> bytes:
        """The next bytes. Raises ConnectionResetError if the transport wants to send all of it again: Drive is asked first how
        much it has."""
        if self._ended:
            raise ConnectionResetError("the connection was closed before an answer came")
        self._stream.seek(self._start + self._at)
        data = self._stream.read(min(size, self._size - self._at))
        self._ended = not data
        self._at += len(data)
        self._on_read(len(data))
        return data


class Client:
    """Gives each thread a service of its own: httplib2 is not thread-safe. `socket_timeout` in seconds."""

    def __init__(
        self, credentials: Any, endpoint: str, socket_timeout: float = SOCKET_TIMEOUT
    ) -> None:
        self._credentials = credentials
        self._endpoint = endpoint.rstrip("/") + "/"
        self._socket_timeout = socket_timeout
        self._mine = threading.local()
        self._opened: list[Any] = []
        weakref.finalize(self, _close, self._opened)

    def close_connections(self) -> None:
        """Closes the calling thread's connections: after a broken answer, what is left in them belongs to nobody."""
        files = getattr(self._mine, "files", None)
        if files is not None:
            files._http.http.close()

    def get(self, file_id: str, fields: str = FIELDS) -> File:
        """A file's or a folder's metadata."""
        return _file(
            _execute(self._files().get(fileId=file_id, fields=fields, supportsAllDrives=True))
        )

    def find(self, file_id: str) -> File | None:
        """A file's or a folder's metadata; None if there is none, or it was removed."""
        try:
            found = self.get(file_id)
        except HttpError as error:
            if error.resp.status != 404:
                raise
            return None
        return None if found.get("trashed") else found

    def trash(self, file_id: str) -> None:
        """Puts a file into the bin: on a shared drive, content managers may not delete for good. One that is gone is as good."""
        try:
            _execute(
                self._files().update(
                    fileId=file_id, body={"trashed": True}, fields="id", supportsAllDrives=True
                ),
            )
        except HttpError as error:
            if error.resp.status != 404:
                raise

    def move(self, file_id: str, source: str, target: str) -> File:
        """Puts a file from one folder into another."""
        request = self._files().update(
            fileId=file_id,
            addParents=target,
            removeParents=source,
            fields=FIELDS,
            supportsAllDrives=True,
        )
        return _file(_execute(request))

    def create_folder(self, body: File) -> File:
        """Makes a folder."""
        return _file(
            _execute(self._files().create(body=body, fields=FIELDS, supportsAllDrives=True))
        )

    def list_page(
        self, query: str, drive_id: str | None, page: str | None
    ) -> tuple[list[File], str | None]:
        """One page of the files that match, the oldest first, and the token of the next page."""
        corpus = {"corpora": "drive", "driveId": drive_id} if drive_id else {"corpora": "user"}
        answer = _execute(
            self._files().list(
                q=query,
                fields=f"nextPageToken,files({FIELDS})",
                pageSize=1000,
                pageToken=page,
                orderBy="createdTime",
                supportsAllDrives=True,
                includeItemsFromAllDrives=True,
                **corpus,
            )
        )
        files = answer.get("files", [])
        if not isinstance(files, list):
            raise Unreadable("no list of files")
        return [_file(file) for file in files], answer.get("nextPageToken") or None

    def generate_ids(self, count: int) -> list[str]:
        """Ids of files that are yet to be, at least one."""
        ids = _execute(self._files().generateIds(count=count, space="drive")).get("ids")
        if not isinstance(ids, list) or not ids:
            raise Unreadable("no ids")
        return [str(each) for each in ids]

    def begin_upload(self, body: File, size: int) -> str:
        """Opens a resumable session for a file of so many bytes: its URI, a bearer credential."""
        media = MediaIoBaseUpload(io.BytesIO(), _MEDIA_TYPE, resumable=True)
        request = self._files().create(
            body=body, media_body=media, fields=FIELDS, supportsAllDrives=True
        )
        headers = request.headers | {
            "X-Upload-Content-Type": _MEDIA_TYPE,
            "X-Upload-Content-Length": str(size),
        }
        response, content = request.http.request(
            request.uri, method=request.method, body=request.body, headers=headers
        )
        if response.status != 200:
            raise _refusal(response, content)
        if not response.get("location"):
            raise Unreadable("no session")
        return str(response["location"])

    def upload_state(self, uri: str, size: int) -> int | File:
        """How many bytes of an upload are kept, or the file once it is complete."""
        return self._put(
            uri, b"", {"Content-Length": "0", "Content-Range": f"bytes */{size}"}, size
        )

    def upload_piece(
        self, uri: str, piece: ChunkReader, start: int, length: int, size: int
    ) -> int | File:
        """Sends `length` bytes of a file's `size`, from `start`; gives what `upload_state` gives."""
        span = {"Content-Range": f"bytes {start}-{start + length - 1}/{size}"} if length else {}
        return self._put(
            uri, piece if length else b"", {"Content-Length": str(length)} | span, size
        )

    def _put(self, uri: str, body: object, headers: dict[str, str], size: int) -> int | File:
        response, content = self._files()._http.request(
            uri, method="PUT", body=body, headers=headers
        )
        if response.status in (200, 201):
            return _file(_json(content))
        if response.status != 308:
            raise _refusal(response, content)
        kept = re.fullmatch(r"bytes=0-(\d{1,18})", response.get("range", "bytes=0--1").strip())
        position = int(kept[1]) + 1 if kept else 0
        if (kept is None and "range" in response) or position > size:
            raise Unreadable("no position")
        return position

    def _files(self) -> Any:
        """The thread's `files` resource."""
        files = getattr(self._mine, "files", None)
        if files is None:
            plain = build_http()
            plain.timeout = self._socket_timeout
            self._opened.append(plain)
            http = google_auth_httplib2.AuthorizedHttp(self._credentials, http=plain)
            http._request = _only_json(http._request)
            service = build_from_document(
                {**_discovery(), "rootUrl": self._endpoint},
                http=http,
                client_options={"api_endpoint": self._endpoint + "drive/v3/"},
            )
            files = self._mine.files = service.files()
        return files


def _execute(request: Any) -> dict[str, Any]:
    try:
        answer = request.execute()
    except UnicodeDecodeError:
        raise Unreadable("bytes that are no text") from None
    if not isinstance(answer, dict):  # the library passes on what is no JSON as it came
        raise Unreadable("no JSON object")
    return answer


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        raise Unreadable("no JSON") from None


def _file(answer: object) -> File:
    if not isinstance(answer, dict) or "id" not in answer:
        raise Unreadable("no metadata of a file")
    return answer


def _refusal(response: Any, content: bytes) -> Exception:
    try:
        refusal: Exception = HttpError(response, content)
    except UnicodeDecodeError:
        refusal = Unreadable("an error that is no text")
    return refusal


def _only_json(request: Callable[..., Any]) -> Callable[..., Any]:
    """google-auth takes a proxy's page for a token and fails with a TypeError. Tokens come by POST; metadata servers, by GET."""

    def checked(url: str, method: str = "GET", **options: Any) -> Any:
        response = request(url, method, **options)
        if (
            method == "POST"
            and response.status == 200
            and not isinstance(_json(response.data), dict)
        ):
            raise Unreadable("no token")
        return response

    return checked


def _close(connections: list[Any]) -> None:
    for http in connections:
        http.close()


@cache
def _discovery() -> dict[str, Any]:
    text = (
        resources.files("googleapiclient.discovery_cache")
        .joinpath("documents/drive.v3.json")
        .read_text("utf-8")
    )
    document: dict[str, Any] = json.loads(text)
    return document
