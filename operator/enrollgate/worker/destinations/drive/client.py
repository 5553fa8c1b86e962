"""A client of the Drive v3 API: typed methods in, parsed metadata or an exception out.

Each thread has an HTTP object of its own, since httplib2 is not thread-safe. The discovery document
is the one in the library, which builds the requests. The endpoint is a setting. No answer is
trusted: errors are raised as `HttpError`, and what cannot be read is an `UnreadableResponse`.

Resumable uploads do not use the library's `next_chunk`, for two reasons. It opens the session and
sends the first chunk in one call, so a worker killed in between would not know its session. And it
sends an empty body when it repeats a stream.
"""

import contextlib
import io
import json
import re
import threading
import weakref
from collections.abc import Callable
from functools import cache, cached_property
from importlib import resources
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import google_auth_httplib2
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaIoBaseUpload

from enrollgate.worker.destinations.drive.errors import ForeignSession, UnreadableResponse
from enrollgate.worker.destinations.drive.files import (
    FIELDS,
    File,
    parse_file,
    parse_id,
    parse_json,
)
from enrollgate.worker.destinations.drive.transport import Transport

# Seconds without progress in either direction after which a connection counts as lost. Bodies are
# sent in blocks of 64 KiB, each with this timeout of its own: a slow chunk does not time out.
SOCKET_TIMEOUT = 60.0
_ORIGIN_PORTS = {"http": 80, "https": 443}

# Metadata to send: a part of the `File` resource of the API.
Metadata = dict[str, object]


