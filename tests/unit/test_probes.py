"""The probes and the metrics, over real HTTP."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import absent
from tests.databases.server import free_port

from enrollgate.telemetry import http
from enrollgate.telemetry.health import Health
from enrollgate.telemetry.http import (
    ALL_ADDRESSES,
    CONNECTION_LIMIT,
    REQUEST_LIMIT,
    PortUnavailable,
    serving,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(liveness_timeout=60, monotonic=clock)


@pytest.fixture
def port(health: Health) -> Iterator[int]:
    with serving(ALL_ADDRESSES, free_port(), health) as served:
        yield served


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_alive_while_passes_end_and_ready_after_a_success(
    port: int, clock: Clock, health: Health
) -> None:
    assert get(port, "/livez") == (200, "ok\n") and get(port, "/readyz")[0] == 503
    health.record_pass(is_ready=True)
    assert get(port, "/readyz") == (200, "ok\n")
    health.record_pass(is_ready=False)
    assert get(port, "/readyz")[0] == 503 and get(port, "/livez")[0] == 200, (
        "an unavailable database must not cause a restart"
    )
    clock.now = 60
    assert get(port, "/livez") == (503, "no pass has ended or made progress lately\n")
    health.record_pass(is_ready=True)
    assert get(port, "/livez")[0] == 200


def test_the_server_answers_at_ipv6_and_ipv4_addresses(port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        absent("IPv6", str(error))
    assert get(port, "/livez", "[::1]") == get(port, "/livez", "127.0.0.1") == (200, "ok\n")


@pytest.mark.parametrize("refusal", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_the_server_answers_at_ipv4_addresses(
    health: Health, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    """Without IPv6, a kernel refuses the socket; with IPv6 switched off, the address."""
    bind = socket.socket.bind

    class Kernel(socket.socket):
        def __init__(self, family: int = socket.AF_INET, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6 and refusal == errno.EAFNOSUPPORT:
                raise OSError(refusal, os.strerror(refusal))
            super().__init__(family, *arguments, **options)

        def bind(self, address: Any, /) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(refusal, os.strerror(refusal))
            bind(self, address)

    number = free_port()
    monkeypatch.setattr(socket, "socket", Kernel)
    with serving(ALL_ADDRESSES, number, health) as served:
        assert get(served, "/livez") == (200, "ok\n")


def test_metrics_are_in_the_prometheus_text_format(port: int) -> None:
    status, text = get(port, "/metrics?x=1")
    assert status == 200 and "# TYPE enrollgate_passes_total counter" in text
    assert get(port, "/elsewhere")[0] == 404


def test_a_port_in_use_is_named(port: int, health: Health) -> None:
    with pytest.raises(
        PortUnavailable, match=f"ENROLLGATE_HTTP_PORT={port}: .*: choose another port"
    ):
        with serving(ALL_ADDRESSES, port, health):
            pass


def test_port_0_serves_nothing(health: Health) -> None:
    with serving(ALL_ADDRESSES, 0, health) as served:
        assert served == 0


def exchange(port: int, request: bytes) -> bytes:
    """Return all that the server answers to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_head_has_the_headers_of_get_and_no_body(port: int) -> None:
    answers = {
        (method, path): exchange(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for method in ("GET", "HEAD")
        for path in ("/livez", "/readyz", "/elsewhere")
    }
    for path in ("/livez", "/readyz", "/elsewhere"):
        headers, _, body = answers["GET", path].partition(b"\r\n\r\n")
        assert body and answers["HEAD", path] == headers + b"\r\n\r\n"
        assert f"Content-Length: {len(body)}".encode() in headers


def test_answers_show_no_version_of_anything(port: int) -> None:
    for path in ("/livez", "/metrics", "/elsewhere"):
        headers = exchange(port, f"GET {path} HTTP/1.0\r\n\r\n".encode()).partition(b"\r\n\r\n")[0]
        names = {line.partition(b":")[0] for line in headers.splitlines()[1:]}
        assert names == {b"Content-Type", b"Content-Length", b"Connection"}


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /livez HTTP/1.1\r\n\r\n", b"405"),
        (b"GET livez HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /livez\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * 2 * REQUEST_LIMIT + b"\r\n\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\n" + b"X: a\r\n" * REQUEST_LIMIT + b"\r\n", b"431"),
        (b"GET /" + b"a" * REQUEST_LIMIT + b" HTTP/1.1\r\n\r\n", b"431"),
    ],
)
def test_odd_requests_are_refused(port: int, request_bytes: bytes, status: bytes) -> None:
    assert exchange(port, request_bytes).split()[1] == status
    assert get(port, "/livez")[0] == 200


def test_a_request_without_its_end_is_not_answered(port: int) -> None:
    assert exchange(port, b"GET /livez HTTP/1.1\r\n") == b""


def test_slow_connections_keep_nobody_from_the_probes(port: int) -> None:
    """Slowloris: many connections that send a header now and then, and never end it."""
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(3 * CONNECTION_LIMIT)
        ]
        for _ in range(3):
            for connection in slow:
                with contextlib.suppress(OSError):  # the server has closed the oldest
                    connection.sendall(b"GET /livez HTTP/1.1\r\nX: a\r\n")
            assert get(port, "/livez") == (200, "ok\n")
        threads = [thread for thread in threading.enumerate() if thread.name == "http"]
        assert len(threads) == 1


def test_a_connection_ends_after_its_time_however_active(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECTION_TIMEOUT", 0.3)
    with serving("127.0.0.1", free_port(), health) as served:
        with socket.create_connection(("127.0.0.1", served), timeout=30) as connection:
            with pytest.raises(OSError):
                while True:
                    connection.sendall(b"X: a\r\n")
                    time.sleep(0.01)


def test_a_peer_that_reads_nothing_does_not_stop_the_server(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
        silent.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert get(port, "/metrics")[0] == 200


def test_the_server_listens_at_its_address_only(health: Health) -> None:
    with serving("127.0.0.2", free_port(), health) as served:
        assert get(served, "/livez", "127.0.0.2") == (200, "ok\n")
        with pytest.raises(urllib.error.URLError):
            get(served, "/livez", "127.0.0.1")


FEW_FILES = """
import os, resource, structlog, sys, time
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from enrollgate.telemetry.health import Health
from enrollgate.telemetry.http import serving

with serving("127.0.0.1", int(sys.argv[1]), Health(liveness_timeout=600, monotonic=time.monotonic)):
    print("serving", flush=True)
    sys.stdin.readline()
    for descriptor in [os.open("/dev/null", os.O_RDONLY) for _ in range(25)]:
        os.close(descriptor)
    print("files are left", flush=True)
    sys.stdin.readline()
"""


def test_many_connections_leave_open_files_to_the_operator() -> None:
    port = free_port()
    with (
        subprocess.Popen(
            [sys.executable, "-c", FEW_FILES, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as served,
        contextlib.ExitStack() as stack,
    ):
        assert served.stdin is not None and served.stdout is not None
        assert served.stdout.readline() == "serving\n"
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        assert get(port, "/livez")[0] == 200
        served.stdin.write("\n")
        served.stdin.flush()
        assert served.stdout.readline() == "files are left\n"
