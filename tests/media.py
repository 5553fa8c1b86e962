"""Make small files that really are what their names say: videos, sound, streams, documents.

All are made by PyAV in memory, in milliseconds, and the same arguments give the same bytes. A
lecture can have any size in bytes: it is a real video and a box of random bytes that players skip.
"""

import functools
import io
import math
import zipfile
from array import array
from fractions import Fraction
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
        file.flags |= 0x0400  # AVFMT_FLAG_BITEXACT: no version and no random numbers
        picture = file.add_stream(video, rate=_RATE) if video else None
        sound = file.add_stream(audio, rate=sample_rate, layout="mono")
        assert isinstance(sound, av.AudioStream)
        if picture is not None:
            assert isinstance(picture, av.VideoStream)
            picture.width, picture.height, picture.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
            picture.codec_context.gop_size = _RATE  # a segment may begin every second
            _draw(file, picture, seed, round(seconds * _RATE))
        _play(file, sound, seed, round(seconds * sample_rate))
    return output.getvalue()


def _draw(file: OutputContainer, stream: av.VideoStream, seed: int, frames: int) -> None:
    """Write a moving edge on a background whose color is the seed's."""
    background = Random(seed).randbytes(3)
    for number in range(frames):
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
