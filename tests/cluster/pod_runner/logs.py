"""The part of a kubelet's API that `kubectl logs` needs: the API server forwards such requests.

Path, query and refusals are those of the kubelet (`getContainerLogs` in pkg/kubelet/server).
A test may say what is answered for the pods of a namespace, and reads which requests came.
"""

import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tests.cluster.control_plane.certificates import Pair
from tests.cluster.pod_runner.life import Life


@dataclass(frozen=True)
class LogAnswer:
    """What is answered in place of the log of a pod's process."""

    body: bytes
    status: int = 200
    # Wait for this event before anything is sent.
    hold: threading.Event | None = None
    # Whether it is HTTP at all: if not, only the body is sent.
    is_http: bool = True


@dataclass(frozen=True)
class LogRequest:
    """One request. `at` is in seconds of a clock that nobody sets."""

    namespace: str
    pod: str
    query: dict[str, str]
    at: float


@dataclass
class LogServer:
    """Serves `/containerLogs/<namespace>/<pod>/<container>` over TLS on a port of 127.0.0.1."""

    find_life: Callable[[str, str], Life | None]
    pair: Pair
    # By namespace: the answer for a pod of this name.
    answers: dict[str, Callable[[str], LogAnswer]] = field(default_factory=dict)
    requests: list[LogRequest] = field(default_factory=list)
    # Requests that wait for their answer's `hold` now.
    held: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pair.certificate, self.pair.key)
        # The thread of the connection does the handshake, so a slow one delays no other.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        threading.Thread(
            target=self._server.serve_forever, name="kubelet-logs", daemon=True
        ).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        url = urlsplit(handler.path)
        parts, query = url.path.strip("/").split("/"), dict(parse_qsl(url.query))
        if parts[0] != "containerLogs" or len(parts) != 4:
            handler.send_error(404)
            return
        namespace, pod = parts[1], parts[2]
        with self._lock:
            self.requests.append(LogRequest(namespace, pod, query, time.monotonic()))
        if namespace in self.answers:
            self._send(handler, self.answers[namespace](pod), query)
            return
        life = self.find_life(namespace, pod)
        if life is None or not life.log.exists():
            handler.send_error(404, f'pod "{pod}" in namespace "{namespace}" not found')
            return
        with life.log.open("rb") as log:
            self._send(handler, LogAnswer(log.read()), query)
            while "follow" in query and not life.gone.wait(0.2):
                handler.wfile.write(log.read())

    def _send(
        self, handler: BaseHTTPRequestHandler, answer: LogAnswer, query: dict[str, str]
    ) -> None:
        if answer.hold is not None:
            with self._lock:
                self.held += 1
            answer.hold.wait()
            with self._lock:
                self.held -= 1
        if answer.is_http:
            handler.send_response(answer.status)
            handler.send_header("Content-Type", "text/plain")
            handler.end_headers()
        lines = answer.body.splitlines(keepends=True)
        wanted = int(query.get("tailLines", len(lines)))
        tail = b"".join(lines[max(0, len(lines) - wanted) :])
        # The bytes are counted from the first of these lines on.
        handler.wfile.write(tail[: int(query.get("limitBytes", len(tail)))])


def _handler(logs: LogServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # nobody waits for the answer any more
                super().handle()

        def do_GET(self) -> None:
            logs.serve(self)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler
