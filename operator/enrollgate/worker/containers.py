"""Compare what media containers say of their own lengths with the bytes that there are.

So a file or a fragment whose end is missing is noticed, without a parser of the media in it. Reads
lengths only, so that it is safe for hostile files and fast for large ones.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

from enrollgate.worker.file_types import HEAD_SIZE, MP3, MP4, MPEG_TS, FileType

# Bytes of a packet of an MPEG transport stream, and the first byte of each.
_TS_PACKET, _SYNC_BYTE = 188, 0x47
# Matroska's outer element that contains all others (RFC 9559, 5.1).
_SEGMENT = 0x18538067
# The largest Ogg page (RFC 3533, section 6).
_OGG_PAGE = 65_307


class CutError(Exception):
    """The end of a file is missing, or a part of it is. The text says how that was noticed."""


def check_structure(file: BinaryIO, kind: FileType, size: int) -> bool:
    """Check a whole file of `size` bytes. Raises CutError.

    Returns whether it announces how long it plays. MP4 in fragments does if it begins with an index
    of all of them. Else FFmpeg adds up its packets, and muxers guess the length of the last ones.
    """
    file.seek(0)
    head = file.read(HEAD_SIZE)
    announced, has_duration = 0, kind.demuxer not in ("mpegts", "mpeg", "aac")
    if kind == MP4:
        names = [name for name, _ in iter_boxes(file, 0, size)]
        samples = names[names.index("moof") :] if "moof" in names else []
        has_duration = not samples or ("sidx" in names and "sidx" not in samples)
    elif kind == MPEG_TS:
        _check_packets(file, 0, size)
    elif kind.demuxer == "ogg":
        # The last page must be whole (RFC 3533, section 6).
        file.seek(max(0, size - _OGG_PAGE - 4))
        tail = file.read()
        start = tail.rfind(b"OggS")
        page = tail[start:] if start >= 0 else b""
        lengths = page[27 : 27 + page[26]] if len(page) > 27 else b""
        if not lengths or 27 + len(lengths) + sum(lengths) > len(page):
            raise CutError("its last page is not whole")
    elif kind.demuxer == "matroska":
        _, start, length = _read_element(head, 0)
        element, start, length = _read_element(head, start + (length or 0))
        announced = start + (length or 0) if element == _SEGMENT else 0
    elif head[:4] in (b"RIFF", b"FORM"):
        order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
        length = int.from_bytes(head[4:8], order)
        # Programs that write to a pipe do not know the length. A last odd byte may be missing.
        announced = length + 7 if length not in (0, 0x7FFFFFFF, 0xFFFFFFFF) else 0
    elif kind == MP3:
        # The first frame of most files says how many bytes there are, from itself on.
        tag = re.search(rb"(?:Xing|Info)\0\0\0([\x00-\x0f])", head)
        if tag is not None and tag[1][0] & 2:
            start = tag.end() + (4 if tag[1][0] & 1 else 0)
            announced = int.from_bytes(head[start : start + 4])
    if announced > size:
        raise CutError(f"it announces {announced:,} bytes and has {size:,}")
    return has_duration


def check_fragment(file: BinaryIO, kind: FileType, start: int, end: int) -> None:
    """Check a fragment of a stream: the bytes from `start` to `end` of the stream's file.

    Raises CutError.
    """
    if kind == MPEG_TS:
        _check_packets(file, start, end)
    elif kind == MP4:
        names = {name for name, _ in iter_boxes(file, start, end)}
        # After the first one, a fragment is an index and samples, or a new beginning without any.
        if start and "moof" not in names and not ("moov" in names and "mdat" not in names):
            raise CutError(f"it has no samples, only {', '.join(sorted(names))}")
    elif kind.demuxer == "matroska" and start:
        position = start
        while position < end:
            file.seek(position)
            _, content, length = _read_element(file.read(16), 0)
            if length is None:  # to the end
                return
            position += content + length
        if position > end:
            raise CutError(f"its cluster ends {position - end:,} bytes after it")


def iter_boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[str, int]]:
    """Yield names and ends of the MP4 boxes from `start` to `end` (ISO/IEC 14496-12, 4.2).

    Raises CutError if the last one ends elsewhere.
    """
    position = start
    while position < end:
        file.seek(position)
        header = file.read(16)
        length, name = int.from_bytes(header[:4]), header[4:8].decode("ascii", "replace")
        if length == 1:
            length = int.from_bytes(header[8:16])
        elif length == 0:
            length = end - position
        if length < 8 or len(header) < 8:
            raise CutError(f"{end - position:,} other bytes are at its end")
        position += length
        if position > end:
            raise CutError(f"its {name!r} box ends {position - end:,} bytes after it")
        yield name, position


def _check_packets(file: BinaryIO, start: int, end: int) -> None:
    """Check that a transport stream consists of whole packets. Raises CutError."""
    file.seek(start)
    left = end - start
    while left > 0 and (block := file.read(min(left, _TS_PACKET * 5_000))):
        left -= len(block)
        starts = block[::_TS_PACKET]
        if starts.count(_SYNC_BYTE) != len(starts):
            raise CutError("other bytes are between its packets")
    if (end - start) % _TS_PACKET:
        raise CutError("its last packet is not whole")


def _read_element(data: bytes, position: int) -> tuple[int, int, int | None]:
    """Return id, start of the content and length of a Matroska element (RFC 8794, sections 4-6).

    The length is None if it is unknown, as in a live recording.
    """
    numbers = list[int]()
    width = 1
    for keeps_marker in (True, False):
        first = data[position] if position < len(data) else 0
        width = 9 - first.bit_length()
        number = int.from_bytes(data[position : position + width])
        numbers.append(number if keeps_marker else number & ((1 << 7 * width) - 1))
        position += width
    is_unknown = numbers[1] == (1 << 7 * width) - 1
    return numbers[0], position, None if is_unknown else numbers[1]
