"""Streams consist of fragments. Whatever happens to the worker or its disk between two bytes,
a lecture is delivered complete or not at all.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from Cryptodome.Cipher import AES
from Cryptodome.Util.Padding import pad
from tests.faulty_site import Fault, FaultySite, content
from tests.media import fmp4_parts, make_media, ts_segment
from tests.orders import delivered, order_for, run, start_worker
from tests.process_killer import ProcessKiller
from tests.small_disk import enlarge, small_disk

from enrollgate.domain.reasons import Reason

# yt-dlp leaves responses that it did not read to the end to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

SIZE = 1_600 * 188
FRAGMENTS = [ts_segment(SIZE, number) for number in range(5)]
STREAM = b"".join(FRAGMENTS)
HLS, DASH = "/course.m3u8", "/course.mpd"


# The delivered file then has exactly the bytes of the fragments.
pytestmark += [pytest.mark.usefixtures("no_ffmpeg")]


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite([]) as running:
        serve(running, FRAGMENTS)
        yield running


def serve(site: FaultySite, fragments: list[bytes]) -> None:
    """Serve one stream of these fragments, as HLS and as DASH."""
    site.pages |= {
        f"/{number}.ts": ("video/mp2t", fragment) for number, fragment in enumerate(fragments)
    }
    # yt-dlp takes a playlist of less than a second for a live stream.
    seconds = max(0.4, 1 / len(fragments))
    lines = "".join(f"#EXTINF:{seconds},\n{number}.ts\n" for number in range(len(fragments)))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{lines}#EXT-X-ENDLIST\n"
    site.pages[HLS] = ("application/vnd.apple.mpegurl", playlist.encode())
    segments = "".join(f'<SegmentURL media="{number}.ts"/>' for number in range(len(fragments)))
    manifest = f"""<?xml version="1.0"?>
        <MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
             mediaPresentationDuration="PT{0.4 * len(fragments)}S"
             profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>
          <AdaptationSet mimeType="video/mp4" codecs="avc1.4d401f">
           <Representation id="1" bandwidth="100000" width="160" height="90">
            <SegmentList timescale="10" duration="4">{segments}</SegmentList>
        </Representation></AdaptationSet></Period></MPD>"""
    site.pages[DASH] = ("application/dash+xml", manifest.encode())


def requested(site: FaultySite) -> list[str]:
    return [sent.path for sent in site.sent if sent.path.endswith(".ts")]


def assert_next_attempt_delivers_all(
    site: FaultySite, tmp_path: Path, page: str = HLS, **changes: object
) -> None:
    report = run(order_for(site, tmp_path, course_url=f"{site.url}{page}", attempt=2, **changes))
    assert report.reason is None, report
    (file,) = delivered(tmp_path).values()
    whole = b"".join(body for path, (_, body) in sorted(site.pages.items()) if path.endswith(".ts"))
    assert file == whole, f"{len(file):,} bytes instead of {len(whole):,}, or others"


@pytest.mark.parametrize("page", [HLS, DASH])
@pytest.mark.parametrize("kilobytes", [620, 950, 1220, 1400, 1600])
def test_a_full_disk_costs_a_stream_no_byte(
    site: FaultySite, tmp_path: Path, page: str, kilobytes: int
) -> None:
    with small_disk(tmp_path / "small", kilobytes) as small:
        scratch = small / "scratch"
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{page}", scratch_dir=scratch))
        assert report.reason is Reason.DISK_FULL and delivered(tmp_path) == {}, report
        site.sent.clear()
        enlarge(small, megabytes=10)
        assert_next_attempt_delivers_all(site, tmp_path, page, scratch_dir=scratch)
        kept = (kilobytes * 1024 - SIZE) // SIZE
        assert len(requested(site)) <= len(FRAGMENTS) - kept, "a kept fragment was fetched again"


def append_half_a_fragment(part: Path, _checkpoint: Path) -> None:
    with part.open("ab") as stream:
        stream.write(FRAGMENTS[3][: SIZE // 2])


def append_a_fragment_without_checkpoint(part: Path, _checkpoint: Path) -> None:
    with part.open("ab") as stream:
        stream.write(FRAGMENTS[3])


def empty_the_checkpoint(_part: Path, checkpoint: Path) -> None:
    checkpoint.write_text("")


def truncate_the_checkpoint(_part: Path, checkpoint: Path) -> None:
    checkpoint.write_text(checkpoint.read_text()[:40])


def remove_the_checkpoint(_part: Path, checkpoint: Path) -> None:
    checkpoint.unlink()


def lose_the_end_of_the_stream(part: Path, _checkpoint: Path) -> None:
    part.write_bytes(STREAM[: 2 * SIZE])


def lose_the_end_of_the_next_fragment(part: Path, _checkpoint: Path) -> None:
    part.with_name(f"{part.name}-Frag4").write_bytes(FRAGMENTS[3][:1000])


@pytest.mark.parametrize("page", [HLS, DASH])
@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (append_half_a_fragment, 2),
        (append_a_fragment_without_checkpoint, 2),
        (empty_the_checkpoint, 5),
        (truncate_the_checkpoint, 5),
        (remove_the_checkpoint, 5),
        (lose_the_end_of_the_stream, 5),
        (lose_the_end_of_the_next_fragment, 2),
    ],
)
def test_a_stream_is_continued_only_from_its_checkpoint(
    site: FaultySite, tmp_path: Path, page: str, damage: Callable[[Path, Path], None], missing: int
) -> None:
    site.faults["/3.ts"] = Fault(status=503)
    assert (
        run(order_for(site, tmp_path, course_url=f"{site.url}{page}")).reason is Reason.SITE_ERROR
    )
    (part,), (checkpoint,) = (
        list((tmp_path / "scratch").rglob(f"*.{kind}")) for kind in ("part", "ytdl")
    )
    assert part.read_bytes() == STREAM[: 3 * SIZE]
    damage(part, checkpoint)
    site.faults.clear()
    site.sent.clear()
    assert_next_attempt_delivers_all(site, tmp_path, page)
    assert len(requested(site)) == missing


KEY = content(16, 99)


def encrypt(
    site: FaultySite, fragments: list[bytes], *, key: bytes = KEY, iv: bytes | None = None
) -> list[bytes]:
    """Serve encrypted fragments, and the key at `/key`. Without `iv` it is a fragment's number."""
    given = f",IV=0x{iv.hex()}" if iv else ""
    serve(
        site,
        [
            AES.new(key, AES.MODE_CBC, iv or n.to_bytes(16)).encrypt(pad(fragment, 16))
            for n, fragment in enumerate(fragments)
        ],
    )
    kind, playlist = site.pages[HLS]
    site.pages[HLS] = (
        kind,
        playlist.replace(
            b"#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="key"{given}\n#EXTINF'.encode(), 1
        ),
    )
    site.pages["/key"] = ("application/octet-stream", key)
    return fragments


