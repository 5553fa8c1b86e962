"""Streams come in pieces. Whatever happens to the worker or to its disk between two bytes, the lecture is whole or not there."""

import gc
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.conftest import absent
from tests.faulty_site import Fault, FaultySite, content
from tests.integration.worker.test_lanes import Killer
from tests.integration.worker.test_worker import delivered, order_for, run, start_worker
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor

from enrollgate.domain.reasons import Reason

# yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PIECE = 300_000
PIECES = [b"\x47" + content(PIECE - 1, number) for number in range(5)]
WHOLE = b"".join(PIECES)
HLS, DASH = "/course.m3u8", "/course.mpd"


@pytest.fixture(autouse=True)
def collect_what_yt_dlp_left() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces are no real video, so that every byte of the file is one of theirs."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(FFmpegPostProcessor, "_version_cache", {})


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with FaultySite([]) as running:
        serve(running, PIECES)
        yield running


def serve(site: FaultySite, pieces: list[bytes]) -> None:
    """One stream of these pieces, as HLS and as DASH."""
    site.pages |= {f"/{number}.ts": ("video/mp2t", piece) for number, piece in enumerate(pieces)}
    lines = "".join(f"#EXTINF:2,\n{number}.ts\n" for number in range(len(pieces)))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{lines}#EXT-X-ENDLIST\n"
    site.pages[HLS] = ("application/vnd.apple.mpegurl", playlist.encode())
    segments = "".join(f'<SegmentURL media="{number}.ts"/>' for number in range(len(pieces)))
    manifest = f"""<?xml version="1.0"?>
        <MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT{2 * len(pieces)}S"
             profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>
          <AdaptationSet mimeType="video/mp4" codecs="avc1.4d401f">
           <Representation id="1" bandwidth="100000" width="160" height="90">
            <SegmentList duration="2">{segments}</SegmentList>
        </Representation></AdaptationSet></Period></MPD>"""
    site.pages[DASH] = ("application/dash+xml", manifest.encode())


def asked_for(site: FaultySite) -> list[str]:
    return [sent.path for sent in site.sent if sent.path.endswith(".ts")]


def assert_the_next_try_delivers_it_whole(site: FaultySite, tmp_path: Path, page: str = HLS, **changes: object) -> None:
    report = run(order_for(site, tmp_path, course_url=f"{site.url}{page}", try_number=2, **changes))
    assert report.reason is None, report
    (file,) = delivered(tmp_path).values()
    whole = b"".join(body for path, (_, body) in sorted(site.pages.items()) if path.endswith(".ts"))
    assert file == whole, f"{len(file):,} bytes instead of {len(whole):,}, or others"


@pytest.mark.parametrize("page", [HLS, DASH])
@pytest.mark.parametrize("kilobytes", [620, 950, 1200, 1390, 1600])
def test_a_full_disk_costs_a_stream_no_byte(site: FaultySite, tmp_path: Path, page: str, kilobytes: int) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        absent("the right to mount a small disk", "run as root, where mount works")
    try:
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{page}", scratch_dir=small / "scratch"))
        assert report.reason is Reason.DISK_FULL and delivered(tmp_path) == {}, report
        site.sent.clear()
        subprocess.run(["/bin/mount", "-o", "remount,size=10m", str(small)], check=True)
        assert_the_next_try_delivers_it_whole(site, tmp_path, page, scratch_dir=small / "scratch")
        kept = (kilobytes * 1024 - PIECE) // PIECE
        assert len(asked_for(site)) <= len(PIECES) - kept, "what was on the disk is not fetched again"
    finally:
        subprocess.run(["/bin/umount", str(small)], check=True)


