"""A plugin of pytest: run yt-dlp's network tests on our request handler.

Tests of yt-dlp's other handlers (Requests, CurlCFFI, Websockets) are left out: we do not use them.
"""

import errno
import os
import socket
from collections.abc import Mapping
from typing import Any

import pytest
from tests.yt_dlp_network.refused import REFUSED
from yt_dlp.networking.common import _REQUEST_HANDLERS

from enrollgate.worker.downloaders.network_guard import GuardedRequestHandler
from enrollgate.worker.downloaders.yt_dlp_compat import Request, RequestError, Response

# Where nobody may answer. Networks with a transparent proxy do.
_DEAD_HOST = "10.255.255.255"
# What an administrator would list for the servers that the tests start and name.
_ALLOWED_HOSTS = ("127.0.0.1", "localhost", _DEAD_HOST, "中文.tw")
# A run in which fewer requests reach our handler has tested something else.
_LEAST_REQUESTS = 80


class GuardedRH(GuardedRequestHandler):
    """Our handler, as the tests build theirs."""

    requests = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(allowed_hosts=_ALLOWED_HOSTS, **options)

    def _send(self, request: Request) -> Response:
        GuardedRH.requests += 1
        return super()._send(request)


class _Socket(socket.socket):
    def connect(self, address: Any, /) -> None:
        if address[0] == _DEAD_HOST:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        super().connect(address)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "download: needs the internet")
    _REQUEST_HANDLERS[GuardedRH.RH_KEY] = GuardedRH
    socket.socket = _Socket  # type: ignore[misc]  # for the life of this process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if _handler(item) in (None, GuardedRH.RH_KEY)]
    mark_refused(items, REFUSED)


def mark_refused(items: list[pytest.Item], refused: Mapping[str, str]) -> None:
    """Expect the refused tests to fail. Raises UsageError if one of them does not exist."""
    by_name = {item.nodeid.rpartition("/")[2]: item for item in items}
    if missing := sorted(refused.keys() - by_name.keys()):
        raise pytest.UsageError(f"refused.py names tests that do not exist: {missing}")
    for name, reason in refused.items():
        by_name[name].add_marker(
            pytest.mark.xfail(strict=True, reason=reason, raises=(RequestError, AssertionError))
        )


def _handler(item: pytest.Item) -> object:
    return item.callspec.params.get("handler") if hasattr(item, "callspec") else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if GuardedRH.requests < _LEAST_REQUESTS:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"requests on our handler: {GuardedRH.requests}")
