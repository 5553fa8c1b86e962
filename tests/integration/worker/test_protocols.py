"""How sites really serve lectures: files, pages, feeds, HLS, DASH and DRM, with media that play."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faulty_site import Fault, FaultySite, Lecture, content
from tests.media import lecture
from tests.orders import delivered, order_for, run, start_worker

from enrollgate.domain.account import cookies_name
from enrollgate.domain.reasons import Reason

# yt-dlp leaves responses that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite(
        [Lecture(f"Lecture {n}", lecture(50_000 + n, n)) for n in range(1, 4)]
    ) as running:
        yield running


SECONDS = 6


@pytest.fixture
def hls(site: FaultySite, tmp_path: Path, ffmpeg: str) -> str:
    """Serve a real HLS stream, a picture and a tone in three segments. Return its URL."""
    return make_hls(site, tmp_path / "hls", ffmpeg)


def make_hls(site: FaultySite, folder: Path, ffmpeg: str, *more: str) -> str:
    folder.mkdir(exist_ok=True)
    picture, tone = (
        f"testsrc=size=160x90:rate=10:duration={SECONDS}",
        f"sine=frequency=440:duration={SECONDS}",
    )
    inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone]
    segments = [
        "-f",
        "hls",
        "-hls_time",
        "2",
        "-hls_playlist_type",
        "vod",
        "-force_key_frames",
        "expr:gte(t,n_forced*2)",
    ]
    subprocess.run(
        [ffmpeg, "-loglevel", "error", *inputs, *segments, *more, "stream.m3u8"],
        cwd=folder,
        check=True,
    )
    for file in folder.iterdir():
        kind = "application/vnd.apple.mpegurl" if file.suffix == ".m3u8" else "video/mp2t"
        site.pages[f"/{file.name}"] = (kind, file.read_bytes())
    return f"{site.url}/stream.m3u8"


def assert_it_plays(ffmpeg: str, folder: Path) -> None:
    (file,) = folder.rglob("*.mp4")
    played = subprocess.run(
        [ffmpeg, "-hide_banner", "-xerror", "-i", file, "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert "mov,mp4" in played, "it is an MP4, not a renamed transport stream"
    assert "Video: h264" in played and "Audio: aac" in played
    *_, (minutes, seconds) = re.findall(r"time=00:(\d\d):(\d\d\.\d\d)", played)
    assert minutes == "00" and abs(float(seconds) - SECONDS) < 0.5


def test_a_direct_file_is_a_course_of_one(site: FaultySite, tmp_path: Path) -> None:
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/2.mp4"))
    assert report.reason is None, report
    assert list(delivered(tmp_path).values()) == [site.lectures[1].content]


def test_hls_becomes_one_file_that_plays_to_its_end(
    site: FaultySite, tmp_path: Path, hls: str, ffmpeg: str
) -> None:
    report = run(order_for(site, tmp_path, course_url=hls))
    assert report.reason is None and report.items_delivered == 1, report
    assert_it_plays(ffmpeg, tmp_path / "out")
    asked = {sent.path for sent in site.sent}
    assert {f"/stream{n}.ts" for n in range(3)} <= asked


def test_hls_with_a_key_from_the_site_is_delivered_decrypted(
    site: FaultySite, tmp_path: Path, ffmpeg: str
) -> None:
    """AES-128 is no DRM: the site gives the key to each account that may see the course."""
    folder = tmp_path / "hls"
    folder.mkdir()
    (folder / "key").write_bytes(content(16))
    (folder / "about-key").write_text(f"{site.url}/key\n{folder / 'key'}\n")
    url = make_hls(site, folder, ffmpeg, "-hls_key_info_file", "about-key")
    assert b"#EXT-X-KEY:METHOD=AES-128" in site.pages["/stream.m3u8"][1]
    report = run(order_for(site, tmp_path, course_url=url))
    assert report.reason is None and report.items_delivered == 1, report
    assert_it_plays(ffmpeg, tmp_path / "out")


def test_an_interrupted_hls_stream_continues_at_its_next_segment(
    site: FaultySite, tmp_path: Path, hls: str
) -> None:
    site.faults["/stream2.ts"] = Fault(status=503)
    assert run(order_for(site, tmp_path, course_url=hls)).reason is not None
    site.faults.clear()
    site.sent.clear()
    assert run(order_for(site, tmp_path, course_url=hls, attempt=2)).reason is None
    assert [sent.path for sent in site.sent if sent.path.endswith(".ts")] == ["/stream2.ts"]


def test_after_a_death_during_ffmpeg_the_file_is_repaired_again(
    site: FaultySite, tmp_path: Path, hls: str, ffmpeg: str
) -> None:
    """The first attempt's ffmpeg kills its worker. The result equals that of an undisturbed run."""
    killer = tmp_path / "bin" / "ffmpeg"
    killer.unlink()
    killer.write_text(
        f'#!/bin/sh\ncase "$*" in *media-*) kill -9 $PPID ;; esac\nexec {ffmpeg} "$@"\n'
    )
    killer.chmod(0o755)
    page = hls.removeprefix(site.url)
    assert start_worker(site, tmp_path, page).wait(60) == -9
    assert [path.suffix for path in (tmp_path / "scratch" / "items").rglob("media-*")] == [
        ".mp4"
    ], "it was complete"
    killer.unlink()
    killer.symlink_to(ffmpeg)
    assert run(order_for(site, tmp_path, course_url=hls, attempt=2)).reason is None
    assert run(order_for(site, tmp_path / "other", course_url=hls)).reason is None
    repaired, undisturbed = (
        list(delivered(folder).values()) for folder in (tmp_path, tmp_path / "other")
    )
    assert repaired == undisturbed


