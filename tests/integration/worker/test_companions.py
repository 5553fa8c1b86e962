"""Subtitles of sites other than Udemy, through yt-dlp's generic extractor; the index."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.drive_emulator import DriveEmulator
from tests.faulty_site import Fault, FaultySite
from tests.integration.drive.bench import Bench
from tests.media import lecture, ts_segment
from tests.orders import delivered, manifest, order_for, run

from enrollgate.domain.reasons import Reason


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite([]) as running:
        running.pages["/1.mp4"] = ("video/mp4", lecture(seed=1))
        running.pages["/2.mp4"] = ("video/mp4", lecture(seed=2))
        for language in ("en", "vi"):
            running.pages[f"/{language}.vtt"] = ("text/vtt", _vtt(language))
        yield running


def _vtt(text: str, clock: int = 0) -> bytes:
    return f"WEBVTT\n\n00:00:0{clock}.000 --> 00:00:0{clock}.900\n{text}\n".encode()


def _names(tmp_path: Path) -> list[str]:
    return [path.partition("/")[2] for path in delivered(tmp_path)]


def _html5(site: FaultySite) -> str:
    tracks = "".join(
        f'<track kind="subtitles" srclang="{each}" src="/{each}.vtt">' for each in ("en", "vi")
    )
    page = (
        "<html><head><title>Clay</title></head><body>"
        f'<video src="/1.mp4">{tracks}</video><video src="/2.mp4"></video></body></html>'
    )
    site.pages["/page"] = ("text/html", page.encode())
    return f"{site.url}/page"


def test_tracks_of_an_html5_page_are_delivered_beside_their_video(
    site: FaultySite, tmp_path: Path
) -> None:
    report = run(order_for(site, tmp_path, course_url=_html5(site)))

    files = {path.rpartition(" - ")[2]: content for path, content in delivered(tmp_path).items()}
    assert report.reason is None, report
    assert len(_names(tmp_path)) == 4
    assert [content for name, content in files.items() if name.endswith(".vi.vtt")] == [_vtt("vi")]
    numbers = {name.partition(" - ")[0] for name in _names(tmp_path) if name.endswith(".vtt")}
    assert numbers == {"01"}
    assert {entry["kind"] for entry in manifest(tmp_path)} == {"lecture", "subtitle"}


def test_tracks_whose_languages_read_alike_are_each_delivered_once(
    site: FaultySite, tmp_path: Path
) -> None:
    page = (
        '<title>Clay</title><video src="/1.mp4"><track kind="subtitles" srclang="en_US" '
        'src="/en.vtt"><track kind="subtitles" srclang="en-US" src="/vi.vtt"></video>'
    )
    site.pages["/page"] = ("text/html", page.encode())
    url = f"{site.url}/page"
    first = run(order_for(site, tmp_path, course_url=url))
    second = run(order_for(site, tmp_path, course_url=url, attempt=2))

    texts = [body for name, body in delivered(tmp_path).items() if name.endswith(".vtt")]
    assert (first.reason, first.items_delivered) == (None, 3), first
    assert (second.reason, second.items_skipped) == (None, 3)
    assert sorted(texts) == [_vtt("en"), _vtt("vi")]


def test_subtitle_that_failed_is_named_and_delivered_by_the_next_attempt(
    site: FaultySite, tmp_path: Path
) -> None:
    url = _html5(site)
    site.faults["/vi.vtt"] = Fault(status=503)
    first = run(order_for(site, tmp_path, course_url=url))
    assert (first.reason, first.items_failed, first.items_delivered) == (Reason.SITE_ERROR, 1, 3)

    site.faults.clear()
    second = run(order_for(site, tmp_path, course_url=url, attempt=2))
    assert (second.reason, second.items_delivered, second.items_skipped) == (None, 1, 3)


@pytest.mark.parametrize(
    ("wanted", "languages"),
    [(("none",), []), (("vi",), ["vi"]), (("en", "de"), ["en"]), (("all",), ["en", "vi"])],
)
def test_only_the_wanted_subtitles_are_delivered(
    site: FaultySite, tmp_path: Path, wanted: tuple[str, ...], languages: list[str]
) -> None:
    report = run(order_for(site, tmp_path, course_url=_html5(site), subtitles=wanted))

    found = [name.split(".")[-2] for name in _names(tmp_path) if name.endswith(".vtt")]
    assert (report.reason, found) == (None, languages)


def test_subtitle_renditions_of_a_stream_become_one_file_each(
    site: FaultySite, tmp_path: Path
) -> None:
    media = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n{}#EXT-X-ENDLIST\n"
    for number in (1, 2):
        site.pages[f"/{number}.ts"] = ("video/mp2t", ts_segment(20_000, number, 1))
        site.pages[f"/sub{number}.vtt"] = ("text/vtt", _vtt(f"line {number}", number))
    site.pages["/video.m3u8"] = (
        "application/vnd.apple.mpegurl",
        media.format("#EXTINF:1,\n1.ts\n#EXTINF:1,\n2.ts\n").encode(),
    )
    site.pages["/subtitles.m3u8"] = (
        "application/vnd.apple.mpegurl",
        media.format("#EXTINF:1,\nsub1.vtt\n#EXTINF:1,\nsub2.vtt\n").encode(),
    )
    site.pages["/course.m3u8"] = (
        "application/vnd.apple.mpegurl",
        b'#EXTM3U\n#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="s",NAME="English",LANGUAGE="en",'
        b'URI="subtitles.m3u8"\n#EXT-X-STREAM-INF:BANDWIDTH=100000,RESOLUTION=64x36,SUBTITLES="s"\n'
        b"video.m3u8\n",
    )
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/course.m3u8"))

    files = delivered(tmp_path)
    (subtitles,) = (content for name, content in files.items() if name.endswith(".en.vtt"))
    assert (report.reason, len(files)) == (None, 2)
    assert subtitles.startswith(b"WEBVTT")
    assert b"line 1" in subtitles and b"line 2" in subtitles


def test_transcripts_of_a_feed_are_delivered_beside_their_episode(
    site: FaultySite, tmp_path: Path
) -> None:
    namespace = 'xmlns:podcast="https://podcastindex.org/namespace/1.0"'
    transcript = (
        f'<podcast:transcript url="{site.url}/en.vtt" type="text/vtt" language="en"/>'
        f'<podcast:transcript url="{site.url}/en.html" type="text/html"/>'
    )
    items = "".join(
        f"<item><title>Episode {number}</title><guid>e{number}</guid>"
        f"<description>&lt;p&gt;About {number}&lt;/p&gt;</description>"
        f'<enclosure url="{site.url}/{number}.mp4" type="video/mp4"/>{extra}</item>'
        for number, extra in ((1, transcript), (2, ""))
    )
    feed = f"<?xml version='1.0'?><rss version='2.0' {namespace}><channel>{items}</channel></rss>"
    site.pages["/feed.xml"] = ("application/rss+xml", feed.encode())
    report = run(order_for(site, tmp_path, course_url=f"{site.url}/feed.xml"))

    assert report.reason is None, report
    assert _names(tmp_path) == [
        "01 - Episode 1.en.vtt",
        "01 - Episode 1.mp4",
        "02 - Episode 2.mp4",
    ]
    (index,) = (tmp_path / "out").rglob("course.json")
    items_listed = json.loads(index.read_text())["sections"][0]["items"]
    assert items_listed[0]["description"] == "About 1"


def test_index_is_replaced_only_when_the_course_changes(site: FaultySite, tmp_path: Path) -> None:
    url = _html5(site)
    run(order_for(site, tmp_path, course_url=url))
    (index,) = (tmp_path / "out").rglob("index.html")
    first = index.stat().st_ino
    run(order_for(site, tmp_path, course_url=url, attempt=2))
    assert index.stat().st_ino == first, "the same course, the same file"

    page = site.pages["/page"][1].replace(b"</body>", b'<video src="/3.mp4"></video></body>')
    site.pages["/page"] = ("text/html", page)
    site.pages["/3.mp4"] = ("video/mp4", lecture(seed=3))
    run(order_for(site, tmp_path, course_url=url, attempt=3))
    assert index.stat().st_ino != first
    assert index.read_text().count("<a href") == 5


def test_drive_gets_subtitles_and_an_index_with_its_own_addresses(
    site: FaultySite, tmp_path: Path
) -> None:
    with DriveEmulator() as emulator:
        order = Bench(emulator, tmp_path).order(site, course_url=_html5(site))
        report = run(order)
        again = run(order)
        listed = [each for each in emulator.store.files.values() if "md5Checksum" in each]

    assert (report.reason, report.items_delivered, again.items_skipped) == (None, 4, 4)
    assert len(listed) == 6, "a second run replaces nothing and adds nothing"
    page = order.scratch_dir / "index" / "index.html"
    (index,) = (each for each in listed if each["name"] == "index.html")
    assert index["md5Checksum"] == hashlib.md5(page.read_bytes()).hexdigest()
    for each in listed:
        if each["name"].endswith((".mp4", ".vtt")):
            address = f"https://drive.google.com/file/d/{each['id']}/view"
            assert f'href="{address}"' in page.read_text()


def test_two_tracks_of_one_language_are_both_delivered(site: FaultySite, tmp_path: Path) -> None:
    """Subtitles and those for deaf people, as two `<track>`s of English."""
    site.pages["/deaf.vtt"] = ("text/vtt", _vtt("[sighs] clay"))
    tracks = [f'<track srclang="en" src="/{name}.vtt">' for name in ("en", "deaf")]
    for attempt, order in enumerate((tracks, tracks[::-1]), 1):
        page = f'<title>Clay</title><video src="/1.mp4">{"".join(order)}</video>'
        site.pages["/page"] = ("text/html", page.encode())
        report = run(order_for(site, tmp_path, course_url=f"{site.url}/page", attempt=attempt))
        assert report.reason is None, report
        names = {path: text for path, text in delivered(tmp_path).items() if "vtt" in path}
        assert sorted(names.values()) == sorted([_vtt("en"), _vtt("[sighs] clay")])
        assert sorted(path.partition(".")[2] for path in names) == ["en-2.vtt", "en.vtt"]
