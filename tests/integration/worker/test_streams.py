"""Streams come in pieces. Whatever happens to the worker or to its disk between two bytes, the lecture is whole or not there."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from Cryptodome.Cipher import AES
from Cryptodome.Util.Padding import pad
from tests.conftest import absent
from tests.faulty_site import Fault, FaultySite, content
from tests.orders import delivered, order_for, run, start_worker
from tests.process_killer import ProcessKiller
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor

from enrollgate.domain.reasons import Reason

# yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PIECE = 300_000
PIECES = [b"\x47" + content(PIECE - 1, number) for number in range(5)]
WHOLE = b"".join(PIECES)
HLS, DASH = "/course.m3u8", "/course.mpd"


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


def assert_the_next_try_delivers_it_whole(
    site: FaultySite, tmp_path: Path, page: str = HLS, **changes: object
) -> None:
    report = run(order_for(site, tmp_path, course_url=f"{site.url}{page}", attempt=2, **changes))
    assert report.reason is None, report
    (file,) = delivered(tmp_path).values()
    whole = b"".join(body for path, (_, body) in sorted(site.pages.items()) if path.endswith(".ts"))
    assert file == whole, f"{len(file):,} bytes instead of {len(whole):,}, or others"


@pytest.mark.parametrize("page", [HLS, DASH])
@pytest.mark.parametrize("kilobytes", [620, 950, 1200, 1390, 1600])
def test_a_full_disk_costs_a_stream_no_byte(
    site: FaultySite, tmp_path: Path, page: str, kilobytes: int
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        absent("the right to mount a small disk", "run as root, where mount works")
    try:
        report = run(
            order_for(site, tmp_path, course_url=f"{site.url}{page}", scratch_dir=small / "scratch")
        )
        assert report.reason is Reason.DISK_FULL and delivered(tmp_path) == {}, report
        site.sent.clear()
        subprocess.run(["/bin/mount", "-o", "remount,size=10m", str(small)], check=True)
        assert_the_next_try_delivers_it_whole(site, tmp_path, page, scratch_dir=small / "scratch")
        kept = (kilobytes * 1024 - PIECE) // PIECE
        assert len(asked_for(site)) <= len(PIECES) - kept, (
            "what was on the disk is not fetched again"
        )
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
    assert (
        run(order_for(site, tmp_path, course_url=f"{site.url}{page}")).reason is Reason.SITE_ERROR
    )
    (part,), (note,) = (
        list((tmp_path / "scratch").rglob(f"*.{kind}")) for kind in ("part", "ytdl")
    )
    assert part.read_bytes() == WHOLE[: 3 * PIECE]
    damage(part, note)
    site.faults.clear()
    site.sent.clear()
    assert_the_next_try_delivers_it_whole(site, tmp_path, page)
    assert len(asked_for(site)) == missing


KEY = content(16, 99)


def encrypt(
    site: FaultySite, pieces: list[bytes], *, key: bytes = KEY, iv: bytes | None = None
) -> list[bytes]:
    """What `serve` serves, under a key that only the site gives. Without an IV of its own each piece has its number's."""
    given = f",IV=0x{iv.hex()}" if iv else ""
    serve(
        site,
        [
            AES.new(key, AES.MODE_CBC, iv or n.to_bytes(16)).encrypt(pad(piece, 16))
            for n, piece in enumerate(pieces)
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
    return pieces


@pytest.mark.parametrize("iv", [None, content(16, 98)], ids=["numbered", "given"])
def test_an_encrypted_stream_is_decrypted_to_the_byte_also_when_it_is_continued(
    site: FaultySite, tmp_path: Path, iv: bytes | None
) -> None:
    pieces = encrypt(
        site, [content(size) for size in (1, 15, 16, 17, 65_535, 65_536, 65_537, 300_000)], iv=iv
    )
    site.faults["/6.ts"] = Fault(status=503)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}")).reason is Reason.SITE_ERROR
    site.faults.clear()
    site.sent.clear()
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}", attempt=2)).reason is None
    assert list(delivered(tmp_path).values()) == [b"".join(pieces)]
    assert asked_for(site) == ["/6.ts", "/7.ts"]
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
    encrypt(site, PIECES)
    site.pages["/key"] = ("application/octet-stream", answer)
    report = run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}"))
    assert report.reason is reason and delivered(tmp_path) == {}, report
    site.pages["/key"] = ("application/octet-stream", KEY)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}", attempt=2)).reason is None
    assert list(delivered(tmp_path).values()) == [WHOLE]


