"""A reverse proxy between an operator and its API server: it records requests and can hold them.

While a request is held, an operator can be killed at exactly that point. The record shows what
was really sent.
"""

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from tests.cluster.control_plane import Cluster

from enrollgate.launchers.kubernetes.tls import without_strict

_HOP_BY_HOP = {
    "connection",
    "transfer-encoding",
    "content-length",
    "keep-alive",
    "host",
    "accept-encoding",
}
_HOLD_TIMEOUT = 120.0


@dataclass
class Exchange:
    """One request and its answer."""

    method: str
    path: str
    # 0 until the answer arrives.
    status: int = 0
    # Events of a watch that have passed so far.
    lines: list[bytes] = field(default_factory=list)

    @property
    def is_watch(self) -> bool:
        return "watch=true" in self.path

    @property
    def says_gone(self) -> bool:
        """Whether a watch got 410 Gone, as a status or as an ERROR event."""
        return self.is_watch and (self.status == 410 or any(map(_is_gone, self.lines)))


def _is_gone(line: bytes) -> bool:
    event = json.loads(line)
    return bool(event["type"] == "ERROR" and event["object"].get("code") == 410)


@dataclass
class Hold:
    """Stops matching requests, or their answers, until it is released."""

    method: str
    path: re.Pattern[str]
    answers: bool
    held: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False

    def drop(self) -> None:
        """Release, but drop what is held: its connection breaks."""
        self.dropped = True
        self.over.set()


class FaultProxy:
    """Serves until it is closed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._holds: list[Hold] = []
        self._lock = threading.Lock()
        self._watchers: set[http.client.HTTPSConnection] = set()
        self._creates_under_way = 0
        # The largest number of Job creations that were in progress at the same time.
        self.most_creates_at_once = 0
        self.exchanges: list[Exchange] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="fault_proxy", daemon=True).start()

    def kubeconfig(self, original: Path) -> Path:
        """Write a kubeconfig of the same user that goes through this proxy."""
        content = yaml.safe_load(original.read_text())
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        content["clusters"] = [
            {"name": each["name"], "cluster": {"server": url}} for each in content["clusters"]
        ]
        path = original.with_suffix(".proxied")
        path.write_text(yaml.safe_dump(content))
        return path

    @contextmanager
    def hold(self, method: str, path: str, *, answers: bool = False) -> Iterator[Hold]:
        """Hold every matching request until the block ends; with `answers`, hold its answer
        instead.
        """
        made = Hold(method, re.compile(path), answers)
        self._holds.append(made)
        try:
            yield made
        finally:
            self._holds.remove(made)
            made.over.set()

    def cut_watches(self) -> None:
        """Break all open watches."""
        for connection in list(self._watchers):
            with contextlib.suppress(OSError, AttributeError):  # it has ended by itself
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # called by the request handlers

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        exchange = Exchange(handler.command, handler.path)
        with self._lock:
            self.exchanges.append(exchange)
        with self._counted(exchange):
            if not self._passes(exchange, answers=False):
                handler.close_connection = True
                return
            connection = self._connection()
            try:
                self._pass_on(exchange, handler, body, connection)
            finally:
                self._watchers.discard(connection)
                connection.close()

    def _pass_on(
        self,
        exchange: Exchange,
        handler: BaseHTTPRequestHandler,
        body: bytes,
        connection: http.client.HTTPSConnection,
    ) -> None:
        headers = {
            name: value
            for name, value in handler.headers.items()
            if name.lower() not in _HOP_BY_HOP
        }
        connection.request(exchange.method, exchange.path, body or None, headers)
        answer = connection.getresponse()
        exchange.status = answer.status
        streams = exchange.is_watch and answer.status == 200
        data = b"" if streams else answer.read()
        if not self._passes(exchange, answers=True):
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                handler.send_header(name, value)
        handler.send_header(
            *(("Transfer-Encoding", "chunked") if streams else ("Content-Length", str(len(data))))
        )
        handler.end_headers()
        if streams:
            self._watchers.add(connection)
            self._stream(exchange, handler, answer)
        else:
            handler.wfile.write(data)

    @staticmethod
    def _stream(
        exchange: Exchange, handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse
    ) -> None:
        while line := answer.readline():
            exchange.lines.append(line)
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            handler.wfile.flush()
        handler.wfile.write(b"0\r\n\r\n")

    def _passes(self, exchange: Exchange, *, answers: bool) -> bool:
        for hold in list(self._holds):
            if (hold.method, hold.answers) == (exchange.method, answers) and hold.path.search(
                exchange.path
            ):
                with self._lock:
                    hold.held += 1
                hold.over.wait(_HOLD_TIMEOUT)
                if hold.dropped:
                    return False
        return True

    @contextmanager
    def _counted(self, exchange: Exchange) -> Iterator[None]:
        one = int(exchange.method == "POST" and exchange.path.endswith("/jobs"))
        self._count(one)
        try:
            yield
        finally:
            self._count(-one)

    def _count(self, change: int) -> None:
        with self._lock:
            self._creates_under_way += change
            self.most_creates_at_once = max(self.most_creates_at_once, self._creates_under_way)

    def _connection(self) -> http.client.HTTPSConnection:
        context = without_strict(
            ssl.create_default_context(cafile=self._cluster.api.configuration.ssl_ca_cert)
        )
        return http.client.HTTPSConnection(
            self._cluster.url.removeprefix("https://"), context=context, timeout=600
        )


def _handler(fault_proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            with contextlib.suppress(
                OSError, http.client.HTTPException, ValueError
            ):  # one end has closed the connection
                fault_proxy.serve(self)
                return
            self.close_connection = True

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve  # noqa: N815 -- the names are the base class's

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler
