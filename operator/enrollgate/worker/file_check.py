"""Check one file to its end: run as a program of its own, because the file may be hostile.

FFmpeg's parsers and the standard library's archive readers meet bytes that anybody may have
chosen. So they run in a process that has no network code of ours, few file descriptors, bounded
memory and bounded CPU time, and whose crash costs one item. `verification` starts it.

Protocol: a line with two paths as JSON comes in on standard input, the file's and that of the log
of its fragments, or null. A line with `Findings` as JSON goes out. One process checks many files,
one after the other.

FFmpeg gets an open file and the name of its format, never a path or a URL. So it cannot choose a
playlist's parser, and what a file names is never opened.
"""

import io
import json
import os
import re
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from enrollgate.worker.containers import CutError, check_structure
from enrollgate.worker.file_types import (
    EMPTY,
    HEAD_SIZE,
    TEXT,
    Family,
    FileType,
    recognise,
)
from enrollgate.worker.fragments import Fragment, Timeline, read_fragments

# Limits of the process: bytes of memory, open files, and seconds of CPU for one file, plus some for
# each gigabyte.
_MEMORY = 1 << 30
_OPEN_FILES = 32
_CPU_SECONDS, _CPU_SECONDS_PER_GB = 60, 60
# What FFmpeg may read to find the streams, in bytes and in microseconds of the media.
_PROBE = {"probesize": "20000000", "analyzeduration": "30000000"}
# Seconds: in a transport stream a larger step between two packets is a jump of the clock.
_MAX_STEP = 10.0
# Bytes at the end of a file in which its end mark is looked for.
_TAIL = 4096
# Bytes of an archive that are decompressed at most, and of a JSON file that are parsed.
_MAX_UNPACKED, _MAX_JSON = 1 << 31, 1 << 26
_CHUNK = 1 << 20
# Extensions of office documents by the folder or the type that their archive contains.
_OFFICE = {"word/": ".docx", "xl/": ".xlsx", "ppt/": ".pptx"}
_MIMETYPES = {
    "application/epub+zip": ".epub",
    "application/vnd.oasis.opendocument.text": ".odt",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
    "application/vnd.oasis.opendocument.presentation": ".odp",
}

