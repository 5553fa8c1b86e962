"""How requests are sent, and what unusual answers mean."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.faulty_site import Fault, FaultySite
from tests.orders import order_for, run
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import YoutubeDLError

from enrollgate.domain.hosts import check_url
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.yt_dlp import YtDlp


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An HTTP proxy, named by the environment, that answers 404. The URLs that it was sent."""
    requested = list[str]()

    class Proxy(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("no_proxy", "")
    yield requested
    server.shutdown()
    server.server_close()


def test_an_http_proxy_of_the_environment_is_used(
    site: FaultySite, tmp_path: Path, proxy: list[str]
) -> None:
    url, hosts = "http://courses.example.com/f", ("courses.example.com",)
    report = run(order_for(site, tmp_path, course_url=url, allowed_hosts=hosts))
    assert report.reason is Reason.COURSE_NOT_FOUND, report
    assert set(proxy) == {url}


def test_no_other_country_is_pretended(site: FaultySite, tmp_path: Path) -> None:
    seen = list[str | None]()

    class GeoIE(InfoExtractor):  # type: ignore[misc]  # yt-dlp has no types
        _VALID_URL = r"geo:(?P<id>.+)"

        def _real_extract(self, url: str) -> None:
            seen.append(self._x_forwarded_for_ip)
            self.raise_geo_restricted(countries=["DE"])

    downloader = YtDlp(order_for(site, tmp_path, scratch_dir=tmp_path), threading.Event())
    downloader._ydl.add_info_extractor(GeoIE())
    with pytest.raises(YoutubeDLError):
        downloader._ydl.extract_info("geo:1", ie_key="Geo", process=False)
    downloader.close()
    assert seen == [None], "yt-dlp tried again with a false X-Forwarded-For"


@pytest.mark.parametrize("host", ["[64:ff9b::a00:1]", "[::7f00:1]", "[::ffff:0:127.0.0.1]"])
def test_ipv6_forms_of_private_ipv4_addresses_are_refused(host: str) -> None:
    with pytest.raises(Failure) as caught:
        check_url(f"https://{host}/", ())
    assert caught.value.reason is Reason.HOST_NOT_ALLOWED


def test_a_malformed_retry_after_is_ignored(site: FaultySite, tmp_path: Path) -> None:
    site.faults["/feed"] = Fault(status=429, headers={"Retry-After": "\u00b2"})
    report = run(order_for(site, tmp_path))
    assert (report.reason, report.retry_after) == (Reason.RATE_LIMITED, None)


def test_a_403_for_a_fragment_of_a_granted_stream_may_be_retried(
    site: FaultySite, tmp_path: Path
) -> None:
    fragments = "".join(f"#EXTINF:4,\n{site.url}/{n}.mp4\n" for n in (1, 2, 3))
    playlist = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n{fragments}#EXT-X-ENDLIST\n"
    site.pages["/course.m3u8"] = ("application/vnd.apple.mpegurl", playlist.encode())
    site.faults["/2.mp4"] = Fault(status=403)
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/course.m3u8"))
    assert report.reason is Reason.INCOMPLETE_DOWNLOAD, report
