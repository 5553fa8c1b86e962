"""Decompress a response while it is read, so that its memory does not grow with its size.

What goes in: a Content-Encoding header and the compressed body. What comes out: a body to read.
Encodings are undone in the reverse order of the header (RFC 9110, 8.4).
"""

import io
import zlib
from typing import Protocol

from typing_extensions import Buffer

from enrollgate.worker.downloaders.yt_dlp_compat import TransportError

_BLOCK = 1 << 16
_GZIP = zlib.MAX_WBITS | 16
_RAW_DEFLATE = -zlib.MAX_WBITS


class Body(Protocol):
    """The body of a response."""

    def read(self, amt: int = ..., /) -> bytes:
        """Return at most `amt` bytes, nothing at the end."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def decompress(content_encoding: str, body: Body) -> io.BufferedReader | None:
    """Return the body without its encodings, or None if it has none that we know."""
    decoded: io.BufferedReader | None = None
    for name in reversed([each.strip().lower() for each in content_encoding.split(",")]):
        if name in ("gzip", "x-gzip", "deflate"):
            raw = _DecompressedBody(decoded or body, is_gzip=name != "deflate")
            decoded = io.BufferedReader(raw, _BLOCK)
    return decoded


class _DecompressedBody(io.RawIOBase):
    """A body that is decompressed block by block. Closes its source at the end of the data."""

    def __init__(self, source: Body, *, is_gzip: bool) -> None:
        self._source = source
        self._is_gzip = is_gzip
        self._decompressor: zlib._Decompress | None = None
        self._is_complete = False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill the buffer as far as the next data goes.

        Raises TransportError if the compressed data is damaged or cut off.
        """
        view = memoryview(buffer).cast("B")
        data = b""
        while not data and not self._is_complete:
            data = self._next(len(view))
        view[: len(data)] = data
        return len(data)

    def _next(self, limit: int) -> bytes:
        """Return up to `limit` bytes; nothing at the end, or if more data is needed first."""
        block = self._decompressor.unconsumed_tail if self._decompressor is not None else b""
        block = block or self._source.read(_BLOCK)
        if not block and self._decompressor is not None:
            raise TransportError("the compressed answer was cut off")
        if not block:
            self._finish()  # an empty body is not compressed
            return b""
        try:
            if self._decompressor is None:
                self._decompressor = self._start(block)
            data = self._decompressor.decompress(block, limit)
        except zlib.error as error:
            raise TransportError(f"the compressed answer is damaged: {error}") from error
        if self._decompressor.eof:
            self._finish()  # some servers append garbage, which is not read
        return data

    def _finish(self) -> None:
        self._is_complete = True
        self._source.close()

    def _start(self, block: bytes) -> "zlib._Decompress":
        """Choose the format. Servers send `deflate` with or without the header of RFC 1950."""
        if self._is_gzip:
            return zlib.decompressobj(_GZIP)
        # A raw stream with these bits would be a stored block whose padding is not zero.
        has_header = block[0] & 0x0F == zlib.DEFLATED and int.from_bytes(block[:2], "big") % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if has_header else _RAW_DEFLATE)
