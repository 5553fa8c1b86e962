"""The operator's small HTTP server: /livez, /readyz and /metrics.

It is a WSGI application, with prometheus-client's own application for the metrics. It runs in
threads of its own, so that it answers while a pass is running.
"""

import errno
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import make_wsgi_app

from enrollgate.telemetry.health import Health
from enrollgate.telemetry.metrics import REGISTRY

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_LOG = structlog.get_logger(__name__)
_NO_IPV6 = frozenset(
    {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT}
)


class PortUnavailable(Exception):
    """The server cannot listen on the port; the message names it."""


@contextmanager
def serving(port: int, health: Health) -> Iterator[int]:
    """Serve on all IPv6 and IPv4 addresses while the context lasts, and give the port.

    Port 0 serves nothing. Raises PortUnavailable.
    """
    if port == 0:
        yield 0
        return
    try:
        app = _build_app(health)
        server: WSGIServer
        try:
            server = make_server("::", port, app, _DualStackServer, _SilentHandler)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
            server = make_server("", port, app, _Server, _SilentHandler)
    except OSError as error:
        raise PortUnavailable(
            f"ENROLLGATE_HTTP_PORT={port}: {error.strerror}: choose another port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    _LOG.info("serving /livez, /readyz and /metrics", port=port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _build_app(health: Health) -> "WSGIApplication":
    metrics_app: WSGIApplication = make_wsgi_app(REGISTRY)

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        status, text = HTTPStatus.OK, "ok"
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics_app(environ, start_response)
            case "/livez":
                if not health.is_alive():
                    status = HTTPStatus.SERVICE_UNAVAILABLE
                    text = "no pass has ended or made progress lately"
            case "/readyz":
                if not health.is_ready():
                    status = HTTPStatus.SERVICE_UNAVAILABLE
                    text = "the last pass failed, or no pass has ended yet: see the log"
            case _:
                status, text = HTTPStatus.NOT_FOUND, "try /livez, /readyz or /metrics"
        body = f"{text}\n".encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
        ]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    return app


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _DualStackServer(_Server):
    """One socket for both families: a kubelet probes the pod's address, whichever family it has."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every few seconds."""
