"""A TCP proxy in front of a database server, as a virtual address or a load balancer is one.

New connections can be sent to another server while the old ones stay open, connections can fall
silent without being closed, and statements can be refused.
"""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_TIMEOUT = 120


class TcpProxy:
    """Forwards to a port of this machine until it is closed."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._sockets = list[socket.socket]()
        self._lock = threading.Lock()
        self._silent = set[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        # What a client must not send, and what it is answered then: an error packet's number and
        # message.
        self.refused = b""
        self.refusal = (0, "")
        self.refusals = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def switch(self, port: int) -> None:
        """Send new connections to another port. The old ones stay open."""
        self._target = port

    def cut(self) -> None:
        """End the connections that are open now."""
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        """Let nothing pass on the connections that are open now, and do not close them."""
        with self._lock:
            self._silent |= set(self._sockets)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), _TIMEOUT)
                except ConnectionError:  # the server is down
                    client.close()
                    continue
                server.settimeout(None)
                with self._lock:
                    self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(
                        target=self._forward, args=(source, sink, source is client), daemon=True
                    ).start()

    def _forward(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source in self._silent:
                    continue
                if from_client and self.refused and self.refused in data.upper():
                    self.refusals += 1
                    source.sendall(_error_packet(*self.refusal))
                else:
                    sink.sendall(data)
        if source not in self._silent:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


def _error_packet(code: int, message: str) -> bytes:
    """Build the answer to a statement that fails.

    https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_err_packet.html
    """
    body = b"\xff" + code.to_bytes(2, "little") + b"#HY000" + message.encode()
    return len(body).to_bytes(3, "little") + b"\x01" + body
