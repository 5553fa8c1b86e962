"""A site that sends exactly the bytes that a test says, and keeps all requests it gets."""

import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.message import Message
from http.client import parse_headers
from typing import Self


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: Message
    body: bytes


Answer = Callable[[Received], Iterable[bytes]]


class RawSite:
    """Serves `answers` by path, without the query, on 127.0.0.1. Each is sent, then closed."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        """With a context it speaks TLS."""
        self.answers: dict[str, Answer] = {}
        self.requests: list[Received] = []
        site = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                method, path, *_ = self.rfile.readline().decode("latin-1").split(" ")
                headers = parse_headers(self.rfile)
                body = self.rfile.read(int(headers.get("Content-Length", 0)))
                received = Received(method, path, headers, body)
                site.requests.append(received)
                respond: Answer = site.answers.get(path.partition("?")[0], _not_found)
                try:
                    for block in respond(received):
                        self.wfile.write(block)
                except OSError:
                    pass  # the worker has read enough

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.port = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def requests_for(self, path: str) -> list[Received]:
        """Return the requests for this path."""
        return [each for each in self.requests if each.path.partition("?")[0] == path]


def answer(
    body: bytes = b"", status: str = "200 OK", *, kind: str = "text/html", **headers: str
) -> bytes:
    """Return a complete answer. `headers` by their names with underscores."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}"]
    if "Transfer_Encoding" not in headers:
        headers.setdefault("Content_Length", str(len(body)))
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def _not_found(_: Received) -> list[bytes]:
    return [answer(b"no such page", "404 Not Found")]