def append_half_a_piece(part: Path, _note: Path) -> None:
    with part.open("ab") as stream:
        stream.write(PIECES[3][: PIECE // 2])


def append_the_piece_without_a_note(part: Path, _note: Path) -> None:
    with part.open("ab") as stream:
        stream.write(PIECES[3])


def empty_the_note(_part: Path, note: Path) -> None:
    note.write_text("")


def tear_the_note(_part: Path, note: Path) -> None:
    note.write_text(note.read_text()[:40])


def remove_the_note(_part: Path, note: Path) -> None:
    note.unlink()


def lose_the_end_of_the_stream(part: Path, _note: Path) -> None:
    part.write_bytes(WHOLE[: 2 * PIECE])


def lose_the_end_of_the_next_piece(part: Path, _note: Path) -> None:
    part.with_name(f"{part.name}-Frag4").write_bytes(PIECES[3][:1000])


@pytest.mark.parametrize("page", [HLS, DASH])
@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (append_half_a_piece, 2),
        (append_the_piece_without_a_note, 2),
        (empty_the_note, 5),
        (tear_the_note, 5),
        (remove_the_note, 5),
        (lose_the_end_of_the_stream, 5),
        (lose_the_end_of_the_next_piece, 2),
    ],
)
def test_a_stream_is_continued_only_from_what_is_known_to_be_there(
    site: FaultySite, tmp_path: Path, page: str, damage: Callable[[Path, Path], None], missing: int
) -> None:
    site.faults["/3.ts"] = Fault(status=503)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{page}")).reason is Reason.SITE_ERROR
    (part,), (note,) = (list((tmp_path / "scratch").rglob(f"*.{kind}")) for kind in ("part", "ytdl"))
    assert part.read_bytes() == WHOLE[: 3 * PIECE]
    damage(part, note)
    site.faults.clear()
    site.sent.clear()
    assert_the_next_try_delivers_it_whole(site, tmp_path, page)
    assert len(asked_for(site)) == missing


DIES_IN_A_WRITE = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python would ignore it: a write beyond the limit now kills
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


@pytest.mark.parametrize("page", [HLS, DASH])
@pytest.mark.parametrize("size", [PIECE + 1, 2 * PIECE - 1, 2 * PIECE, 3 * PIECE + 4096])
def test_a_worker_that_dies_in_the_middle_of_appending_costs_a_stream_no_byte(
    site: FaultySite, tmp_path: Path, page: str, size: int
) -> None:
    assert start_worker(site, tmp_path, page, DIES_IN_A_WRITE.format(size=size)).wait(60) == -25
    (part,) = (tmp_path / "scratch").rglob("*.part")
    assert part.stat().st_size == size, "it died within the append"
    site.sent.clear()
    assert_the_next_try_delivers_it_whole(site, tmp_path, page)
    assert len(asked_for(site)) == len(PIECES) - size // PIECE


DIES_AT_A_STEP = """
import os, signal, sys
steps = 0
def count(event, arguments):
    global steps
    if event in ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir") and "/scratch/items/" in str(arguments[0]):
        steps += 1
        if steps == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
"""


@pytest.mark.slow
def test_killed_before_any_step_on_the_disk_a_worker_costs_a_stream_no_byte(tmp_path: Path) -> None:
    """A first worker dies before its first file operation, another one before its second, until one has nothing left to do."""
    with FaultySite([]) as site:
        serve(site, PIECES[:2])
        for step in range(1, 100):
            place = tmp_path / str(step)
            place.mkdir()
            code = start_worker(site, place, HLS, DIES_AT_A_STEP.format(step=step)).wait(60)
            assert_the_next_try_delivers_it_whole(site, place)
            if code == 0:
                break
            assert code == -9
        assert step > 15


def test_each_death_of_a_worker_costs_half_a_piece_at_most(tmp_path: Path) -> None:
    """Each dies once a random number of bytes has left the site; what is lost was on its way."""
    pieces = [content(PIECE, number) for number in range(10)]
    with FaultySite([]) as site:
        serve(site, pieces)
        killer = Killer()
        site.on_bytes, site.rate = killer.count, 5_000_000
        random = Random(22)
        deaths = 8
        for _ in range(deaths):
            assert killer.kill_after(random.randrange(50_000, 400_000), start_worker(site, tmp_path, HLS)) == -9
        assert_the_next_try_delivers_it_whole(site, tmp_path)
        moved = sum(sent.bytes for sent in site.sent if sent.path.endswith(".ts"))
        assert moved <= (len(pieces) + deaths / 2) * PIECE