@pytest.mark.parametrize("iv", [None, content(16, 98)], ids=["numbered", "given"])
def test_an_encrypted_stream_is_decrypted_also_when_it_is_continued(
    site: FaultySite, tmp_path: Path, iv: bytes | None
) -> None:
    fragments = encrypt(
        site, [ts_segment(188 * n) for n in (100, 101, 102, 103, 348, 349, 350, 1_600)], iv=iv
    )
    site.faults["/6.ts"] = Fault(status=503)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}")).reason is Reason.SITE_ERROR
    site.faults.clear()
    site.sent.clear()
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}", attempt=2)).reason is None
    assert list(delivered(tmp_path).values()) == [b"".join(fragments)]
    assert requested(site) == ["/6.ts", "/7.ts"]
    assert [sent.path for sent in site.sent].count("/key") == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (content(16, 3), Reason.INCOMPLETE_DOWNLOAD),
        (b"", Reason.INCOMPLETE_DOWNLOAD),
        (content(50_000), Reason.INCOMPLETE_DOWNLOAD),
        (b"<!doctype html><title>Log in</title>", Reason.COOKIES_EXPIRED),
    ],
    ids=["another key", "nothing", "something", "a login page"],
)
def test_a_stream_without_its_key_is_not_delivered(
    site: FaultySite, tmp_path: Path, answer: bytes, reason: Reason
) -> None:
    encrypt(site, FRAGMENTS)
    site.pages["/key"] = ("application/octet-stream", answer)
    report = run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}"))
    assert report.reason is reason and delivered(tmp_path) == {}, report
    site.pages["/key"] = ("application/octet-stream", KEY)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}", attempt=2)).reason is None
    assert list(delivered(tmp_path).values()) == [STREAM]


def test_an_encrypted_fragment_that_is_cut_short_is_not_delivered(
    site: FaultySite, tmp_path: Path
) -> None:
    encrypt(site, FRAGMENTS)
    kind, fragment = site.pages["/1.ts"]
    for size in (len(fragment) - 16, len(fragment) - 1):
        site.pages["/1.ts"] = (kind, fragment[:size])
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}"))
        assert report.reason is Reason.INCOMPLETE_DOWNLOAD and delivered(tmp_path) == {}, report
    site.pages["/1.ts"] = (kind, fragment)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}", attempt=2)).reason is None
    assert list(delivered(tmp_path).values()) == [STREAM]


def test_the_initial_section_of_an_encrypted_stream_has_no_number(
    site: FaultySite, tmp_path: Path
) -> None:
    begin, fragments = fmp4_parts(2)
    encrypt(site, fragments)
    kind, playlist = site.pages[HLS]
    site.pages[HLS] = (
        kind,
        playlist.replace(b"#EXT-X-KEY", b'#EXT-X-MAP:URI="begin.mp4"\n#EXT-X-KEY', 1),
    )
    site.pages["/begin.mp4"] = ("video/mp4", begin)
    site.faults["/3.ts"] = Fault(status=503)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}")).reason is Reason.SITE_ERROR
    site.faults.clear()
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}", attempt=2)).reason is None
    assert list(delivered(tmp_path).values()) == [begin + b"".join(fragments)]


