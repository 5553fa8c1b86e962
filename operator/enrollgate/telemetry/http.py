"""The operator's small HTTP server: /livez, /readyz and /metrics. It has threads of its own, so that it answers during a pass."""

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

from enrollgate.telemetry import metrics
from enrollgate.telemetry.health import Health

_LOG = structlog.get_logger(__name__)
_TEXT = "text/plain; charset=utf-8"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class PortUnavailable(Exception):
    """The port cannot be listened on; the message names it."""


@contextmanager
def serving(port: int, health: Health) -> Iterator[int]:
    """Serves on all addresses, IPv6 and IPv4, while the context lasts; gives the port. Port 0 serves nothing. Raises
    PortUnavailable.
    """
    if port == 0:
        yield 0
        return
    try:
        server = _listen(port, _handler(health))
    except OSError as error:
        raise PortUnavailable(
            f"ENROLLGATE_HTTP_PORT={port}: {error.strerror}: choose another port"
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    _LOG.info("serving /livez, /readyz and /metrics", port=port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _BothFamilies(ThreadingHTTPServer):
    """One socket for both: a kubelet probes the pod's own address, whichever family the cluster has."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


_NO_IPV6 = frozenset(
    {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT}
)


def _listen(port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    try:
        return _BothFamilies(("::", port), handler)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return ThreadingHTTPServer(("", port), handler)


def _handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(HTTPStatus.OK, _PROMETHEUS, metrics.render())
            elif path == "/livez":
                self._say(health.is_alive(), "ok", "no pass has ended or got on lately")
            elif path == "/readyz":
                self._say(
                    health.is_ready(),
                    "ok",
                    "the last pass was given up, or there was none yet: see the log",
                )
            else:
                self._answer(
                    HTTPStatus.NOT_FOUND, _TEXT, b"/livez, /readyz and /metrics are here\n"
                )

        def _say(self, is_well: bool, yes: str, no: str) -> None:
            status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, _TEXT, f"{yes if is_well else no}\n".encode())

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are not worth a line."""

    return Handler
