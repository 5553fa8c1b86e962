"""Drive behind real forward proxies, over TLS with an authority of the tests' own."""

import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.control_plane.certificates import Authority
from tests.conftest import absent
from tests.drive_emulator import DriveEmulator
from tests.faulty_site import FaultySite, Lecture
from tests.integration.drive.bench import Bench
from tests.media import lecture
from tests.webservers.proxies import (
    NAME,
    PASSWORD,
    USER,
    ForwardProxy,
    start_microsocks,
    start_tinyproxy,
)

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.destinations.drive import errors
from enrollgate.worker.destinations.drive.transport import choose_proxy
from enrollgate.worker.work import work

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))


def start_emulator(authority: Authority, name: str) -> DriveEmulator:
    pair = authority.server(names=(name,))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    return DriveEmulator(tls=context, name=name)


@pytest.fixture
def hidden(tmp_path: Path, authority: Authority) -> Iterator[Bench]:
    """A destination whose name only the proxies know."""
    for program in ("unshare", "tinyproxy", "microsocks"):
        if shutil.which(program) is None or os.geteuid() != 0:
            absent("forward proxies", "run scripts/webservers and the tests as root on Debian")
    with start_emulator(authority, NAME) as emulator:
        yield Bench(emulator, tmp_path)


@pytest.fixture
def plain(tmp_path: Path, authority: Authority) -> Iterator[Bench]:
    """A destination that can be reached without a proxy."""
    with start_emulator(authority, "localhost") as emulator:
        yield Bench(emulator, tmp_path)


def send_through(bench: Bench, proxy: ForwardProxy) -> None:
    """Deliver an item, and check that the proxy made the connections."""
    bench.send(bench.open_drive(), size=3_000_000)
    bench.only_file()
    assert proxy.connects() >= 1


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_drive_is_reached_through_the_proxy(
    hidden: Bench, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    with start_tinyproxy(hidden.folder) as proxy:
        monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{proxy.port}")
        send_through(hidden, proxy)


def test_whole_run_goes_through_a_proxy_with_a_login(
    hidden: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_tinyproxy(hidden.folder, with_login=True) as proxy:
        login = f"{USER}:{''.join(f'%{ord(each):x}' for each in PASSWORD)}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://{login}@127.0.0.1:{proxy.port}/")
        with FaultySite([Lecture(f"L{n}", lecture(70_000, n)) for n in range(3)]) as site:
            report = work(hidden.order(site), stop=threading.Event())
        assert (report.reason, report.items_delivered) == (None, 3)
        assert proxy.connects() >= 2


def test_drive_is_reached_through_a_socks_proxy(
    hidden: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_microsocks(hidden.folder) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{proxy.port}")
        hidden.send(hidden.open_drive(), size=3_000_000)
        hidden.only_file()
        assert NAME in proxy.log.read_text()


def test_without_the_proxy_the_name_is_unknown(hidden: Bench) -> None:
    with pytest.raises(Failure) as caught:
        hidden.open_drive()
    assert caught.value.message == errors.CONNECTION_LOST.message


def test_wrong_login_is_named_without_the_password(
    hidden: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_tinyproxy(hidden.folder, with_login=True) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{USER}:TOPSECRET@127.0.0.1:{proxy.port}")
        with pytest.raises(Failure) as caught:
            hidden.open_drive()
    failure = caught.value
    assert failure.reason is Reason.NETWORK_ERROR
    assert failure.message == f"{errors.PROXY_REFUSES.message} (the proxy answers HTTP 407)" or (
        failure.message == f"{errors.PROXY_REFUSES.message} (the proxy answers HTTP 401)"
    )
    assert "HTTPS_PROXY" in failure.remedy and "TOPSECRET" not in str(failure)
    assert hidden.pauses.seconds == [], "it is not tried again"


def test_proxy_that_forbids_the_port_is_named(
    hidden: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_tinyproxy(hidden.folder, allowed_port=443) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(Failure, match="the proxy answers HTTP 403"):
            hidden.open_drive()


@pytest.mark.parametrize(
    "exempt",
    [
        "localhost",
        "*",
        "a.example, localhost ,b.example",
        ".localhost",
        "*.localhost",
        "LOCALHOST",
        "localhost:443",
    ],
)
def test_hosts_of_no_proxy_are_reached_directly(
    plain: Bench, monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", exempt)
    plain.send(plain.open_drive(), size=1000)
    plain.only_file()


@pytest.mark.parametrize("exempt", ["", "example.com", "host", "notlocalhost"])
def test_dead_proxy_never_leads_to_a_direct_connection(
    plain: Bench, monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", exempt)
    with pytest.raises(Failure) as caught:
        plain.open_drive()
    assert caught.value.reason is Reason.NETWORK_ERROR
    assert plain.emulator.requests == []


@pytest.mark.parametrize("value", ["https://proxy:3128", "ftp://proxy", "http://", "http://p:x"])
def test_unusable_proxy_is_a_configuration_error(
    plain: Bench, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(Failure, match="ConfigurationError: HTTPS_PROXY names no proxy") as caught:
        plain.open_drive()
    assert "http://host:port" in caught.value.remedy
    assert plain.emulator.requests == []


def test_unknown_authority_is_named(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(Failure) as caught:
        plain.open_drive()
    assert caught.value.message == errors.UNTRUSTED.message
    assert "SSL_CERT_FILE" in caught.value.remedy


def test_proxy_that_answers_byte_by_byte_is_understood(
    plain: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PySocks would leave the headers behind the first line unread, and TLS would fail."""

    def forward(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(65536)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answer = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 slow\r\n\r\n"
            for number in range(len(answer)):
                client.sendall(answer[number : number + 1])
                threading.Event().wait(0.001)
            server = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=forward, args=pair, daemon=True).start()

    port = int(plain.emulator.url.rstrip("/").rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
        plain.send(plain.open_drive(), size=1000)
        plain.only_file()


@pytest.mark.parametrize(
    ("environ", "host", "expected"),
    [
        ({}, "www.googleapis.com", None),
        ({"HTTP_PROXY": "http://p:1"}, "www.googleapis.com", None),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "a.b", "http://p:1"),
        ({"https_proxy": " ", "HTTPS_PROXY": "http://q:2"}, "a.b", "http://q:2"),
        ({"HTTPS_PROXY": "q:2", "ALL_PROXY": "socks5://r:3"}, "a.b", "http://q:2"),
        ({"HTTPS_PROXY": "http://[::1]"}, "a.b", "http://::1:80"),
        ({"ALL_PROXY": "socks5://r"}, "a.b", "socks5://r:1080"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".googleapis.com"}, "www.googleapis.com", None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "googleapis.com"}, "www.googleapis.com", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "apis.com"}, "googleapis.com", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "metadata.google.internal", None),
        ({"HTTPS_PROXY": "http://p:1"}, "169.254.169.254", None),
    ],
)
def test_proxy_is_chosen_as_curl_does(
    environ: dict[str, str], host: str, expected: str | None
) -> None:
    found = choose_proxy(environ, "https", host)
    assert (found and f"{found.kind}://{found.host}:{found.port}") == expected
    secret = choose_proxy({"HTTPS_PROXY": "http://u:TOPSECRET@p:1"}, "https", "a.b")
    assert "TOPSECRET" not in repr(secret)