def test_a_stream_of_byte_ranges_is_continued_at_the_right_one(tmp_path: Path) -> None:
    """A range without an offset begins where the one before it ends."""
    with FaultySite([]) as site:
        site.pages["/all.ts"] = ("video/mp2t", STREAM)
        ranges = f"#EXTINF:0.4,\n#EXT-X-BYTERANGE:{SIZE}\nall.ts\n" * len(FRAGMENTS)
        playlist = f"#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-TARGETDURATION:2\n{ranges}#EXT-X-ENDLIST\n"
        site.pages[HLS] = ("application/vnd.apple.mpegurl", playlist.encode())
        paths = list[str]()

        def fail_at_the_fourth(path: str) -> None:
            paths.append(path)
            if paths.count("/all.ts") == 4:
                site.faults[path] = Fault(status=503)

        site.on_request = fail_at_the_fourth
        assert (
            run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}")).reason
            is Reason.SITE_ERROR
        )
        site.on_request = lambda _path: None
        site.faults.clear()
        assert (
            run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}", attempt=2)).reason is None
        )
        assert list(delivered(tmp_path).values()) == [STREAM]


REPORTS_ITS_PEAK = """
import atexit, pathlib, re
status = pathlib.Path("/proc/self/status")
def report():
    peak = re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]
    pathlib.Path("{path}").write_text(peak)
atexit.register(report)
"""


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_one_huge_fragment_needs_no_more_memory_than_others(
    site: FaultySite, tmp_path: Path, encrypted: bool
) -> None:
    padding = b"\x47\x1f\xff\x10" + bytes(184)
    fragment = make_media("ts", 0.9) + padding * 1_330_000
    (encrypt if encrypted else serve)(site, [fragment])
    assert (
        start_worker(site, tmp_path, HLS, REPORTS_ITS_PEAK.format(path=tmp_path / "peak")).wait(120)
        == 0
    )
    (file,) = (tmp_path / "out").rglob("*.ts")
    assert file.stat().st_size == len(fragment)
    assert (peak := int((tmp_path / "peak").read_text())) < 150_000, f"{peak:,} KiB"


DIES_IN_A_WRITE = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Without this line Python ignores it.
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


@pytest.mark.parametrize("page", [HLS, DASH])
@pytest.mark.parametrize("size", [SIZE + 1, 2 * SIZE - 1, 2 * SIZE, 3 * SIZE + 4096])
def test_a_death_in_the_middle_of_appending_costs_a_stream_no_byte(
    site: FaultySite, tmp_path: Path, page: str, size: int
) -> None:
    assert start_worker(site, tmp_path, page, DIES_IN_A_WRITE.format(size=size)).wait(60) == -25
    (part,) = (tmp_path / "scratch").rglob("*.part")
    assert part.stat().st_size == size, "it died while appending"
    site.sent.clear()
    assert_next_attempt_delivers_all(site, tmp_path, page)
    assert len(requested(site)) == len(FRAGMENTS) - size // SIZE


DIES_AT_A_STEP = """
import os, signal, sys
steps = 0
operations = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir")
def count(event, arguments):
    global steps
    if event in operations and "/scratch/items/" in str(arguments[0]):
        steps += 1
        if steps == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_death_before_any_file_operation_costs_a_stream_no_byte(tmp_path: Path) -> None:
    """One worker dies before its first file operation, the next before its second, and so on."""
    with FaultySite([]) as site:
        serve(site, FRAGMENTS[:2])
        for step in range(1, 100):
            folder = tmp_path / str(step)
            folder.mkdir()
            code = start_worker(site, folder, HLS, DIES_AT_A_STEP.format(step=step)).wait(60)
            assert_next_attempt_delivers_all(site, folder)
            if code == 0:
                break
            assert code == -9
        assert step > 15


def test_each_death_of_a_worker_costs_half_a_fragment_on_average(tmp_path: Path) -> None:
    """Each worker is killed once a random number of bytes has left the site."""
    fragments = [ts_segment(SIZE, number) for number in range(10)]
    with FaultySite([]) as site:
        serve(site, fragments)
        killer = ProcessKiller()
        site.on_bytes, site.rate = killer.count, 5_000_000
        random = Random(22)
        deaths = 8
        for _ in range(deaths):
            assert (
                killer.kill_after(
                    random.randrange(50_000, 400_000), start_worker(site, tmp_path, HLS)
                )
                == -9
            )
        assert_next_attempt_delivers_all(site, tmp_path)
        moved = sum(sent.bytes for sent in site.sent if sent.path.endswith(".ts"))
        assert moved <= (len(fragments) + deaths / 2) * SIZE
