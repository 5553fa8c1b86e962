"""The operator's small HTTP server: /livez, /readyz and /metrics, by GET and HEAD.

It answers one request per connection, from one thread with an event loop of its own, so that it
answers while a pass is running. A connection has a few seconds for everything, and a request a few
kilobytes. If too many are open, the oldest is closed. So nobody who merely connects can keep a
probe from its answer. The WSGI and ASGI servers on PyPI bound the silence of a connection, not its
time, and refuse new connections while slow ones last.
"""

import asyncio
import errno
import re
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import structlog
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from enrollgate.telemetry.health import Health
from enrollgate.telemetry.metrics import REGISTRY

_LOG = structlog.get_logger(__name__)
# Stands for all addresses of the machine, IPv6 and IPv4.
ALL_ADDRESSES = "*"
# Seconds from the connection to the end of the answer.
CONNECTION_TIMEOUT = 10.0
# Bytes of a request line and its headers, at most. The kubelet and Prometheus send some hundred.
REQUEST_LIMIT = 8192
# Connections at the same time, at most; a quarter of the open files that the process may have.
CONNECTION_LIMIT = 64
# Connections that are accepted before the first of them is looked at.
_BACKLOG = 16
_TEXT = "text/plain; charset=utf-8"
_REQUEST = re.compile(r"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.[01]\r\n")


class PortUnavailable(Exception):
    """The server cannot listen on the port; the message names it."""


@contextmanager
def serving(address: str, port: int, health: Health) -> Iterator[int]:
    """Serve on an IP address, or on ALL_ADDRESSES, while the context lasts, and give the port.

    Port 0 serves nothing. Raises PortUnavailable.
    """
    if port == 0:
        yield 0
        return
    try:
        listener = _listen(address, port)
    except OSError as error:
        raise PortUnavailable(
            f"ENROLLGATE_HTTP_PORT={port}: {error.strerror}: choose another port, or another "
            f"ENROLLGATE_HTTP_ADDRESS than {address}"
        ) from error
    loop = asyncio.new_event_loop()
    stop = loop.create_future()
    server = _Server(health)
    thread = threading.Thread(
        target=loop.run_until_complete,
        args=(server.serve(listener, stop),),
        name="http",
        daemon=True,
    )
    thread.start()
    _LOG.info("serving /livez, /readyz and /metrics", address=address, port=port)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set_result, None)
        thread.join()
        loop.close()


def _listen(address: str, port: int) -> socket.socket:
    if address != ALL_ADDRESSES:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family)
    if socket.has_dualstack_ipv6():
        try:
            # One socket for both families: a kubelet probes the pod's address, whichever it has.
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is switched off
                raise
    return socket.create_server(("", port))


class _Server:
    def __init__(self, health: Health) -> None:
        self._health = health
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        is_limited = limit != resource.RLIM_INFINITY
        self._limit = min(CONNECTION_LIMIT, limit // 4) if is_limited else CONNECTION_LIMIT
        # The tasks of the open connections, the oldest first.
        self._open = dict[asyncio.Task[None], None]()

    async def serve(self, listener: socket.socket, stop: asyncio.Future[None]) -> None:
        """Serve until `stop` has a result, then close every connection."""
        acceptor = await asyncio.start_server(
            self._answer, sock=listener, limit=REQUEST_LIMIT, backlog=_BACKLOG
        )
        await stop
        acceptor.close()
        tasks = [*self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close its connection."""
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("asyncio calls it in a task")
        if len(self._open) >= self._limit:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        self._open[task] = None
        try:
            async with asyncio.timeout(CONNECTION_TIMEOUT):
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.LimitOverrunError:
                    head = b""
                writer.write(self._respond(head.decode("latin-1")))
                await writer.drain()
                # The peer reads before it closes; closing first could discard the answer.
                writer.write_eof()
                while await reader.read(REQUEST_LIMIT):
                    pass
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass  # it is the peer's fault, and anybody may connect
        finally:
            self._open.pop(task, None)
            writer.transport.abort()

    def _respond(self, head: str) -> bytes:
        """Return the whole response. An empty `head` was too large."""
        status, body, kind, allow = HTTPStatus.OK, b"ok\n", _TEXT, ""
        request = _REQUEST.match(head)
        method, path = (request[1], request[2].partition("?")[0]) if request else ("", "")
        if not head:
            status, body = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"send fewer headers\n"
        elif not request:
            status, body = HTTPStatus.BAD_REQUEST, b"send an HTTP/1.1 request\n"
        elif path not in ("/livez", "/readyz", "/metrics"):
            status, body = HTTPStatus.NOT_FOUND, b"try /livez, /readyz or /metrics\n"
        elif method not in ("GET", "HEAD"):
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, b"use GET or HEAD\n"
            allow = "Allow: GET, HEAD\r\n"
        elif path == "/metrics":
            body, kind = generate_latest(REGISTRY), CONTENT_TYPE_PLAIN_0_0_4
        elif path == "/livez" and not self._health.is_alive():
            status = HTTPStatus.SERVICE_UNAVAILABLE
            body = b"no pass has ended or made progress lately\n"
        elif path == "/readyz" and not self._health.is_ready():
            status = HTTPStatus.SERVICE_UNAVAILABLE
            body = b"the last pass failed, or no pass has ended yet: see the log\n"
        headers = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n{allow}Connection: close\r\n\r\n"
        )
        return headers.encode() + (b"" if method == "HEAD" else body)