def test_an_encrypted_piece_that_is_cut_short_is_not_delivered(
    site: FaultySite, tmp_path: Path
) -> None:
    encrypt(site, PIECES)
    kind, piece = site.pages["/1.ts"]
    for size in (len(piece) - 16, len(piece) - 1):
        site.pages["/1.ts"] = (kind, piece[:size])
        report = run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}"))
        assert report.reason is Reason.INCOMPLETE_DOWNLOAD and delivered(tmp_path) == {}, report
    site.pages["/1.ts"] = (kind, piece)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}", attempt=2)).reason is None
    assert list(delivered(tmp_path).values()) == [WHOLE]


def test_an_initial_section_has_no_number_in_an_encrypted_stream(
    site: FaultySite, tmp_path: Path
) -> None:
    encrypt(site, PIECES)
    kind, playlist = site.pages[HLS]
    site.pages[HLS] = (
        kind,
        playlist.replace(b"#EXT-X-KEY", b'#EXT-X-MAP:URI="begin.mp4"\n#EXT-X-KEY', 1),
    )
    site.pages["/begin.mp4"] = ("video/mp4", b"the beginning")
    site.faults["/3.ts"] = Fault(status=503)
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}")).reason is Reason.SITE_ERROR
    site.faults.clear()
    assert run(order_for(site, tmp_path, course_url=f"{site.url}{HLS}", attempt=2)).reason is None
    assert list(delivered(tmp_path).values()) == [b"the beginning" + WHOLE]


def test_a_stream_of_one_file_s_ranges_is_continued_at_the_right_one(tmp_path: Path) -> None:
    """Each range begins where the one before it ends."""
    with FaultySite([]) as site:
        site.pages["/all.ts"] = ("video/mp2t", WHOLE)
        ranges = f"#EXTINF:2,\n#EXT-X-BYTERANGE:{PIECE}\nall.ts\n" * len(PIECES)
        playlist = f"#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-TARGETDURATION:2\n{ranges}#EXT-X-ENDLIST\n"
        site.pages[HLS] = ("application/vnd.apple.mpegurl", playlist.encode())
        asked = list[str]()

        def fail_at_the_fourth(path: str) -> None:
            asked.append(path)
            if asked.count("/all.ts") == 4:
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
        assert list(delivered(tmp_path).values()) == [WHOLE]


TELLS_ITS_PEAK = """
import atexit, pathlib, re
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: pathlib.Path("{path}").write_text(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_stream_of_one_huge_piece_takes_no_more_memory_than_any(
    site: FaultySite, tmp_path: Path, encrypted: bool
) -> None:
    size = 250_000_000
    (encrypt if encrypted else serve)(site, [b"G" * size])
    assert (
        start_worker(site, tmp_path, HLS, TELLS_ITS_PEAK.format(path=tmp_path / "peak")).wait(120)
        == 0
    )
    (file,) = (tmp_path / "out").rglob("*.mp4")
    assert file.stat().st_size == size
    assert (peak := int((tmp_path / "peak").read_text())) < 150_000, f"{peak:,} KiB"


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
        assert_the_next_try_delivers_it_whole(site, tmp_path)
        moved = sum(sent.bytes for sent in site.sent if sent.path.endswith(".ts"))
        assert moved <= (len(pieces) + deaths / 2) * PIECE
