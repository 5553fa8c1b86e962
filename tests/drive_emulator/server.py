"""The emulator's HTTP server: Drive's requests and answers, on top of the store and the faults.

See https://developers.google.com/workspace/drive/api/reference/rest/v3 and, for resumable uploads,
https://developers.google.com/workspace/drive/api/guides/manage-uploads#resumable
"""

import contextlib
import json
import re
import select
import socket
import ssl
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.drive_emulator.discovery import (
    check_answer,
    check_body,
    check_query,
    find_call,
    select_fields,
)
from tests.drive_emulator.faults import Fault, Faults
from tests.drive_emulator.store import FOLDER, Refused, Store
from tests.rate_limiter import RateLimiter

CHUNK_UNIT = 256 * 1024
_PAGE = 100


class DriveEmulator:
    """Serve Drive's API between enter and exit.

    `rate` is in bytes per second, for all uploads together; 0 is unlimited. `tls` is the server's
    TLS context, `name` then its name. Tests set the hooks
    `on_chunk`, `on_bytes`, `before_final_response` and `after_final_response`.
    """

    def __init__(
        self,
        store: Store | None = None,
        faults: Faults | None = None,
        port: int = 0,
        rate: float = 0,
        tls: ssl.SSLContext | None = None,
        name: str = "localhost",
    ) -> None:
        self.store = store or Store()
        self.faults = faults or Faults()
        self.rate = rate
        self.requests: list[tuple[str, int]] = []
        self.ranges: list[str | None] = []  # the Range header of each 308
        self.tokens = {"good"}
        self.token_requests: list[dict[str, str]] = []
        self.token_refusal: str | None = None
        self.token_scope: str | None = None  # the granted scope, if not the requested one
        self.on_chunk: Callable[[], None] = lambda: None
        # Called when a file is complete, before its final response is sent, and after it.
        self.before_final_response: Callable[[], None] = lambda: None
        self.after_final_response: Callable[[], None] = lambda: None
        # Called with the number of bytes of each read of a request's body.
        self.on_bytes: Callable[[int], None] = lambda _size: None
        self.received = 0  # bytes of chunks that arrived, kept or not
        self._rate_limiter = RateLimiter()
        self._lock = threading.Lock()
        emulator = self

        class Handler(_Handler):
            drive = emulator

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                error = sys.exception()
                if not isinstance(error, OSError):
                    emulator.violations.append("".join(traceback.format_exception(error)))

        self._server = Server(("127.0.0.1", port), Handler)
        # Small buffers and packets, as on a real network: little is sent before it is read.
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        address = "http://127.0.0.1" if tls is None else f"https://{name}"
        self.port = int(self._server.server_address[1])
        self.url = f"{address}:{self.port}/"
        # What the emulator did that Drive would not do.
        self.violations: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        assert kind is not None or not self.violations, self.violations

    def user_login(self) -> dict[str, str]:
        """Return the content of an authorized_user file whose tokens come from the emulator."""
        return {
            "type": "authorized_user",
            "client_id": "client",
            "client_secret": "TOPSECRET-client",
            "refresh_token": "TOPSECRET-refresh",
            "token_uri": self.url + "token",
        }

    def throttle(self, size: int) -> None:
        """Wait as long as `size` bytes take at the configured rate."""
        self._rate_limiter.wait(size, self.rate)

    def count(self, size: int) -> None:
        """Count the received bytes of a chunk."""
        with self._lock:
            self.received += size


