"""A fragment that lacks a part, or that came twice, is noticed; an unusual stream is no error.

All streams are packaged by FFmpeg. A cut fragment here ends between two packets, where it looks
whole.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faulty_site import FaultySite
from tests.media import Packaged, package, package_mp4
from tests.orders import delivered, order_for, run

from enrollgate.domain.reasons import Reason

# yt-dlp leaves responses that it did not read to the end to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("no_ffmpeg"),
]

PICTURES = tuple(range(95))
HLS = (("hls_time", "2"), ("hls_list_size", "0"), ("hls_playlist_type", "vod"))
FMP4 = (*HLS, ("hls_segment_type", "fmp4"))
DASH = (("seg_duration", "2"), ("use_template", "1"), ("use_timeline", "1"))
OFTEN = (("frag_duration", "0.5"), ("frag_type", "duration"))
STREAMS: dict[str, Callable[[], Packaged]] = {
    "TS": lambda: package("hls", PICTURES, 9.5, HLS),
    "TS of pictures": lambda: package("hls", PICTURES, 0.0, HLS),
    "TS of sound": lambda: package("hls", (), 9.5, HLS),
    "MP4": lambda: package_mp4(10.6),
    "DASH": lambda: package("dash", PICTURES, 0.0, (*DASH, *OFTEN)),
    "DASH of sound": lambda: package("dash", (), 9.5, (*DASH, *OFTEN)),
}


def attempt(site: FaultySite, tmp_path: Path, stream: Packaged, number: int = 1) -> Reason | None:
    """Serve the stream as a course and run an attempt."""
    is_hls = stream.manifest.startswith("#EXTM3U")
    path, kind = (
        ("/stream.m3u8", "application/vnd.apple.mpegurl")
        if is_hls
        else ("/stream.mpd", "application/dash+xml")
    )
    site.pages = {f"/{name}": ("video/mp4", body) for name, body in stream.files.items()}
    site.pages[path] = (kind, stream.manifest.encode())
    report = run(order_for(site, tmp_path, course_url=f"{site.url}{path}", attempt=number))
    assert (report.reason is None) == (len(delivered(tmp_path)) == 1), report
    return report.reason


def segments(stream: Packaged) -> list[str]:
    """Return the names of the segments, without an initial section."""
    names = sorted(name for name in stream.files if "init" not in name)
    return sorted(names, key=lambda name: int(re.findall(r"\d+", name)[-1]))


def cut(segment: bytes) -> bytes:
    """Return the first part of a segment, as whole packets or fragments of MP4."""
    if segment.startswith(b"G"):
        return segment[: len(segment) // 188 // 2 * 188]
    starts = [found.start() - 4 for found in re.finditer(b"moof", segment)]
    assert len(starts) > 2
    return segment[: starts[len(starts) // 3]]


@pytest.mark.parametrize("part", ["first", "middle", "last"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_fragment_cut_between_packets_is_noticed(tmp_path: Path, name: str, part: str) -> None:
    whole = STREAMS[name]()
    names = segments(whole)
    assert len(names) >= 4
    chosen = {"first": names[0], "middle": names[2], "last": names[-1]}[part]
    broken = whole.files | {chosen: cut(whole.files[chosen])}
    with FaultySite([]) as site:
        reason = attempt(site, tmp_path, whole._replace(files=broken))
        assert reason is Reason.INCOMPLETE_DOWNLOAD
        assert attempt(site, tmp_path, whole, 2) is None
    (content,) = delivered(tmp_path).values()
    init = b"".join(body for key, body in whole.files.items() if "init" in key)
    assert content == init + b"".join(whole.files[each] for each in names)


@pytest.mark.parametrize(("place", "sent"), [(1, 0), (1, 2), (-1, 0), (0, -1)])
@pytest.mark.parametrize("name", ["TS", "MP4", "DASH"])
def test_a_fragment_that_comes_twice_is_noticed(
    tmp_path: Path, name: str, place: int, sent: int
) -> None:
    whole = STREAMS[name]()
    names = segments(whole)
    broken = whole.files | {names[place]: whole.files[names[sent]]}
    with FaultySite([]) as site:
        reason = attempt(site, tmp_path, whole._replace(files=broken))
        assert reason is Reason.INCOMPLETE_DOWNLOAD
        assert attempt(site, tmp_path, whole, 2) is None


def test_a_fragment_in_the_place_of_another_is_noticed_also_after_a_restart(
    tmp_path: Path,
) -> None:
    """The fragment that came in the wrong place is in the checkpoint of the first attempt."""
    whole = STREAMS["TS"]()
    names = segments(whole)
    broken = whole.files | {names[1]: whole.files[names[3]]}
    del broken[names[2]]
    with FaultySite([]) as site:
        attempt(site, tmp_path, whole._replace(files=broken))
        broken[names[2]] = whole.files[names[2]]
        assert attempt(site, tmp_path, whole._replace(files=broken), 2) is not None
        assert attempt(site, tmp_path, whole, 3) is None


def with_durations(change: Callable[[float], str]) -> Callable[[str], str]:
    """Return what rewrites the durations of an HLS playlist."""
    return lambda text: re.sub(r"(?<=#EXTINF:)[\d.]+", lambda found: change(float(found[0])), text)


def nominal(text: str) -> str:
    """List segments of 2.5 s, as servers do that cut at the next key picture."""
    total = sum(map(float, re.findall(r"(?<=#EXTINF:)[\d.]+", text)))
    count = text.count("#EXTINF")
    values = [f"{total / count:.3f}"] * count
    return re.sub(r"(?<=#EXTINF:)[\d.]+", lambda _: values.pop(), text)


LISTINGS: dict[str, Callable[[str], str]] = {
    "exact": lambda text: text,
    "rounded": with_durations(lambda seconds: f"{seconds:.0f}"),
    "rounded up": with_durations(lambda seconds: f"{-int(-seconds // 1)}"),
    "the same for all": with_durations(lambda _: "2"),
    "nominal": nominal,
    "with a title": lambda text: re.sub(r"(?m)^(#EXTINF:.*)$", r"\1lecture, part", text),
}


@pytest.mark.parametrize("name", ["TS", "TS of sound"])
@pytest.mark.parametrize("listing", LISTINGS)
def test_durations_may_be_listed_roughly(tmp_path: Path, name: str, listing: str) -> None:
    whole = STREAMS[name]()
    with FaultySite([]) as site:
        changed = whole._replace(manifest=LISTINGS[listing](whole.manifest))
        assert attempt(site, tmp_path, changed) is None


@pytest.mark.parametrize(
    ("pictures", "seconds"),
    [
        pytest.param((*range(0, 40, 20), *range(40, 52), 75, 93), 0.0, id="slides"),
        pytest.param((*range(0, 40, 20), *range(40, 52), 75, 93), 9.5, id="slides with sound"),
        pytest.param(tuple(range(95)), 7.5, id="the sound ends earlier"),
        pytest.param(tuple(range(60)), 9.5, id="the pictures end earlier"),
        pytest.param((*range(30), *range(60, 95)), 9.5, id="no pictures for a while"),
        pytest.param(tuple(range(41)), 4.1, id="a last segment of one picture"),
        pytest.param(tuple(range(0, 95, 5)), 9.5, id="two pictures a second"),
    ],
)
@pytest.mark.parametrize("options", [HLS, FMP4], ids=["TS", "MP4"])
def test_an_unusual_stream_is_delivered(
    tmp_path: Path, pictures: tuple[int, ...], seconds: float, options: tuple[tuple[str, str], ...]
) -> None:
    with FaultySite([]) as site:
        assert attempt(site, tmp_path, package("hls", pictures, seconds, options)) is None


def join(*streams: Packaged, tag: str) -> Packaged:
    """Return streams one after the other, each with a clock of its own."""
    files, lines = dict[str, bytes](), list[str]()
    for number, stream in enumerate(streams):
        lines += [tag] * bool(lines)
        body = stream.manifest.partition("#EXTINF")
        text = f"#EXTINF{body[2]}".replace("#EXT-X-ENDLIST", "")
        for name in segments(stream):
            files[f"{number}-{name}"] = stream.files[name]
            text = re.sub(rf"(?m)^{re.escape(name)}$", f"{number}-{name}", text)
        lines.append(text)
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n"
    return Packaged(head + "\n".join(lines) + "\n#EXT-X-ENDLIST\n", files)


@pytest.mark.parametrize("tag", ["#EXT-X-DISCONTINUITY", ""])
def test_a_stream_whose_clock_jumps_is_delivered(tmp_path: Path, tag: str) -> None:
    one, two = (package("hls", PICTURES[:65], 6.5, HLS, seed) for seed in (1, 2))
    with FaultySite([]) as site:
        assert attempt(site, tmp_path, join(one, two, tag=tag)) is None


def test_an_advertisement_may_come_twice(tmp_path: Path) -> None:
    one, ad = package("hls", PICTURES[:65], 6.5, HLS), package("hls", PICTURES[:20], 2.0, HLS, 3)
    with FaultySite([]) as site:
        assert attempt(site, tmp_path, join(ad, one, ad, tag="#EXT-X-DISCONTINUITY")) is None


@pytest.mark.parametrize("timeline", ["0", "1"])
@pytest.mark.parametrize("seconds", ["2", "3"])
def test_dash_with_or_without_a_timeline_is_delivered(
    tmp_path: Path, timeline: str, seconds: str
) -> None:
    options = (("seg_duration", seconds), ("use_template", "1"), ("use_timeline", timeline))
    with FaultySite([]) as site:
        assert attempt(site, tmp_path, package("dash", PICTURES, 0.0, options)) is None
