"""Make small files that really are what their names say: videos, sound, streams, documents.

All are made by PyAV in memory, in milliseconds, and the same arguments give the same bytes. A
lecture can have any size in bytes: it is a real video and a box of random bytes that players skip.
"""

import functools
import io
import math
import tempfile
import zipfile
from array import array
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import NamedTuple

import av
from av.container import OutputContainer

_WIDTH, _HEIGHT, _RATE = 64, 36, 10
_SAMPLE_RATE = 8_000
# Bytes of a packet of an MPEG transport stream.
_PACKET = 188


class _Kind(NamedTuple):
    container: str
    video: str
    audio: str
    sample_rate: int = _SAMPLE_RATE


_KINDS = {
    "mp4": _Kind("mp4", "mpeg4", "aac"),
    "m4a": _Kind("ipod", "", "aac"),
    "mov": _Kind("mov", "mpeg4", "aac"),
    "mkv": _Kind("matroska", "mpeg4", "aac"),
    "webm": _Kind("webm", "libvpx", "libopus", 48_000),
    "ts": _Kind("mpegts", "libx264", "aac", 16_000),
    "mp3": _Kind("mp3", "", "libmp3lame", 16_000),
    "wav": _Kind("wav", "", "pcm_s16le"),
    "flac": _Kind("flac", "", "flac"),
    "ogg": _Kind("ogg", "", "libopus", 48_000),
    "aac": _Kind("adts", "", "aac", 16_000),
}
MEDIA_KINDS = tuple(_KINDS)


@functools.cache
def make_media(
    kind: str, seconds: float = 1, seed: int = 0, *, options: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """Return a file of one of `MEDIA_KINDS`: a picture and a tone, other ones for each seed.

    `options` are those of FFmpeg's muxer, such as `movflags`.
    """
    container, video, audio, sample_rate = _KINDS[kind]
    output = io.BytesIO()
    with av.open(output, "w", format=container, options=dict(options)) as file:
        times = range(round(seconds * _RATE)) if video else ()
        _encode(file, (video, audio, sample_rate), seed, times, seconds)
    return output.getvalue()


def _encode(
    file: OutputContainer,
    codecs: tuple[str, str, int],
    seed: int,
    times: Iterable[int],
    seconds: float,
) -> None:
    """Write pictures at these times (tenths of a second), and a tone of so many seconds."""
    video, audio, sample_rate = codecs
    file.flags |= 0x0400  # AVFMT_FLAG_BITEXACT: no version and no random numbers
    picture = file.add_stream(video, rate=_RATE) if times else None
    sound = file.add_stream(audio, rate=sample_rate, layout="mono") if seconds else None
    if picture is not None:
        assert isinstance(picture, av.VideoStream)
        picture.width, picture.height, picture.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        picture.codec_context.gop_size = _RATE  # a segment may begin every second
        _draw(file, picture, seed, times)
    if sound is not None:
        assert isinstance(sound, av.AudioStream)
        _play(file, sound, seed, round(seconds * sample_rate))


class Packaged(NamedTuple):
    """A stream that FFmpeg has packaged."""

    manifest: str
    files: dict[str, bytes]  # by the names in the manifest


@functools.cache
def package(
    muxer: str,
    pictures: tuple[int, ...],
    seconds: float,
    options: tuple[tuple[str, str], ...],
    seed: int = 1,
) -> Packaged:
    """Return a stream of FFmpeg's muxer `hls` or `dash`: pictures and a tone, or one of the two.

    `pictures` are their times in tenths of a second, `seconds` is the length of the tone.
    """
    with tempfile.TemporaryDirectory() as name:
        manifest = Path(name) / f"stream.{'m3u8' if muxer == 'hls' else 'mpd'}"
        with av.open(str(manifest), "w", format=muxer, options=dict(options)) as file:
            _encode(file, ("libx264", "aac", 16_000), seed, pictures, seconds)
        text = manifest.read_text()
        manifest.unlink()
        return Packaged(text, {each.name: each.read_bytes() for each in Path(name).iterdir()})


def _draw(file: OutputContainer, stream: av.VideoStream, seed: int, times: Iterable[int]) -> None:
    """Write a moving edge on a background whose color is the seed's."""
    background = Random(seed).randbytes(3)
    for number in times:
        frame = av.VideoFrame(_WIDTH, _HEIGHT, "yuv420p")
        for plane, color in zip(frame.planes, background, strict=True):
            row = bytes([255 - color]) * (number % plane.line_size)
            plane.update(row.ljust(plane.line_size, bytes([color])) * plane.height)
        frame.pts, frame.time_base = number, Fraction(1, _RATE)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def _play(file: OutputContainer, stream: av.AudioStream, seed: int, samples: int) -> None:
    """Write a tone whose pitch is the seed's."""
    step = 2 * math.pi * (220 + seed % 64 * 20) / stream.sample_rate
    tone = array("h", (round(8_000 * math.sin(number * step)) for number in range(samples)))
    frame = av.AudioFrame(format="s16", layout="mono", samples=samples)
    frame.planes[0].update(tone.tobytes())
    frame.sample_rate, frame.pts = stream.sample_rate, 0
    frame.time_base = Fraction(1, stream.sample_rate)
    size = stream.codec_context.frame_size
    resampler = av.AudioResampler(stream.format.name, "mono", stream.sample_rate, size or None)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        file.mux(stream.encode(part))
    file.mux(stream.encode(None))


def lecture(size: int = 5_000, seed: int = 1, seconds: float = 0.1) -> bytes:
    """Return a video (MP4) of exactly so many bytes, at least 2,500; other bytes for each seed."""
    video = make_media("mp4", seconds)
    padding = size - len(video)
    assert padding >= 8, f"a lecture has at least {len(video) + 8} bytes"
    return video + padding.to_bytes(4) + b"free" + Random(seed).randbytes(padding - 8)


def ts_segment(size: int, seed: int = 1, seconds: float = 0.3) -> bytes:
    """Return a segment of an MPEG transport stream of about so many bytes: whole packets."""
    segment = make_media("ts", seconds, seed % 7)
    packets = max(0, size - len(segment)) // _PACKET
    noise = Random(seed)
    # Packets of the number 8191 are padding (ISO/IEC 13818-1, section 2.4.3.3).
    padding = (b"\x47\x1f\xff\x10" + noise.randbytes(_PACKET - 4) for _ in range(packets))
    return segment + b"".join(padding)


def fmp4_parts(seconds: float = 1, seed: int = 1) -> tuple[bytes, list[bytes]]:
    """Return the initial section and the segments of a fragmented MP4."""
    flags = (
        ("movflags", "frag_keyframe+empty_moov+default_base_moof"),
        ("frag_duration", "400000"),
    )
    data, parts, position = make_media("mp4", seconds, seed, options=flags), [b""], 0
    while position < len(data):
        end = position + int.from_bytes(data[position : position + 4])
        name = data[position + 4 : position + 8]
        if name == b"moof":
            parts.append(b"")
        if name != b"mfra":  # an index of the whole file
            parts[-1] += data[position:end]
        position = end
    return parts[0], parts[1:]


def package_mp4(seconds: float) -> Packaged:
    """Return an HLS stream of fragmented MP4, with several fragments of MP4 in each segment."""
    init, parts = fmp4_parts(seconds)
    size = math.ceil(len(parts) / 5)
    groups = [b"".join(parts[start : start + size]) for start in range(0, len(parts), size)]
    starts = list[float]()
    for group in groups:
        with av.open(io.BytesIO(init + group), "r", format="mov") as media:
            packet = next(iter(media.demux(media.streams.video[0])))
            starts.append(float((packet.dts or 0) * packet.time_base))
    lengths = [end - start for start, end in zip(starts, [*starts[1:], seconds], strict=True)]
    lines = "".join(f"#EXTINF:{each:.6f},\n{n}.m4s\n" for n, each in enumerate(lengths))
    head = '#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:3\n#EXT-X-MAP:URI="init.mp4"\n'
    files = {f"{number}.m4s": group for number, group in enumerate(groups)}
    return Packaged(f"{head}{lines}#EXT-X-ENDLIST\n", {"init.mp4": init, **files})


def make_document(kind: str, seed: int = 1) -> bytes:
    """Return a `pdf`, `zip`, `docx` or `epub` with other bytes for each seed."""
    text = Random(seed).randbytes(400).hex()
    if kind == "pdf":
        body = f"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n% {text}\n"
        return f"{body}trailer<</Root 1 0 R>>\nstartxref\n{len(body)}\n%%EOF\n".encode()
    first, mime = {
        "docx": ("word/document.xml", ""),
        "epub": ("mimetype", "application/epub+zip"),
        "zip": ("notes.txt", ""),
    }[kind]
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr(zipfile.ZipInfo(first), mime or text)
        if kind == "docx":
            archive.writestr(zipfile.ZipInfo("[Content_Types].xml"), "<Types/>")
    return output.getvalue()