def test_the_accounts_cookie_opens_a_members_page(site: FaultySite, tmp_path: Path) -> None:
    site.pages["/members"] = (
        "text/html",
        b'<title>M</title><video src="/1.mp4"></video><video src="/3.mp4"></video>',
    )
    site.wants_cookie = "session=ada"
    order = order_for(site, tmp_path, course_url=f"{site.url}/members")
    assert run(order).reason is Reason.COOKIES_EXPIRED and delivered(tmp_path) == {}
    name = cookies_name("ada@example.com")
    (tmp_path / "cookies").mkdir()
    line = "\t".join(("127.0.0.1", "FALSE", "/", "FALSE", "0", "session", "ada"))
    (tmp_path / "cookies" / name).write_text(f"# Netscape HTTP Cookie File\n{line}\n")
    order = order_for(
        site,
        tmp_path,
        course_url=f"{site.url}/members",
        cookies_dir=tmp_path / "cookies",
        cookies_name=name,
    )
    report = run(order)
    assert report.reason is None and report.items_delivered == 2, report


@pytest.mark.parametrize("downloads", [1, 3])
def test_a_cookie_set_by_the_course_page_is_sent_for_its_media(
    site: FaultySite, tmp_path: Path, downloads: int
) -> None:
    site.pages["/page"] = (
        "text/html",
        b'<title>M</title><video src="/1.mp4"></video><video src="/3.mp4"></video>',
    )
    site.sets_cookie["/page"] = "CloudFront-Key=abc; Path=/"
    site.wants_cookie_for_media = "CloudFront-Key=abc"
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/page", downloads=downloads))
    assert report.reason is None and report.items_delivered == 2, report


WIDEVINE = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT8S"
     profiles="urn:mpeg:dash:profile:isoff-main:2011">
 <Period><AdaptationSet mimeType="video/mp4" codecs="avc1.4d401f">
  <ContentProtection schemeIdUri="urn:mpeg:dash:mp4protection:2011" value="cenc"/>
  <ContentProtection schemeIdUri="urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed"/>
  <Representation id="1" bandwidth="100000" width="160" height="90">
   <BaseURL>1.mp4</BaseURL></Representation>
 </AdaptationSet></Period>
</MPD>
"""


def protected(key: str) -> str:
    """Return an HLS playlist whose key belongs to a DRM system."""
    segments = "#EXTINF:4,\n1.mp4\n#EXTINF:4,\n2.mp4\n"
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-KEY:{key}\n{segments}#EXT-X-ENDLIST\n"


SYSTEMS = {
    "FairPlay, whole": 'METHOD=AES-128,URI="skd://key",KEYFORMAT="com.apple.streamingkeydelivery"',
    "FairPlay": 'METHOD=SAMPLE-AES,URI="skd://key",KEYFORMAT="com.apple.streamingkeydelivery"',
    "PlayReady": 'METHOD=SAMPLE-AES-CTR,URI="data:text/plain;base64,AA==",'
    'KEYFORMAT="com.microsoft.playready"',
    "Widevine": 'METHOD=SAMPLE-AES-CTR,URI="data:text/plain;base64,AA==",'
    'KEYFORMAT="urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed"',
    "Widevine, whole": 'METHOD=AES-128,URI="/3.mp4",'
    'KEYFORMAT="urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed"',
    "sample by sample": 'METHOD=SAMPLE-AES,URI="/3.mp4"',
}


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        *(("p.m3u8", "application/vnd.apple.mpegurl", protected(key)) for key in SYSTEMS.values()),
        ("p.mpd", "application/dash+xml", WIDEVINE),
    ],
    ids=[*(f"{system} over HLS" for system in SYSTEMS), "Widevine over DASH"],
)
def test_no_byte_of_a_drm_protected_stream_is_requested(
    site: FaultySite, tmp_path: Path, name: str, kind: str, text: str
) -> None:
    site.pages[f"/{name}"] = (kind, text.encode())
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/{name}"))
    assert report.reason is Reason.DRM_PROTECTED, report
    assert not [sent for sent in site.sent if sent.path.endswith(".mp4")], (
        "not one byte of it was requested"
    )
    assert delivered(tmp_path) == {}


def test_the_others_are_delivered_beside_a_protected_lecture(
    site: FaultySite, tmp_path: Path
) -> None:
    site.pages["/p.m3u8"] = (
        "application/vnd.apple.mpegurl",
        protected(SYSTEMS["FairPlay"]).encode(),
    )
    sources = "".join(
        f'<video src="{site.url}/{path}"></video>' for path in ("1.mp4", "p.m3u8", "3.mp4")
    )
    site.pages["/page"] = ("text/html", f"<title>Mixed</title>{sources}".encode())
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/page"))
    assert (report.reason, report.items_delivered, report.items_failed) == (
        Reason.DRM_PROTECTED,
        2,
        1,
    ), report
    assert sorted(delivered(tmp_path).values()) == sorted(site.lectures[n].content for n in (0, 2))
