"""A proxy of the environment connects for the worker; what may be requested stays the same."""

import os
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.control_plane.certificates import Authority
from tests.media import lecture
from tests.orders import delivered, make_order, run
from tests.raw_site import RawSite, answer

from enrollgate.domain.reasons import Reason

NAME = "courses.example.test"


@contextmanager
def start_tunnel(port: int) -> Iterator[tuple[str, list[str]]]:
    """Run a proxy that connects to this port of 127.0.0.1, whatever is asked for.

    Yields its URL and what it was asked for.
    """
    asked = list[str]()

    class Tunnel(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode().rpartition(" ")[0])
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with socket.create_connection(("127.0.0.1", port)) as target:
                pairs = {self.connection: target, target: self.connection}
                while ready := select.select(list(pairs), [], [], 30)[0]:
                    for source in ready:
                        block = source.recv(65536)
                        if not block:
                            return
                        pairs[source].sendall(block)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_proxies")
def test_a_course_is_downloaded_through_a_proxy_that_resolves_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    pair = authority.server(names=(NAME,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    with RawSite(context) as site, start_tunnel(site.port) as (proxy, asked):
        monkeypatch.setenv("https_proxy", proxy)
        feed = (
            "<rss><channel><title>A</title><item><title>1</title><guid>1</guid>"
            f'<enclosure url="https://{NAME}/1.mp4" type="video/mp4"/></item></channel></rss>'
        )
        site.answers["/course"] = lambda _: [answer(feed.encode(), kind="text/xml")]
        site.answers["/1.mp4"] = lambda _: [answer(lecture(), kind="video/mp4")]
        order = make_order(tmp_path, course_url=f"https://{NAME}/course", allowed_hosts=())
        report = run(order)
    assert report.reason is None, report
    assert list(delivered(tmp_path).values()) == [lecture()]
    assert set(asked) == {f"CONNECT {NAME}:443"}


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize(
    "url", ["https://10.0.0.1/", "https://[::1]/", "https://other.example/", f"http://{NAME}/"]
)
def test_a_proxy_is_not_asked_for_what_the_worker_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    with start_tunnel(1) as (proxy, asked):
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        allowed = ("*.example.test",) if "example" in url else ()
        report = run(make_order(tmp_path, course_url=url, allowed_hosts=allowed))
    assert report.reason is Reason.HOST_NOT_ALLOWED
    assert asked == []


@pytest.mark.usefixtures("no_proxies")
def test_a_host_in_no_proxy_is_contacted_directly_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443))],
    )
    with start_tunnel(1) as (proxy, asked):
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("no_proxy", NAME)
        report = run(make_order(tmp_path, course_url=f"https://{NAME}/", allowed_hosts=()))
    assert report.reason is Reason.HOST_NOT_ALLOWED, report
    assert "private address 10.0.0.1" in report.message
    assert asked == []
