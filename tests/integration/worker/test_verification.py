"""What a site sends instead of a lecture is never delivered, and what it sends has its true name.

Each answer here has HTTP 200: no status says that anything is wrong.
"""

import gzip
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faulty_site import FaultySite, Lecture
from tests.media import MEDIA_KINDS, fmp4_parts, lecture, make_document, make_media, ts_segment
from tests.orders import delivered, make_order, order_for, run
from tests.streams import DASH, HLS, serve_dash, serve_hls

from enrollgate.domain.reasons import Reason
from enrollgate.worker.course import Fetched
from enrollgate.worker.verification import file_checker, verify

# yt-dlp leaves responses that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ERRORS = {
    "JSON": b'{"error": {"code": 500, "message": "try again"}}',
    "a list": b'["error", "expired"]',
    "text": b"Internal error. Please contact support.",
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a fragment": b'<div class="error">Something went wrong</div>',
    "a playlist": b"#EXTM3U\n#EXTINF:2,\n/etc/hostname\n#EXT-X-ENDLIST\n",
    "nothing": b"",
    "a tiny GIF": b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
    "random bytes": os.urandom(5000).replace(b"G", b"\0"),
    "half a lecture": lecture(60_000)[:30_000],
}
MAINTENANCE = (
    b"<!doctype html><html><head><title>Maintenance</title></head>"
    b"<body>We will be back soon.</body></html>"
)


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite([Lecture(f"L{n}", lecture(50_000, n)) for n in (1, 2, 3)]) as running:
        yield running


@pytest.mark.parametrize("body", [*ERRORS.values(), MAINTENANCE], ids=[*ERRORS, "maintenance"])
def test_what_comes_instead_of_a_lecture_is_not_delivered(
    site: FaultySite, tmp_path: Path, body: bytes
) -> None:
    site.pages["/2.mp4"] = ("video/mp4", body)
    report = run(order_for(site, tmp_path))
    assert report.reason in (Reason.SITE_ERROR, Reason.INCOMPLETE_DOWNLOAD), report
    assert set(delivered(tmp_path).values()) == {site.lectures[n].content for n in (0, 2)}
    del site.pages["/2.mp4"]
    assert run(order_for(site, tmp_path, attempt=2)).reason is None
    assert sorted(delivered(tmp_path).values()) == sorted(each.content for each in site.lectures)


@pytest.mark.parametrize("part", ["init", "first", "middle", "last"])
@pytest.mark.parametrize("protocol", [HLS, DASH])
@pytest.mark.parametrize("body", [*ERRORS.values(), MAINTENANCE], ids=[*ERRORS, "maintenance"])
@pytest.mark.usefixtures("no_ffmpeg")
def test_what_comes_instead_of_a_fragment_is_not_delivered(
    tmp_path: Path, protocol: str, part: str, body: bytes
) -> None:
    init, segments = fmp4_parts(2)
    with FaultySite([]) as site:
        (serve_hls if protocol == HLS else serve_dash)(site, segments, init=init)
        number = {"first": 0, "middle": 2, "last": len(segments) - 1}.get(part)
        path = "/init.mp4" if number is None else f"/{number}.m4s"
        good = site.pages[path]
        site.pages[path] = ("video/mp4", body)
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{protocol}"))
        assert report.reason in (Reason.SITE_ERROR, Reason.INCOMPLETE_DOWNLOAD), report
        assert delivered(tmp_path) == {}
        site.pages[path] = good
        again = order_for(site, tmp_path, course_url=f"{site.url}{protocol}", attempt=2)
        assert run(again).reason is None
        assert list(delivered(tmp_path).values()) == [init + b"".join(segments)]


OTHER_MEDIA = {kind: make_media(kind, 0.4) for kind in ("mp3", "webm", "wav", "mp4", "aac")}


@pytest.mark.parametrize("kind", OTHER_MEDIA)
@pytest.mark.usefixtures("no_ffmpeg")
def test_other_media_instead_of_a_segment_is_not_delivered(tmp_path: Path, kind: str) -> None:
    with FaultySite([]) as site:
        serve_hls(site, [ts_segment(20_000, n) for n in range(4)])
        site.pages["/2.m4s"] = ("video/mp2t", OTHER_MEDIA[kind])
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}"))
    assert report.reason is Reason.SITE_ERROR and delivered(tmp_path) == {}, report


