"""TLS to API servers with certificates that are valid, but not strictly conformant.

Python 3.13 refuses them by default.
"""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import aiohttp
import pytest
from kubernetes import client
from tests.cluster.control_plane.certificates import Authority
from tests.conftest import absent
from tests.repository import PACKAGE

from enrollgate.control.kopf_controller import ConnectionInfo
from enrollgate.domain.check import Severity
from enrollgate.launchers import LauncherUnavailable
from enrollgate.launchers.kubernetes import Api, check_access
from enrollgate.launchers.kubernetes.tls import find_certificate_error


class ApiServer(BaseHTTPRequestHandler):
    """Answer every request with one object."""

    def do_GET(self) -> None:
        body = b'{"kind": "Job"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Its certificate has no keyUsage, and what it signs has no authority key identifier."""
    return Authority(tmp_path)


@pytest.fixture
def port(authority: Authority) -> Iterator[int]:
    """An HTTPS server on 127.0.0.1 and localhost."""
    pair = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server = ThreadingHTTPServer(("0.0.0.0", 0), ApiServer)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # refused handshakes are what some tests want
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def build_api(host: str, port: int, ca: Path) -> Api:
    configuration = client.Configuration()
    configuration.host = f"https://{host}:{port}"
    configuration.ssl_ca_cert = str(ca)
    configuration.retries = False
    return Api(configuration, random=Random(1), sleep=lambda _seconds: True)


def ask_by_kubernetes_client(host: str, port: int, ca: Path) -> object:
    with closing(build_api(host, port, ca)) as api:
        return api.request("GET", "/apis/batch/v1/jobs")


def ask_by_kopf(host: str, port: int, ca: Path) -> object:
    async def ask() -> object:
        info = ConnectionInfo(server=f"https://{host}:{port}", ca_path=str(ca))
        connector = aiohttp.TCPConnector(ssl=info.as_ssl_context())
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(info.server) as answer,
        ):
            return await answer.json(content_type=None)

    return asyncio.run(ask())


CLIENTS = pytest.mark.parametrize("ask", [ask_by_kubernetes_client, ask_by_kopf])


@CLIENTS
def test_a_ca_without_key_usage_is_accepted(ask: object, authority: Authority, port: int) -> None:
    assert callable(ask)
    assert ask("localhost", port, authority.certificate) == {"kind": "Job"}


def test_python_itself_refuses_such_a_ca(authority: Authority, port: int) -> None:
    if sys.version_info < (3, 13):
        absent("Python 3.13", "let PYTHON name one for scripts/setup")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    with (
        pytest.raises(ssl.SSLCertVerificationError),
        socket.create_connection(("127.0.0.1", port)) as plain,
    ):
        context.wrap_socket(plain, server_hostname="localhost")


@CLIENTS
def test_a_certificate_of_another_ca_is_refused(ask: object, tmp_path: Path, port: int) -> None:
    assert callable(ask)
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    with pytest.raises(
        (LauncherUnavailable, aiohttp.ClientConnectorCertificateError),
        match="CERTIFICATE_VERIFY_FAILED|its certificate is refused",
    ):
        ask("localhost", port, other.certificate)


@CLIENTS
def test_a_certificate_of_another_host_is_refused(
    ask: object, authority: Authority, port: int
) -> None:
    assert callable(ask)
    with pytest.raises(
        (LauncherUnavailable, aiohttp.ClientConnectorCertificateError), match="127.0.0.2"
    ):
        ask("127.0.0.2", port, authority.certificate)


def test_a_refused_certificate_is_named_with_the_remedy(tmp_path: Path, port: int) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    with pytest.raises(LauncherUnavailable) as refusal:
        ask_by_kubernetes_client("localhost", port, other.certificate)
    text = str(refusal.value)
    assert "its certificate is refused: " in text and "the CA certificate beside" in text
    assert "MaxRetryError" not in text and "SSLError" not in text
    with closing(build_api("localhost", port, other.certificate)) as api:
        check = check_access(api, "courses", None)
    assert check.severity is Severity.FAILED and "its certificate is refused" in check.detail
    assert check.remedy == "correct the address or the CA certificate"
    with pytest.raises(aiohttp.ClientError) as failure:
        ask_by_kopf("localhost", port, other.certificate)
    assert find_certificate_error(failure.value)


def test_operator_that_refuses_the_certificate_ends_with_one_message(
    tmp_path: Path, port: int
) -> None:
    (tmp_path / "other").mkdir()
    cluster = {
        "server": f"https://localhost:{port}",
        "certificate-authority": str(Authority(tmp_path / "other").certificate),
    }
    kubeconfig = tmp_path / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    kubeconfig.write_text(json.dumps(content))
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", str(PACKAGE.parent)),
        "ENROLLGATE_LAUNCHER": "kubernetes",
        "ENROLLGATE_KUBERNETES__IMAGE": "enrollgate:1",
        "ENROLLGATE_DESTINATION": "drive:0123456789",
        "ENROLLGATE_DATABASE_URL": "mysql://u:p@127.0.0.1:1/courses",
    }
    done = subprocess.run(
        [sys.executable, "-m", "enrollgate", "run"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"https://localhost:{port}: its certificate is refused: " in done.stderr
    assert "Traceback" not in done.stderr and "never retrieved" not in done.stderr
    assert "list and watch" not in done.stderr and len(done.stderr) < 1_000


def test_another_error_is_no_refused_certificate() -> None:
    error = OSError("connection refused")
    error.__cause__ = error  # a chain may be a loop
    assert not find_certificate_error(error)