Problem = Literal["", "cut", "broken"]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a file turned out to be."""

    name: str  # of its type, for messages
    family: str  # a Family's value
    extensions: tuple[str, ...] = ()  # of its type, the usual one first
    problem: Problem = ""  # "cut": its end is missing. "broken": it cannot be read
    detail: str = ""  # what the parser says of the problem
    streams: tuple[str, ...] = ()  # of media: "video", "audio", "subtitle", ...
    seconds: float | None = None  # that its packets play; None: it is not media
    size: int = 0  # bytes


def check(path: Path, fragments: Sequence[Fragment] = ()) -> Findings:
    """Return what the file is, and whether it is whole. Raises OSError if it cannot be read.

    `fragments` are those that the file of a stream consists of.
    """
    with path.open("rb") as file:
        head, size = file.read(HEAD_SIZE), os.fstat(file.fileno()).st_size
        kind = recognise(head)
        findings = Findings(kind.name, kind.family.value, kind.extensions, size=size)
        if kind is EMPTY:
            return replace(findings, problem="broken")
        try:
            match kind.family:
                case Family.MEDIA:
                    return _check_media(file, kind, findings, fragments)
                case Family.DOCUMENT | Family.IMAGE:
                    return _check_document(file, kind, findings)
                case Family.TEXT:
                    return _check_text(file, kind, findings)
                case Family.UNKNOWN:
                    return findings
        except CutError as cut:
            return replace(findings, problem="cut", detail=str(cut))


class _Clock:
    """Add up how long the packets of one stream play, whatever jumps its time stamps make."""

    def __init__(self, jumps: bool) -> None:
        self._jumps = jumps
        self._last: float | None = None
        self._length = 0.0
        self._played = 0.0

    def add(self, time: float | None, length: float) -> None:
        """Take a packet. Both are seconds; None: it has no time stamp."""
        if self._last is not None:
            step = self._length if time is None else time - self._last
            is_jump = step < 0 or (self._jumps and step > _MAX_STEP)
            self._played += self._length if is_jump else step
        self._last = time if time is not None else (self._last or 0.0) + self._length
        self._length = length

    @property
    def has_packets(self) -> bool:
        """Return whether there was any packet."""
        return self._last is not None

    @property
    def played(self) -> float:
        """Return the seconds until the end of the last packet."""
        return self._played + self._length


def _check_media(
    file: BinaryIO, kind: FileType, findings: Findings, fragments: Sequence[Fragment]
) -> Findings:
    """Read every packet. Damage in the middle of a format without check sums stays unnoticed."""
    import av  # only media need it, and it takes a moment to load

    has_duration = check_structure(file, kind, findings.size)
    file.seek(0)
    jumps = kind.demuxer in ("mpegts", "mpeg", "aac")
    has_times = kind.demuxer in ("mpegts", "mov", "matroska")
    timeline = Timeline(fragments, has_times=has_times, has_lengths=kind.demuxer == "mov")
    try:
        with av.open(
            file, "r", format=kind.demuxer, options=_PROBE, metadata_errors="replace"
        ) as media:
            announced = media.duration / 1_000_000 if media.duration and has_duration else 0.0
            types = tuple(sorted({each.type for each in media.streams}))
            # A cover picture is a video stream without time.
            streams = [
                each
                for each in media.streams
                if each.type in ("video", "audio")
                and av.stream.Disposition.attached_pic not in each.disposition
            ]
            clocks = {each.index: _Clock(jumps) for each in streams}
            # As numbers: calculating with a fraction for each packet costs more than reading it.
            units = {each.index: float(each.time_base or 0) for each in streams}
            for packet in media.demux(streams) if streams else ():
                unit = units[packet.stream_index]
                if packet.size and unit:
                    time = packet.dts if packet.dts is not None else packet.pts
                    seconds = None if time is None else time * unit
                    length = (packet.duration or 0) * unit
                    clocks[packet.stream_index].add(seconds, length)
                    if fragments:
                        timeline.add(packet.stream_index, packet.pos, seconds, length)
    except (av.error.FFmpegError, UnicodeError, ValueError) as error:
        return replace(findings, problem="broken", detail=f"{error}"[:200])
    if streams and not any(clock.has_packets for clock in clocks.values()):
        # Such as a film whose samples are in another file, which is never opened.
        return replace(findings, streams=types, problem="cut", detail="it has nothing to play")
    played = max((clock.played for clock in clocks.values()), default=0.0)
    findings = replace(findings, streams=types, seconds=round(played, 3))
    # FLAC counts its samples. Others round, or their streams differ in length.
    if is_short(played, announced) or (kind.demuxer == "flac" and announced - played > 0.01):
        detail = f"it announces {announced:.0f} s and plays {played:.0f} s"
        return replace(findings, problem="cut", detail=detail)
    if (cut := timeline.find_cut()) is not None:
        return replace(findings, problem="cut", detail=cut)
    return findings


def is_short(seconds: float, expected: float, slack: float = 2.0) -> bool:
    """Return whether media play noticeably shorter than expected: by `slack` s and by a tenth."""
    return expected - seconds > max(slack, expected / 10)


def _check_document(file: BinaryIO, kind: FileType, findings: Findings) -> Findings:
    """Look for the end of a document, an image or an archive. Raises CutError."""
    size = findings.size
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    file.seek(0)
    head = file.read(_TAIL)
    file.seek(0)
    main = kind.extensions[0]
    if main == ".zip":
        return _check_zip(file, findings)
    if main in (".gz", ".bz2", ".xz"):
        import bz2  # few files are archives, and each worker starts this program
        import gzip
        import lzma
        import zlib

        unpacked = 0
        openers: dict[str, Callable[[BinaryIO], io.BufferedIOBase]] = {
            ".gz": lambda file: gzip.GzipFile(fileobj=file),
            ".bz2": bz2.BZ2File,
            ".xz": lzma.LZMAFile,
        }
        try:
            with openers[main](file) as stream:
                while unpacked < _MAX_UNPACKED and (block := stream.read(_CHUNK)):
                    unpacked += len(block)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise CutError(str(error)[:200]) from error
        return findings
    mark = _END_MARKS.get(main)
    if mark is not None and mark not in tail:
        raise CutError(f"its end mark {mark!r} is missing")
    announced = 0
    if main == ".pdf" and (
        length := re.search(rb"/Linearized\b.{0,200}?/L\s+(\d+)", head, re.DOTALL)
    ):
        announced = int(length[1])
    elif main == ".webp":
        announced = int.from_bytes(head[4:8], "little") + 8
    elif main == ".7z":  # https://7-zip.org/sdk.html, 7zFormat.txt: SignatureHeader
        announced = (
            32 + int.from_bytes(head[12:20], "little") + int.from_bytes(head[20:28], "little")
        )
    elif main == ".bmp":
        announced = int.from_bytes(head[2:6], "little")
    elif main == ".tar":
        announced = size if size % 512 == 0 else size + 1
    if announced > size:
        raise CutError(f"it announces {announced:,} bytes and has {size:,}")
    return findings


# What the last bytes of a whole file contain.
_END_MARKS = {
    ".pdf": b"%%EOF",
    ".png": b"IEND",
    ".jpg": b"\xff\xd9",
    ".gif": b"\x3b",
}


def _check_zip(file: BinaryIO, findings: Findings) -> Findings:
    """Read the directory at the archive's end. It also says which kind of document this is."""
    import zipfile  # as above
    import zlib

    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            mimetype = ""
            if "mimetype" in names and archive.getinfo("mimetype").file_size < 200:
                mimetype = archive.read("mimetype").decode("ascii", "replace").strip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError) as error:
        raise CutError(str(error)[:200]) from error
    extension = _MIMETYPES.get(mimetype, "")
    if "[Content_Types].xml" in names:
        found = (each for start, each in _OFFICE.items() if any(n.startswith(start) for n in names))
        extension = next(found, "")
    if extension:
        return replace(findings, name="an Office document", extensions=(extension,))
    return findings


def _check_text(file: BinaryIO, kind: FileType, findings: Findings) -> Findings:
    """Tell JSON from a text that only begins like it."""
    if kind.name == "JSON" and findings.size <= _MAX_JSON:
        file.seek(0)
        try:
            json.loads(file.read())
        except (ValueError, RecursionError):
            return replace(findings, name=TEXT.name, extensions=TEXT.extensions)
    return findings


def serve() -> None:
    """Answer requests until standard input ends. What a hostile file can use up is bounded."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        path, log = (each and Path(each) for each in json.loads(line))
        try:
            # Beyond these seconds of CPU the kernel kills this process.
            seconds = _CPU_SECONDS + _CPU_SECONDS_PER_GB * path.stat().st_size // 1_000_000_000
            limits = (
                int(sum(os.times()[:2])) + seconds,
                resource.getrlimit(resource.RLIMIT_CPU)[1],
            )
            resource.setrlimit(resource.RLIMIT_CPU, limits)
            answer = asdict(check(path, read_fragments(log) if log else ()))
        except OSError as error:
            answer = {"error": error.errno}
        except MemoryError:
            answer = asdict(
                Findings("a file", Family.UNKNOWN.value, problem="broken", detail="too large")
            )
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