@pytest.mark.usefixtures("no_ffmpeg")
def test_a_stream_shorter_than_its_playlist_is_not_delivered(tmp_path: Path) -> None:
    with FaultySite([]) as site:
        serve_hls(site, [ts_segment(20_000, n) for n in range(4)], seconds=2.0)
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}"))
    assert report.reason is Reason.INCOMPLETE_DOWNLOAD and "listed with 2.0 s" in report.message


@pytest.mark.parametrize("body", [ERRORS["random bytes"], ERRORS["text"]])
@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/s.mpd", "application/dash+xml"),
        ("/s.mpd", "application/octet-stream"),
        ("/s.bin", "application/dash+xml; charset=utf-8"),
        ("/watch", "application/vnd.ms-sstr+xml"),
        ("/s.ism", "application/octet-stream"),
    ],
)
def test_what_comes_instead_of_a_playlist_is_not_delivered(
    tmp_path: Path, path: str, content_type: str, body: bytes
) -> None:
    with FaultySite([]) as site:
        site.pages[path] = (content_type, body)
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{path}"))
    assert delivered(tmp_path) == {}
    assert report.reason is Reason.SITE_ERROR, report


def check(path: Path, body: bytes) -> str:
    """Return the extension that a file with these bytes gets. Raises Failure."""
    path.write_bytes(body)
    return verify(Fetched(path), threading.Event()).extension


@pytest.mark.parametrize("kind", MEDIA_KINDS)
def test_whole_media_keep_their_extension(tmp_path: Path, kind: str) -> None:
    assert check(tmp_path / f"x.{kind}", make_media(kind, 2)) == f".{kind}"


NOTICED = [kind for kind in MEDIA_KINDS if kind != "aac"]  # raw AAC has no length


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", [*NOTICED, "pdf", "zip", "docx", "epub", "tar.gz"])
def test_a_missing_end_is_noticed(tmp_path: Path, kind: str, share: float) -> None:
    body = make_media(kind, 4) if kind in MEDIA_KINDS else document(kind)
    with pytest.raises(Exception, match="the end of the file is missing|cannot be read"):
        check(tmp_path / f"x.{kind}", body[: round(len(body) * share)])


def document(kind: str) -> bytes:
    if kind != "tar.gz":
        return make_document(kind)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("notes.bin")
        member.size = 20_000
        archive.addfile(member, io.BytesIO(os.urandom(20_000)))
    return gzip.compress(buffer.getvalue())


SRT = b"1\n00:00:01,000 --> 00:00:02,000\nCentre it.\n"


@pytest.mark.parametrize(
    ("path", "content_type", "disposition", "body", "extension"),
    [
        ("/download.php?id=3", "application/pdf", "", make_document("pdf"), ".pdf"),
        ("/download.php?id=3", "application/octet-stream", "", make_document("docx"), ".docx"),
        ("/file.aspx?x=1", "application/zip", "", make_document("zip"), ".zip"),
        ("/get", "application/octet-stream", "", make_document("epub"), ".epub"),
        ("/stream.php?id=4", "video/mp4", "", lecture(), ".mp4"),
        ("/stream.php?id=4", "application/octet-stream", "", make_media("webm"), ".webm"),
        ("/watch", "video/mp4", "", make_media("mkv"), ".mkv"),
        ("/a.mp4", "video/mp4", "", make_media("mkv"), ".mkv"),
        ("/a.mp4", "video/mp4", "", make_document("pdf"), ".pdf"),
        ("/a.mp3", "audio/mpeg", "", make_media("m4a"), ".m4a"),
        ("/sound", "audio/mpeg", "", make_media("mp3"), ".mp3"),
        ("/a.pdf?x=1", "application/octet-stream", "", make_document("pdf"), ".pdf"),
        ("/get?id=1", "text/plain", "notes.txt", b"Centre the clay first.", ".txt"),
        (
            "/get?id=2",
            "application/octet-stream",
            "a.srt",
            b"1\n00:00:01,000 --> 00:00:02,000\nx\n",
            ".srt",
        ),
        ("/get?id=3", "application/octet-stream", "glaze.py", b"print('glaze')\n", ".py"),
        ("/notes.txt", "text/plain", "", b"Centre the clay first.", ".txt"),
    ],
)
def test_a_file_gets_the_extension_of_its_content(
    tmp_path: Path, path: str, content_type: str, disposition: str, body: bytes, extension: str
) -> None:
    with FaultySite([]) as site:
        site.pages[path] = (content_type, body)
        if disposition:
            site.headers[path] = {"Content-Disposition": f'attachment; filename="{disposition}"'}
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{path}"))
    assert report.reason is None, report
    ((name, content),) = delivered(tmp_path).items()
    assert Path(name).suffix == extension and content == body