class _Handler(BaseHTTPRequestHandler):
    drive: DriveEmulator
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def do_PATCH(self) -> None:
        self._handle()

    def _handle(self) -> None:
        """Read the request, let its fault happen, and answer."""
        parts = urlsplit(self.path)
        self.parameters = parse_qs(parts.query, keep_blank_values=True)
        self.query = {name: values[-1] for name, values in self.parameters.items()}
        self.call = find_call(self.command, parts.path)
        operation, respond = self._route(parts.path)
        fault = self.drive.faults.next(operation)
        self.drive.store.requests += 1
        length = int(self.headers.get("Content-Length") or 0)
        halved = fault is not None and fault.kind in ("cut", "stall")
        self.body = self._read(length // 2 if halved else length)
        if operation == "chunk":
            self.drive.count(len(self.body))
        if halved or len(self.body) < length:
            return self._break_connection(operation, fault)
        try:
            if (
                operation != "token"
                and self.headers.get("Authorization", "")[7:] not in self.drive.tokens
            ):
                raise Refused(401, "authError", "Invalid Credentials")
            if fault and fault.kind == "status":
                body = _error_body(fault.status, fault.reason, fault.message, fault.detail)
                return self._send(fault.status, body, fault.headers, operation)
            if fault and fault.kind == "raw":
                return self._send(fault.status, fault.body, fault.headers, operation)
            if self.call is not None:
                check_query(self.call, self.parameters)
            status, answer, headers = respond(fault)
        except Refused as refused:
            status, answer, headers = (
                refused.status,
                _error_body(refused.status, refused.reason, refused.message),
                {},
            )
        if fault and fault.kind == "lost":
            return self._reset()
        if fault and fault.kind == "page":
            status, answer, headers = 200, "<html>log in to the proxy first</html>", {}
        if fault and fault.kind == "edit":
            answer = fault.edit(answer)
        if fault and fault.kind == "headers":
            headers = headers | fault.headers
        is_last = operation == "chunk" and status == 200
        if is_last:
            self.drive.before_final_response()
        self._send(
            status, answer, headers, operation, truncated=bool(fault and fault.kind == "truncated")
        )
        if is_last:
            self.wfile.flush()
            self.drive.after_final_response()
        return None

    def _break_connection(self, operation: str, fault: Fault | None) -> None:
        """End the connection in the middle of a request. Of a chunk, whole 256 KiB are kept."""
        start = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", self.headers.get("Content-Range", ""))
        if operation == "chunk" and start:
            kept = self.body[: len(self.body) // CHUNK_UNIT * CHUNK_UNIT]
            with contextlib.suppress(Refused):
                self.drive.store.append(self.query["upload_id"], int(start[1]), kept)
        if fault and fault.kind == "stall":
            _wait_until_closed(self.connection)
        self._reset()

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                block = self.rfile.read1(min(65536, length - len(data)))
            except OSError:
                break
            if not block:
                break
            data += block
            self.drive.on_bytes(len(block))
            self.drive.throttle(len(block))
        return bytes(data)

    def _route(self, path: str) -> tuple[str, Callable[[Fault | None], Any]]:
        """Return the operation and the function that answers it."""
        if path == "/token":
            return "token", self._token
        if path == "/upload/drive/v3/files" and self.command == "PUT":
            is_query = self.headers.get("Content-Range", "").startswith("bytes */")
            return "probe" if is_query else "chunk", self._chunk
        operations: dict[tuple[str, bool], tuple[str, Callable[[Fault | None], Any]]] = {
            ("generateIds", False): ("generateIds", self._generate_ids),
            ("list", False): ("list", self._list),
            ("create", False): ("create", self._create),
            ("create", True): ("session", self._begin),
            ("get", False): ("get", self._get),
            ("update", False): ("update", self._update),
            ("delete", False): ("delete", self._delete),
        }
        page = "<!DOCTYPE html><html><title>Error 404 (Not Found)!!1</title></html>"
        unknown = ("unknown", lambda _: (404, page, {"Content-Type": "text/html"}))
        if self.call is None:
            return unknown
        return operations.get((self.call.name, self.call.is_upload), unknown)

    def _token(self, _fault: Fault | None) -> Any:
        form = {name: values[-1] for name, values in parse_qs(self.body.decode()).items()}
        self.drive.token_requests.append(form)
        if self.drive.token_refusal:
            word, _, text = self.drive.token_refusal.partition(": ")
            return 400, {"error": word, "error_description": text or "refused"}, {}
        again = (
            {"refresh_token": "TOPSECRET-refresh"}
            if form.get("grant_type") == "authorization_code"
            else {}
        )
        if self.drive.token_scope:
            again["scope"] = self.drive.token_scope
        return (
            200,
            {
                **again,
                "access_token": next(iter(self.drive.tokens)),
                "expires_in": 3600,
                "token_type": "Bearer",
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            },
            {},
        )

    def _require_all_drives(self) -> None:
        """Refuse a request that leaves out shared drives, if there is one."""
        if self.drive.store.drive_id and self.query.get("supportsAllDrives") != "true":
            raise Refused(404, "notFound", "File not found")

    def _answer(self, schema: str, answer: dict[str, Any]) -> Any:
        """Return the part of an answer that the request asks for, checked against the document."""
        check_answer(schema, answer)
        return 200, select_fields(schema, self.query.get("fields"), answer), {}

    def _json_body(self) -> dict[str, Any]:
        """Return the metadata in the request's body. Refuses what the API does not take."""
        if not self.body and self.command == "PATCH":
            return {}
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "badContent", "Unsupported content type.")
        try:
            body: dict[str, Any] = json.loads(self.body)
        except ValueError:
            raise Refused(400, "parseError", "Parse Error") from None
        check_body("File", body)
        return body

    def _file_id(self) -> str:
        return self.call.arguments["fileId"] if self.call else ""

    def _generate_ids(self, _fault: Fault | None) -> Any:
        ids = self.drive.store.new_ids(int(self.query.get("count", "10")))
        answer = {"kind": "drive#generatedIds", "space": self.query.get("space", "drive")}
        return self._answer("GeneratedIds", {**answer, "ids": ids})

    def _list(self, _fault: Fault | None) -> Any:
        store = self.drive.store
        if store.drive_id and self.query.get("includeItemsFromAllDrives") != "true":
            return self._answer("FileList", {"files": []})
        if self.query.get("driveId", store.drive_id) != store.drive_id:
            raise Refused(404, "notFound", f"Shared drive not found: {self.query['driveId']}")
        found = store.find(self.query.get("q", ""))
        token = self.query.get("pageToken", "~!!~0")
        if not re.fullmatch(r"~!!~\d{1,9}", token):
            raise Refused(400, "invalid", "Invalid Value: pageToken")
        start, count = int(token[4:]), min(_PAGE, int(self.query.get("pageSize", "100")))
        answer: dict[str, Any] = {"kind": "drive#fileList", "incompleteSearch": False}
        if len(found) > start + count:
            answer["nextPageToken"] = f"~!!~{start + count}"
        return self._answer("FileList", {**answer, "files": found[start : start + count]})

    def _get(self, _fault: Fault | None) -> Any:
        self._require_all_drives()
        return self._answer("File", self.drive.store.get(self._file_id()))

    def _delete(self, _fault: Fault | None) -> Any:
        self._require_all_drives()
        self.drive.store.delete(self._file_id())
        return 204, None, {}

    def _update(self, _fault: Fault | None) -> Any:
        self._require_all_drives()
        body, query = self._json_body(), self.query
        file = self.drive.store.update(
            self._file_id(), body, query.get("addParents"), query.get("removeParents")
        )
        return self._answer("File", file)

    def _create(self, _fault: Fault | None) -> Any:
        self._require_all_drives()
        body = self._json_body()
        if body.get("mimeType") != FOLDER:
            raise Refused(400, "invalid", "only folders can be created without media")
        return self._answer("File", self.drive.store.insert(body))

    def _begin(self, _fault: Fault | None) -> Any:
        self._require_all_drives()
        if self.query.get("uploadType") != "resumable":
            raise Refused(400, "invalid", "only resumable uploads")
        body, fields = self._json_body(), self.query.get("fields")
        size = self.headers.get("X-Upload-Content-Length", "")
        if not size.isdigit() or not self.headers.get("X-Upload-Content-Type"):
            raise Refused(400, "badRequest", "X-Upload-Content-Length and -Type are needed here")
        name = self.drive.store.begin(body, int(size), fields)
        query = f"uploadType=resumable&upload_id={name}"
        return 200, None, {"Location": f"{self.drive.url}upload/drive/v3/files?{query}"}

    def _chunk(self, fault: Fault | None) -> Any:
        """Take a chunk, or answer how much is kept (`Content-Range: bytes */size`)."""
        store, name = self.drive.store, self.query.get("upload_id", "")
        if set(self.query) != {"uploadType", "upload_id"}:
            raise Refused(400, "badRequest", "not the session's URI")
        span = self.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", span)
        is_query = span.startswith("bytes */")
        data, start = self.body, int(match[1]) if match else 0
        if match and int(match[2]) - start + 1 != len(data):
            raise Refused(400, "invalid", "the body's length differs from Content-Range")
        if match and int(match[2]) + 1 != int(match[3]) and len(data) % CHUNK_UNIT:
            raise Refused(400, "invalid", "a chunk must be a multiple of 256 KiB")
        total = span.rpartition("/")[2]
        if name in store.uploads and total not in ("", "*", str(store.uploads[name].size)):
            raise Refused(400, "badRequest", "Failed to parse Content-Range header.")
        if fault and fault.kind == "dropped":
            store.drop(name)
            return 308, None, {}
        if fault and fault.kind == "partial":
            data = data[: len(data) // 2 // CHUNK_UNIT * CHUNK_UNIT]
        if (fault and fault.kind == "nothing_kept") or (is_query and not self._is_complete(name)):
            data = b""
            upload = store.uploads.get(name)
            if upload is None or upload.expired:
                raise Refused(404, "notFound")
        else:
            upload = store.append(
                name, start, data, corrupt=bool(fault and fault.kind == "corrupt")
            )
            self.drive.on_chunk()
        if upload.file is not None and not (fault and fault.kind == "nothing_kept"):
            self.query["fields"] = upload.fields or ""
            if upload.fields is None:
                del self.query["fields"]
            return self._answer("File", store.get(upload.file["id"]))
        return 308, None, {"Range": f"bytes=0-{upload.received - 1}"} if upload.received else {}

    def _is_complete(self, name: str) -> bool:
        upload = self.drive.store.uploads.get(name)
        return upload is not None and upload.file is not None

    def _send(
        self,
        status: int,
        answer: Any,
        headers: dict[str, str],
        operation: str,
        *,
        truncated: bool = False,
    ) -> None:
        body = (
            b""
            if answer is None
            else answer
            if isinstance(answer, bytes)
            else answer.encode()
            if isinstance(answer, str)
            else json.dumps(answer).encode()
        )
        self.drive.requests.append((operation, status))
        if truncated and not body:
            return self._reset()
        if operation in ("chunk", "probe") and status == 308:
            self.drive.ranges.append(headers.get("Range"))
        if "Date" in headers:
            self.send_response_only(status)
        else:
            self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        if "Content-Type" not in headers:
            self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if truncated else body)
        self.close_connection = self.close_connection or truncated
        return None

    def _reset(self) -> None:
        """Reset the connection instead of answering."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _wait_until_closed(connection: socket.socket) -> None:
    """Read nothing, as a stalled server does, until the client closes the connection."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
    poll.poll(30_000)


def _error_body(status: int, reason: str, message: str, detail: str = "") -> dict[str, Any]:
    details = (
        {"details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": detail}]}
        if detail
        else {}
    )
    return {
        "error": {
            "code": status,
            "errors": [{"domain": "global", "reason": reason, "message": message}],
            "message": message,
            **details,
        }
    }