class ChunkReader:
    """Read a part of a stream as the body of a request.

    `start` and `size` are in bytes. `on_read` gets the number of bytes of each read, which are sent
    next; it may raise.
    """

    def __init__(
        self, stream: BinaryIO, start: int, size: int, on_read: Callable[[int], None]
    ) -> None:
        self._stream = stream
        self._start = start
        self._size = size
        self._on_read = on_read
        self._position = 0
        self._at_end = False

    def tell(self) -> int:
        """Return how many bytes of the part have been read."""
        return self._position

    def seek(self, position: int) -> None:
        """Go back, so that the same request can be sent with a new token."""
        self._position, self._at_end = position, False

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`.

        Raises ConnectionResetError if the transport reads again after the end, to send everything
        once more. Drive must be asked first how much it has.
        """
        if self._at_end:
            raise ConnectionResetError("the connection was closed before an answer came")
        self._stream.seek(self._start + self._position)
        data = self._stream.read(min(size, self._size - self._position))
        self._at_end = not data
        self._position += len(data)
        self._on_read(len(data))
        return data


class Client:
    """Send requests to Drive. Thread-safe: each thread has its own connections.

    `credentials` are those of google-auth, `endpoint` is the root URL of the API, `socket_timeout`
    is in seconds.
    """

    def __init__(
        self, credentials: Any, endpoint: str, socket_timeout: float = SOCKET_TIMEOUT
    ) -> None:
        self._credentials = credentials
        self._endpoint = endpoint.rstrip("/") + "/"
        self._socket_timeout = socket_timeout
        self._local = threading.local()
        self._opened = contextlib.ExitStack()  # the connections of all threads
        weakref.finalize(self, self._opened.close)

    def close_connections(self) -> None:
        """Close the calling thread's connections: after an error, they may hold unread bytes."""
        http = getattr(self._local, "http", None)
        if http is not None:
            http.http.close()

    def get(self, file_id: str) -> File:
        """Return the metadata of a file or folder. Raises HttpError 404 if there is none."""
        request = self._files.get(fileId=file_id, fields=FIELDS, supportsAllDrives=True)
        return parse_file(self._execute(request))

    def get_if_exists(self, file_id: str) -> File | None:
        """Return the metadata of a file or folder, or None if it is missing or in the trash."""
        try:
            found = self.get(file_id)
        except HttpError as error:
            if error.resp.status != 404:
                raise
            return None
        return None if found.trashed else found

    def trash(self, file_id: str) -> None:
        """Move a file to the trash; a missing one is fine.

        It is not deleted for good: on a shared drive, content managers may not do that.
        """
        try:
            self._execute(
                self._files.update(
                    fileId=file_id, body={"trashed": True}, fields="id", supportsAllDrives=True
                ),
            )
        except HttpError as error:
            if error.resp.status != 404:
                raise

    def move(self, file_id: str, source: str, target: str) -> File:
        """Move a file from one folder to another, both given by id. Returns the new metadata."""
        request = self._files.update(
            fileId=file_id,
            addParents=target,
            removeParents=source,
            fields=FIELDS,
            supportsAllDrives=True,
        )
        return parse_file(self._execute(request))

    def update(self, file_id: str, metadata: Metadata, source: str, target: str) -> File:
        """Change a file's metadata, and move it if the two folders differ.

        A property whose new value is None is removed.
        """
        moves = {} if source == target else {"addParents": target, "removeParents": source}
        request = self._files.update(
            fileId=file_id, body=metadata, fields=FIELDS, supportsAllDrives=True, **moves
        )
        return parse_file(self._execute(request))

    def create_folder(self, body: Metadata) -> File:
        """Create a folder with this metadata. Raises HttpError 409 if its id is already used."""
        return parse_file(
            self._execute(self._files.create(body=body, fields=FIELDS, supportsAllDrives=True))
        )

    def list_page(
        self, query: str, drive_id: str | None, page_token: str | None
    ) -> tuple[list[File], str | None]:
        """Return one page of the matching files, oldest first, and the token of the next page.

        `drive_id` names the shared drive to search, None the user's own files.
        """
        corpus = {"corpora": "drive", "driveId": drive_id} if drive_id else {"corpora": "user"}
        answer = self._execute(
            self._files.list(
                q=query,
                fields=f"nextPageToken,incompleteSearch,files({FIELDS})",
                pageSize=1000,
                pageToken=page_token,
                orderBy="createdTime",
                supportsAllDrives=True,
                includeItemsFromAllDrives=True,
                **corpus,
            )
        )
        files, following = answer.get("files", []), answer.get("nextPageToken")
        if not isinstance(files, list) or not isinstance(following, str | None):
            raise UnreadableResponse("no list of files")
        if answer.get("incompleteSearch"):
            raise UnreadableResponse("a part of a list")
        if following is not None and following == page_token:
            raise UnreadableResponse("a list without an end")
        return [parse_file(file) for file in files], following or None

    def generate_ids(self, count: int) -> list[str]:
        """Return at least one and at most `count` ids for files that do not exist yet."""
        request = self._files.generateIds(count=count, space="drive")
        ids = self._execute(request).get("ids")
        if not isinstance(ids, list) or not ids:
            raise UnreadableResponse("no ids")
        return [parse_id(each) for each in ids]

    def begin_upload(self, metadata: Metadata, size: int, media_type: str) -> str:
        """Open a resumable session for a file of `size` bytes and a MIME type.

        Returns the session's URI, a bearer credential. Raises HttpError 409 if the id is used, and
        ForeignSession if the URI is on a host that must not get the access token.
        """
        media = MediaIoBaseUpload(io.BytesIO(), media_type, resumable=True)
        request = self._files.create(
            body=metadata, media_body=media, fields=FIELDS, supportsAllDrives=True
        )
        headers = request.headers | {
            "X-Upload-Content-Type": media_type,
            "X-Upload-Content-Length": str(size),
        }
        response, content = self._send(request.uri, request.method, request.body, headers)
        if response.status != 200:
            raise build_error(response, content)
        if not response.get("location"):
            raise UnreadableResponse("no session")
        try:
            uri: str = urljoin(request.uri, str(response["location"]))
        except ValueError:
            raise ForeignSession from None
        self._require_trusted(uri)
        return uri

    def query_upload(self, uri: str, size: int) -> int | File:
        """Ask how many bytes of an upload Drive has. Returns the file once it is complete."""
        headers = {"Content-Length": "0", "Content-Range": f"bytes */{size}"}
        return self._put(uri, b"", headers, size)

    def upload_chunk(
        self, uri: str, chunk: ChunkReader, start: int, length: int, size: int
    ) -> int | File:
        """Send `length` bytes from `start`, of a file of `size` bytes.

        Returns how many bytes Drive has now, or the file once it is complete.
        """
        headers = {"Content-Length": str(length)}
        if length:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
        return self._put(uri, chunk if length else b"", headers, start + length)

    def _put(self, uri: str, body: object, headers: dict[str, str], most: int) -> int | File:
        """Send a request of the resumable upload protocol and parse its answer.

        See https://developers.google.com/workspace/drive/api/guides/manage-uploads#resumable: 308
        has a `Range` header with what is kept, and none if that is nothing. `most` is how many
        bytes Drive can have.
        """
        self._require_trusted(uri)
        response, content = self._send(uri, "PUT", body, headers)
        if response.status in (200, 201):
            return parse_file(parse_json(content))
        if response.status != 308:
            raise build_error(response, content)
        kept = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", response.get("range", "0--1").strip())
        position = int(kept[1]) + 1 if kept else 0
        if (kept is None and "range" in response) or position > most:
            raise UnreadableResponse("no position")
        return position

    def _require_trusted(self, uri: str) -> None:
        """Raise ForeignSession unless the URI's host may get the access token.

        It is the endpoint's, or Google's over TLS.
        """
        origins: list[tuple[str, str, int | None]] = []
        try:
            for each in (uri, self._endpoint):
                parts = urlsplit(each)
                port = parts.port or _ORIGIN_PORTS.get(parts.scheme)
                origins.append((parts.scheme, parts.hostname or "", port))
            is_plain = re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+/[!-\[\]-~]*", uri)
        except ValueError:
            is_plain = None
        if is_plain and origins[0] != origins[1]:
            scheme, host, port = origins[0]
            is_google = host == "googleapis.com" or host.endswith(".googleapis.com")
            is_plain = is_plain if (scheme, port) == ("https", 443) and is_google else None
        if not is_plain:
            raise ForeignSession

    def _send(
        self, uri: str, method: str, body: object, headers: dict[str, str]
    ) -> tuple[Any, bytes]:
        """Send one request with the access token. Returns the response and its body.

        After an error the connection may hold unread bytes, and is closed.
        """
        try:
            response, content = self._http().request(uri, method=method, body=body, headers=headers)
        except BaseException:
            self.close_connections()
            raise
        if response.status not in (200, 201, 308):
            self.close_connections()
        return response, content

    def _execute(self, request: Any) -> dict[str, object]:
        """Send a request that the library built, and return its JSON object.

        The library's own `execute` returns what is no JSON unchanged, and fails in odd ways on
        JSON that it does not expect. Raises HttpError and UnreadableResponse.
        """
        response, content = self._send(request.uri, request.method, request.body, request.headers)
        if response.status != 200:
            raise build_error(response, content)
        return parse_json(content)

    def _http(self) -> Any:
        """Return the thread's HTTP object."""
        http = getattr(self._local, "http", None)
        if http is None:
            transport = Transport(self._socket_timeout)
            self._opened.callback(transport.close)
            http = google_auth_httplib2.AuthorizedHttp(self._credentials, http=transport)
            http._request = _check_token_answers(http._request)
            self._local.http = http
        return http

    @cached_property
    def _files(self) -> Any:
        """The `files` resource. It only builds requests, for all threads."""
        service = build_from_document(
            {**load_discovery_document(), "rootUrl": self._endpoint},
            http=self._http(),
            client_options={"api_endpoint": self._endpoint + "drive/v3/"},
        )
        return service.files()


def build_error(response: Any, content: bytes) -> Exception:
    """Build the exception for an answer that is not a success."""
    try:
        error: Exception = HttpError(response, content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        error = UnreadableResponse("an error that is no text, or odd JSON")
    return error


def _check_token_answers(request: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap google-auth's transport, so that a proxy's page is not taken for a token.

    google-auth would fail with a TypeError, or call the credentials revoked. Tokens come by POST;
    metadata servers answer GET.
    """

    def checked(url: str, method: str = "GET", **options: Any) -> Any:
        response = request(url, method, **options)
        if method == "POST":
            answer = parse_json(response.data)
            token = answer.get("access_token", answer.get("accessToken", answer.get("id_token")))
            seconds = answer.get("expires_in", 0)
            if response.status == 200 and not (
                isinstance(token, str) and token.isprintable() and str(seconds).isdigit()
            ):
                raise UnreadableResponse("no token")
        return response

    return checked


@cache
def load_discovery_document() -> dict[str, Any]:
    """Load the description of the API that comes with the library, so that none is downloaded."""
    text = (
        resources.files("googleapiclient.discovery_cache")
        .joinpath("documents/drive.v3.json")
        .read_text("utf-8")
    )
    document: dict[str, Any] = json.loads(text)
    return document
