"""Decompress a response while it is read, so that its memory does not grow with its size.

What goes in: a Content-Encoding header and the compressed body. What comes out: a body to read.
Encodings are undone in the reverse order of the header (RFC 9110, 8.4).
"""

import io
import zlib
from typing import Protocol

from typing_extensions import Buffer

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.refused import RequestRefused
from enrollgate.worker.downloaders.yt_dlp_compat import TransportError

_BLOCK = 1 << 16
_GZIP = zlib.MAX_WBITS | 16
_RAW_DEFLATE = -zlib.MAX_WBITS
_GZIP_START = b"\x1f\x8b\x08"
# Compressed bytes that may come without any data.
_MAX_WITHOUT_DATA = 1 << 20
# Encodings that we neither offer nor undo (https://www.iana.org/assignments/http-parameters). Any
# other name is a mistake of the site, such as `utf-8`, and is ignored, as browsers do.
_NOT_SUPPORTED = frozenset(
    {"br", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "zstd"}
)


class Body(Protocol):
    """The body of a response."""

    def read(self, amt: int = ..., /) -> bytes:
        """Return at most `amt` bytes, nothing at the end."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def decompress(content_encoding: str, body: Body) -> io.BufferedReader | None:
    """Return the body without its encodings, or None if it has none that we know.

    Reading it raises RequestRefused if it has an encoding that we do not offer.
    """
    decoded: io.BufferedReader | None = None
    for name in reversed([each.strip().lower() for each in content_encoding.split(",")]):
        if name in _NOT_SUPPORTED:
            return io.BufferedReader(_RefusedBody(body, name))
        if name in ("gzip", "x-gzip", "deflate"):
            raw = _DecompressedBody(decoded or body, is_gzip=name != "deflate")
            decoded = io.BufferedReader(raw, _BLOCK)
    return decoded


class _RefusedBody(io.RawIOBase):
    """A body that cannot be read. The status of its answer keeps its meaning."""

    def __init__(self, source: Body, encoding: str) -> None:
        self._source = source
        self._encoding = encoding

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._source.close()
        super().close()

    def readinto(self, _buffer: Buffer, /) -> int:
        message = f"the site sent the encoding {self._encoding}, which the request did not offer"
        raise RequestRefused(Failure(Reason.SITE_ERROR, message))


class _DecompressedBody(io.RawIOBase):
    """A body that is decompressed block by block. Closes its source at the end of the data."""

    def __init__(self, source: Body, *, is_gzip: bool) -> None:
        self._source = source
        self._is_gzip = is_gzip
        self._decompressor: zlib._Decompress | None = None
        self._is_complete = False
        self._pending = b""  # compressed bytes that were read and not yet decompressed
        self._without_data = 0  # compressed bytes that were read since the last data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill the buffer as far as the next data goes.

        Raises TransportError if the compressed data is damaged, cut off, or holds nothing.
        """
        view = memoryview(buffer).cast("B")
        data = b""
        while not data and not self._is_complete:
            data = self._next(len(view))
        self._without_data = 0
        view[: len(data)] = data
        return len(data)

    def _next(self, limit: int) -> bytes:
        """Return up to `limit` bytes; nothing at the end, or if more data is needed first."""
        block = self._pending or self._read()
        if not block and self._decompressor is None:
            self._finish()  # an empty body is not compressed
            return b""
        if self._decompressor is None:
            window = _GZIP
            if not self._is_gzip:
                # Servers send `deflate` with or without the header of RFC 1950. A raw stream with
                # these bits would be a stored block whose padding is not zero.
                start = int.from_bytes(block[:2], "big")
                has_header = block[0] & 0x0F == zlib.DEFLATED and start % 31 == 0
                window = zlib.MAX_WBITS if has_header else _RAW_DEFLATE
            self._decompressor = zlib.decompressobj(window)
        try:
            data = self._decompressor.decompress(block, limit)
        except zlib.error as error:
            raise TransportError(f"the compressed answer is damaged: {error}") from error
        self._pending = self._decompressor.unconsumed_tail
        if self._decompressor.eof:
            self._pending = self._next_member(self._decompressor.unused_data)
        elif not block and not data:
            raise TransportError("the compressed answer was cut off")
        return data

    def _read(self) -> bytes:
        block = self._source.read(_BLOCK)
        self._without_data += len(block)
        if self._without_data > _MAX_WITHOUT_DATA:
            raise TransportError("the compressed answer holds no data")
        return block

    def _next_member(self, rest: bytes) -> bytes:
        """Return the start of the next member of a gzip file (RFC 1952, 2.2), or finish.

        Some servers append garbage, which is not read.
        """
        while self._is_gzip and len(rest) < len(_GZIP_START) and (block := self._read()):
            rest += block
        if self._is_gzip and rest.startswith(_GZIP_START):
            self._decompressor = None
            return rest
        self._finish()
        return b""

    def _finish(self) -> None:
        self._is_complete = True
        self._source.close()
