"""Streams of real packagers, served by nginx over TLS: they are delivered with every frame."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from tests.conftest import absent
from tests.media import make_media
from tests.repository import REPOSITORY
from tests.webservers.nginx import start_nginx
from tests.webservers.site import WebServer
from tests.webservers.worker import run_worker

from enrollgate.worker.verification import file_checker

SECONDS = 6
FRAMES = SECONDS * 10
SUBTITLES = "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nCentre the clay.\n"
# One file for each track, and byte ranges in it; or one file for each segment.
ONE_FILE = (
    "in=in.mp4,stream=video,output=v.mp4,playlist_name=v.m3u8",
    "in=in.mp4,stream=audio,output=a.mp4,playlist_name=a.m3u8,hls_group_id=audio,hls_name=En",
)
SEGMENTS = (
    "in=in.mp4,stream=video,init_segment=v.mp4,segment_template=v$Number$.m4s,playlist_name=v.m3u8",
    "in=in.mp4,stream=audio,init_segment=a.mp4,segment_template=a$Number$.m4s,playlist_name=a.m3u8,"
    "hls_group_id=audio,hls_name=En",
)
TRANSPORT_STREAM = (
    "in=in.mp4,stream=video,segment_template=v$Number$.ts,playlist_name=v.m3u8",
    "in=in.mp4,stream=audio,segment_template=a$Number$.ts,playlist_name=a.m3u8,"
    "hls_group_id=audio,hls_name=En",
)
TEXT = (
    "in=s.vtt,stream=text,segment_template=t$Number$.vtt,playlist_name=t.m3u8,hls_group_id=text,"
    "hls_name=English,language=en",
)

pytestmark = pytest.mark.usefixtures("webservers")


@pytest.fixture
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    with start_nginx(tmp_path_factory.mktemp("nginx")) as running:
        (running.files.folder / "media").mkdir(parents=True)
        yield running


@pytest.fixture(scope="session")
def packager() -> str:
    made = subprocess.run(
        [REPOSITORY / "scripts" / "packager"], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        absent("Shaka Packager", "run scripts/packager with access to a package index")
    return made.stdout.strip()


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    return shutil.which("ffmpeg") or absent("ffmpeg", "install it")


def deliver(nginx: WebServer, tmp_path: Path, name: str, **settings: str) -> Path:
    """Run the worker on this stream below `media/`. Returns the lecture that it delivered."""
    url = f"{nginx.files.url}/media/{name}"
    report = run_worker(tmp_path, url, nginx.host, nginx.authority, **settings)
    assert report.reason is None, report
    (lecture,) = (tmp_path / "out").rglob("*.mp4")
    return lecture


def assert_whole(lecture: Path, frames: int = FRAMES) -> None:
    """Check that every frame of the picture is there and decodes, and that the sound is."""
    findings = file_checker().check(lecture, threading.Event())
    assert (findings.problem, findings.streams) == ("", ("audio", "video")), findings
    assert findings.seconds is not None and abs(findings.seconds - frames / 10) < 0.5
    with av.open(str(lecture), "r") as media:
        assert sum(1 for _ in media.decode(video=0)) == frames


@pytest.mark.parametrize(
    ("tracks", "manifest"),
    [
        (ONE_FILE, "s.mpd"),
        (ONE_FILE, "m.m3u8"),
        (SEGMENTS, "s.mpd"),
        (SEGMENTS, "m.m3u8"),
        (TRANSPORT_STREAM, "m.m3u8"),
    ],
    ids=["DASH-ranges", "HLS-ranges", "DASH-segments", "HLS-segments", "HLS-ts"],
)
def test_a_packaged_stream_is_delivered_with_every_frame(
    nginx: WebServer,
    tmp_path: Path,
    packager: str,
    ffmpeg: str,
    tracks: tuple[str, ...],
    manifest: str,
) -> None:
    package(nginx, packager, tracks)
    assert_whole(deliver(nginx, tmp_path, manifest))


def test_subtitles_of_a_packaged_stream_are_delivered(
    nginx: WebServer, tmp_path: Path, packager: str, ffmpeg: str
) -> None:
    package(nginx, packager, (*SEGMENTS, *TEXT))
    assert_whole(deliver(nginx, tmp_path, "m.m3u8", SUBTITLES="all"))
    (subtitle,) = (tmp_path / "out").rglob("*.vtt")
    assert "Centre the clay." in subtitle.read_text()


def package(nginx: WebServer, packager: str, tracks: tuple[str, ...]) -> None:
    folder = nginx.files.folder / "media"
    (folder / "in.mp4").write_bytes(make_media("ts", SECONDS))
    (folder / "s.vtt").write_text(SUBTITLES)
    outputs = ["--hls_master_playlist_output", "m.m3u8", "--segment_duration", "2"]
    if tracks is not TRANSPORT_STREAM:
        outputs += ["--mpd_output", "s.mpd", "--generate_static_live_mpd"]
    subprocess.run([packager, *tracks, *outputs], cwd=folder, check=True, stderr=subprocess.DEVNULL)


HLS_OPTIONS = ("-f", "hls", "-hls_time", "2", "-hls_playlist_type", "vod")


@pytest.mark.parametrize(
    ("kind", "encrypted"),
    [("mpegts", False), ("mpegts", True), ("fmp4", False)],
    ids=["mpegts", "AES-128", "fmp4"],
)
def test_a_stream_made_by_ffmpeg_is_delivered_with_every_frame(
    nginx: WebServer, tmp_path: Path, ffmpeg: str, kind: str, encrypted: bool
) -> None:
    folder = nginx.files.folder / "media"
    (folder / "in.ts").write_bytes(make_media("ts", SECONDS))
    (folder / "key").write_bytes(bytes(range(16)))
    (folder / "about-key").write_text(f"{nginx.files.url}/media/key\n{folder / 'key'}\n")
    key = ["-hls_key_info_file", "about-key"] if encrypted else []
    sound = ["-bsf:a", "aac_adtstoasc"] if kind == "fmp4" else []
    options = [*sound, *HLS_OPTIONS, "-hls_segment_type", kind, *key]
    command = [ffmpeg, "-v", "error", "-i", "in.ts", "-c", "copy", *options, "s.m3u8"]
    subprocess.run(command, cwd=folder, check=True)
    assert_whole(deliver(nginx, tmp_path, "s.m3u8"))


def test_a_stream_with_a_discontinuity_is_delivered_with_every_frame(
    nginx: WebServer, tmp_path: Path, ffmpeg: str
) -> None:
    """The clock starts again in the middle, as after an advertisement."""
    folder = nginx.files.folder / "media"
    lines = list[str]()
    for part in range(2):
        (folder / f"{part}.ts").write_bytes(make_media("ts", SECONDS, part))
        lines += ["#EXT-X-DISCONTINUITY"] * part + [f"#EXTINF:{SECONDS}.0,", f"{part}.ts"]
    text = "\n".join(["#EXTM3U", f"#EXT-X-TARGETDURATION:{SECONDS}", *lines, "#EXT-X-ENDLIST"])
    (folder / "s.m3u8").write_text(text)
    assert_whole(deliver(nginx, tmp_path, "s.m3u8"), 2 * FRAMES)