def test_a_program_that_saved_an_error_page_delivers_nothing(tmp_path: Path) -> None:
    program = 'printf \'{"error": 1}\' >"$0/Clay.mp4"; printf x >"$0/notes.txt"'
    order = make_order(
        tmp_path,
        downloader="command",
        download_command=("sh", "-c", program, "{output_dir}", "{course_url}"),
    )
    report = run(order)
    assert (report.reason, report.items_delivered) == (Reason.SITE_ERROR, 1), report
    assert not (order.scratch_dir / "output" / "Clay.mp4").exists(), "it must be fetched again"


def test_a_file_that_kills_the_parser_costs_only_itself(tmp_path: Path) -> None:
    checker, stop = file_checker(), threading.Event()
    (tmp_path / "good.mp4").write_bytes(lecture())
    assert checker.check(tmp_path / "good.mp4", stop).problem == ""
    process = checker._process
    assert process is not None
    process.kill()
    process.wait()
    assert checker.check(tmp_path / "good.mp4", stop).problem == "", "it was started again"


# ffmpeg


PLAYLISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{secret}\n#EXT-X-ENDLIST\n",
    "HLS by URL": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{secret}'\n",
    "DASH": '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation '
    'id="1" bandwidth="1"><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period>'
    "</MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "images": "{secret}\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_ffmpeg_never_reads_another_courses_file(tmp_path: Path, kind: str, ffmpeg: str) -> None:
    """A text in place of a DASH picture names a file of another course, which ffmpeg would read."""
    secret = tmp_path / "other-course.mp4"
    secret.write_bytes(make_media("mp4", 1, seed=9))
    text = PLAYLISTS[kind].format(secret=secret).encode()
    if kind in ("HLS", "concat"):
        trap = tmp_path / "trap.mp4"
        trap.write_bytes(text)
        options = ["-safe", "0"] if kind == "concat" else ["-allowed_extensions", "ALL"]
        read = subprocess.run(
            [ffmpeg, "-v", "error", *options, "-i", trap, "-f", "null", "-"], check=False
        )
        assert read.returncode == 0, "the trap works: ffmpeg alone follows it"
    sound = make_media("m4a", 1)
    with FaultySite([]) as site:
        site.pages["/v.mp4"], site.pages["/a.mp4"] = ("video/mp4", text), ("audio/mp4", sound)
        site.pages[DASH] = ("application/dash+xml", two_files().encode())
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{DASH}"))
    assert report.reason in (Reason.SITE_ERROR, Reason.INCOMPLETE_DOWNLOAD), report
    assert delivered(tmp_path) == {}


def two_files() -> str:
    """Return a DASH manifest of a picture `/v.mp4` and a sound `/a.mp4`, each one file."""
    return """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
      mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>
      <AdaptationSet mimeType="video/mp4" codecs="mp4v.20.9"><Representation id="v"
       bandwidth="1000" width="64" height="36"><BaseURL>v.mp4</BaseURL></Representation>
      </AdaptationSet><AdaptationSet mimeType="audio/mp4" codecs="mp4a.40.2"><Representation id="a"
       bandwidth="100"><BaseURL>a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"""


def test_picture_and_sound_are_merged_from_verified_files(tmp_path: Path, ffmpeg: str) -> None:
    with FaultySite([]) as site:
        site.pages["/v.mp4"] = ("video/mp4", make_media("mp4", 2))
        site.pages["/a.mp4"] = ("audio/mp4", make_media("m4a", 2))
        site.pages[DASH] = ("application/dash+xml", two_files().encode())
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{DASH}"))
    assert report.reason is None, report
    (name,) = delivered(tmp_path)
    findings = file_checker().check(tmp_path / "out" / name, threading.Event())
    assert findings.streams == ("audio", "video") and findings.problem == ""
