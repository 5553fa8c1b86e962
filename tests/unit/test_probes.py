"""The probes and the metrics, over real HTTP."""

import errno
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import absent
from tests.databases.server import free_port

from enrollgate.telemetry.health import Health
from enrollgate.telemetry.http import PortUnavailable, serving


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
    with serving(free_port(), health) as served:
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
    with serving(number, health) as served:
        assert get(served, "/livez") == (200, "ok\n")


def test_metrics_are_in_the_prometheus_text_format(port: int) -> None:
    status, text = get(port, "/metrics?x=1")
    assert status == 200 and "# TYPE enrollgate_passes_total counter" in text
    assert get(port, "/elsewhere")[0] == 404


def test_a_port_in_use_is_named(port: int, health: Health) -> None:
    with pytest.raises(
        PortUnavailable, match=f"ENROLLGATE_HTTP_PORT={port}: .*: choose another port"
    ):
        with serving(port, health):
            pass


def test_port_0_serves_nothing(health: Health) -> None:
    with serving(0, health) as served:
        assert served == 0
