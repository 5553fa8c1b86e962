"""A hostile site, extractor or machine gets no enrollment, no token and no code run."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faulty_site import FaultySite
from tests.media import lecture, ts_segment
from tests.orders import delivered, make_order, run
from tests.raw_site import RawSite, answer
from tests.repository import REPOSITORY
from yt_dlp import YoutubeDL
from yt_dlp.extractor.common import InfoExtractor

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import Report
from enrollgate.worker.downloaders import guarded
from enrollgate.worker.downloaders.extractors import GenericIE
from enrollgate.worker.downloaders.guarded import open_youtube_dl
from enrollgate.worker.downloaders.yt_dlp import YtDlp
from enrollgate.worker.downloaders.yt_dlp_compat import Request
from enrollgate.worker.downloaders.yt_dlp_errors import errors_as_failures

PLUGIN = """
from pathlib import Path
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.extractor.generic import GenericIE
Path({marker!r}).touch()
class TakesAllIE(InfoExtractor):
    _VALID_URL = r"https?://.*"
    def _real_extract(self, url):
        raise AssertionError("the plugin was used")
class _OverridesGenericIE(GenericIE, plugin_name="other"):
    def _real_extract(self, url):
        raise AssertionError("the override was used")
"""


def test_plugins_and_configuration_of_the_machine_are_ignored(
    site: FaultySite, tmp_path: Path
) -> None:
    marker, home = tmp_path / "plugin-was-loaded", tmp_path / "home"
    for folder in (
        tmp_path / "path" / "yt_dlp_plugins" / "extractor",
        home / ".config" / "yt-dlp" / "plugins" / "a" / "yt_dlp_plugins" / "extractor",
        home / ".yt-dlp" / "plugins" / "b" / "yt_dlp_plugins" / "extractor",
        home / "xdg" / "yt-dlp-plugins" / "c" / "yt_dlp_plugins" / "extractor",
    ):
        folder.mkdir(parents=True)
        (folder / "takes_all.py").write_text(PLUGIN.format(marker=str(marker)))
    for config in (home / ".config" / "yt-dlp" / "config", home / "yt-dlp.conf"):
        config.write_text(f"--exec 'touch {marker}'\n--proxy http://127.0.0.1:9\n--simulate\n")
    (home / ".netrc").write_text("default login ada password secret\n")
    report = tmp_path / "report.json"
    settings = {
        "TASK_ID": "7",
        "COURSE_URL": f"{site.url}/feed",
        "SCRATCH_DIR": str(tmp_path / "scratch"),
        "REPORT_PATH": str(report),
        "ALLOWED_HOSTS": site.host,
        "DESTINATION": f"directory:{tmp_path / 'out'}",
    }
    subprocess.run(
        [sys.executable, "-m", "enrollgate", "work"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "xdg"),
            "PYTHONPATH": f"{tmp_path / 'path'}:{REPOSITORY / 'operator'}",
        }
        | {f"ENROLLGATE_{name}": value for name, value in settings.items()},
        cwd=home,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert Report.decode(report.read_text()).reason is None, report.read_text()
    assert len(delivered(tmp_path)) == len(site.lectures)
    assert not marker.exists()


class EnrollsIE(InfoExtractor):  # type: ignore[misc]  # yt-dlp has no types
    """An extractor that enrolls: each part of its URL after `#` names a way."""

    _VALID_URL = r"enrolls:(?P<base>http[^#]+)#(?P<way>.+)"

    def _real_extract(self, url: str) -> object:
        base, way = self._match_valid_url(url).group("base", "way")
        requests: dict[str, Callable[[], object]] = {
            "page": lambda: self._download_webpage(f"{base}/course/subscribe/?courseId=1", way),
            "post": lambda: self._download_json(
                f"{base}/api-2.0/users/me/subscribed-courses/", way, data=b"{}"
            ),
            "put": lambda: self._request_webpage(
                Request(f"{base}/api/enrollments/1", method="PUT"), way
            ),
            "redirect": lambda: self._download_webpage(f"{base}/hop", way),
            "head": lambda: self._request_webpage(Request(f"{base}/cart/", method="HEAD"), way),
            "mutation": lambda: self._download_json(
                f"{base}/graphql", way, data=b'{"query": "mutation { enrollMe(id: 1) }"}'
            ),
        }
        return requests[way]()


@pytest.mark.parametrize("way", ["page", "post", "put", "redirect", "head", "mutation"])
def test_an_extractor_that_enrolls_is_refused(tmp_path: Path, way: str) -> None:
    with RawSite() as site:
        site.answers["/hop"] = lambda _: [
            answer(status="302 Found", Location="/payment/checkout/1")
        ]
        order = make_order(tmp_path, allowed_hosts=(site.host,), scratch_dir=tmp_path)
        downloader = YtDlp(order, threading.Event())
        downloader._ydl.add_info_extractor(EnrollsIE())
        with pytest.raises(Failure) as refused, errors_as_failures():
            url = f"enrolls:{site.url}#{way}"
            downloader._ydl.extract_info(url, ie_key="Enrolls", process=False)
        downloader.close()
        sent = [each.path for each in site.requests]
    assert refused.value.reason is Reason.ACCESS_DENIED
    assert "so it was not sent" in refused.value.message
    assert sent == (["/hop"] if way == "redirect" else [])


class UdemyCourseIE(InfoExtractor):  # type: ignore[misc]  # yt-dlp has no types
    """An extractor that goes on if it could not enroll: `result` says with what.

    It has the name of one that is asked before the generic extractor.
    """

    _VALID_URL = r"(?P<base>http[^?]+/try)\?(?P<result>.+)"

    def _real_extract(self, url: str) -> object:
        base, result = self._match_valid_url(url).group("base", "result")
        self._download_webpage(f"{base}/course/subscribe/", result, fatal=False)
        preview = self.url_result(f"{base}/preview.mp4")
        results: dict[str, Callable[[], object]] = {
            "nothing": lambda: self.playlist_result([]),
            "previews": lambda: self.playlist_result([preview], "1", "A course"),
            "one": lambda: preview,
            "missing": lambda: self._download_json(f"{base}/gone", result),
            "error": lambda: self._search_regex("x", "y", "the course"),
        }
        return results[result]()


@pytest.mark.parametrize("result", ["nothing", "previews", "one", "missing", "error"])
def test_an_extractor_that_ignores_a_refused_enrollment_is_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: str
) -> None:
    def add(ydl: YoutubeDL) -> None:
        for extractor in (UdemyCourseIE(), GenericIE()):
            ydl.add_info_extractor(extractor)

    monkeypatch.setattr(guarded, "add_extractors", add)
    with RawSite() as site:
        site.answers["/try/preview.mp4"] = lambda _: [answer(lecture(), kind="video/mp4")]
        url = f"{site.url}/try?{result}"
        report = run(make_order(tmp_path, course_url=url, allowed_hosts=(site.host,)))
        assert report.reason is Reason.ACCESS_DENIED, report
        assert not any("subscribe" in each.path for each in site.requests)


def test_the_list_of_the_accounts_courses_is_read(tmp_path: Path) -> None:
    path = "/api-2.0/users/me/subscribed-courses/1/lectures/2"
    with RawSite() as site, open_youtube_dl({}, (site.host,), threading.Event()) as ydl:
        site.answers[path] = lambda _: [answer(b"{}", kind="application/json")]
        assert ydl.urlopen(f"{site.url}{path}?fields[asset]=captions").read() == b"{}"


TOKENS = {"Authorization": "Bearer secret", "X-Udemy-Authorization": "Bearer secret"}


def received(site: RawSite, path: str) -> dict[str, str]:
    """Return the headers of the only request for the path, by their names in lower case."""
    (request,) = site.requests_for(path)
    return {name.lower(): value for name, value in request.headers.items()}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_token_to_another_site(status: int) -> None:
    with RawSite() as site, RawSite() as other:
        hosts = (site.host, other.host)
        site.answers["/a"] = lambda _: [answer(status=f"{status} X", Location="/b")]
        site.answers["/b"] = lambda _: [answer(status=f"{status} X", Location=f"{other.url}/c")]
        other.answers["/c"] = lambda _: [answer(b"hello")]
        headers = TOKENS | {"Cookie": "session=secret", "Referer": f"{site.url}/p?token=secret"}
        with open_youtube_dl({}, hosts, threading.Event()) as ydl:
            response = ydl.urlopen(Request(f"{site.url}/a", headers=headers))
            assert response.read() == b"hello"
        assert received(site, "/b")["authorization"] == "Bearer secret"
        there = received(other, "/c")
    assert "secret" not in str(there)
    assert there["referer"] == f"{site.url}/"
    assert there["user-agent"]


def test_a_playlist_takes_no_token_to_another_site(tmp_path: Path) -> None:
    with RawSite() as site, RawSite() as other:
        playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n"
        playlist += (
            f"#EXTINF:0.6,\n{site.url}/1.ts\n#EXTINF:0.6,\n{other.url}/2.ts\n#EXT-X-ENDLIST\n"
        )
        kind = "application/vnd.apple.mpegurl"
        site.answers["/v.m3u8"] = lambda _: [answer(playlist.encode(), kind=kind)]
        site.answers["/1.ts"] = lambda _: [answer(ts_segment(7_000, 1), kind="video/mp2t")]
        other.answers["/2.ts"] = lambda _: [answer(ts_segment(7_000, 2), kind="video/mp2t")]
        info = {
            **{"id": "1", "title": "x", "ext": "ts", "protocol": "m3u8_native"},
            "url": f"{site.url}/v.m3u8",
            "http_headers": TOKENS | {"Referer": f"{site.url}/p?token=secret"},
        }
        options = {"quiet": True, "cachedir": False, "skip_unavailable_fragments": False}
        with open_youtube_dl(options, (site.host, other.host), threading.Event()) as ydl:
            ydl.dl(str(tmp_path / "x.ts"), info)
        assert received(site, "/1.ts")["authorization"] == "Bearer secret"
        there = received(other, "/2.ts")
    assert "secret" not in str(there)
    assert there["referer"] == f"{site.url}/"


def test_the_media_of_a_page_get_its_origin_as_referrer(tmp_path: Path) -> None:
    with RawSite() as site, RawSite() as cdn:
        page = f'<title>A</title><video src="{cdn.url}/1.mp4"></video>'.encode()
        site.answers["/course"] = lambda _: [answer(page)]
        cdn.answers["/1.mp4"] = lambda _: [answer(lecture(), kind="video/mp4")]
        order = make_order(
            tmp_path,
            course_url=f"{site.url}/course?token=secret",
            allowed_hosts=(site.host, cdn.host),
        )
        run(order)
        referrers = {each.headers["Referer"] for each in cdn.requests}
    assert referrers <= {f"{site.url}/", None}
    assert f"{site.url}/" in referrers


def test_a_proxy_password_stays_with_the_proxy() -> None:
    with RawSite() as proxy, RawSite() as direct:
        proxy_url = proxy.url.replace("//", "//ada:secret@")
        target = "http://courses.example.com/a"
        proxy.answers[target] = lambda _: [answer(status="302 Found", Location=f"{direct.url}/b")]
        direct.answers["/b"] = lambda _: [answer(b"hello")]
        proxies = {"http": proxy_url, "no": "127.0.0.1"}
        hosts = ("courses.example.com", direct.host)
        with open_youtube_dl({}, hosts, threading.Event()) as ydl:
            assert ydl.urlopen(Request(target, proxies=proxies)).read() == b"hello"
        assert received(proxy, target)["proxy-authorization"].startswith("Basic ")
        assert "proxy-authorization" not in received(direct, "/b")


def test_a_redirect_to_a_host_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    with RawSite() as site, RawSite() as private:
        location = f"{private.url}/metadata"
        site.answers["/feed"] = lambda _: [answer(status="302 Found", Location=location)]
        order = make_order(tmp_path, course_url=f"{site.url}/feed", allowed_hosts=(site.host,))
        assert run(order).reason is Reason.HOST_NOT_ALLOWED
        assert private.requests == []
