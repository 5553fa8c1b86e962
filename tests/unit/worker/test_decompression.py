"""Bodies are decompressed block by block; what is damaged or cut off is an error, never an end."""

import gzip
import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.worker.downloaders.decompression import decompress
from enrollgate.worker.downloaders.yt_dlp_compat import TransportError


def deflate(data: bytes, wbits: int) -> bytes:
    compressor = zlib.compressobj(wbits=wbits)
    return compressor.compress(data) + compressor.flush()


def read(encoding: str, compressed: bytes) -> bytes:
    body = decompress(encoding, io.BytesIO(compressed))
    assert body is not None
    return body.read()


ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": lambda data: deflate(data, -zlib.MAX_WBITS),
    "identity": bytes,
}
NAMES = st.lists(st.sampled_from(sorted(ENCODERS)), min_size=1, max_size=3)


@given(st.binary(max_size=300_000), NAMES, st.integers(1, 100_000))
def test_any_encodings_are_undone_in_blocks_of_any_size(
    data: bytes, names: list[str], block: int
) -> None:
    encoded = data
    for name in names:
        encoded = ENCODERS[name](encoded)
    source = io.BytesIO(encoded)
    body = decompress(", ".join(names), source) or source
    blocks = list(iter(lambda: body.read(block), b""))
    assert b"".join(blocks) == data
    assert all(len(each) <= block for each in blocks)


@given(st.binary(min_size=1, max_size=100_000), st.data())
def test_a_cut_body_is_an_error(content: bytes, data: st.DataObject) -> None:
    encoded = gzip.compress(content)
    size = data.draw(st.integers(1, len(encoded) - 1))
    with pytest.raises(TransportError, match="cut off"):
        read("gzip", encoded[:size])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_is_not_compressed_is_an_error(encoding: str) -> None:
    with pytest.raises(TransportError, match="damaged"):
        read(encoding, b"<html>service unavailable</html>")


def test_garbage_after_the_data_is_ignored() -> None:
    assert read("gzip", gzip.compress(b"data") + b"garbage") == b"data"


def test_an_empty_body_is_empty() -> None:
    assert read("gzip", b"") == b""


def test_a_bomb_is_read_block_by_block() -> None:
    """30 GB of zeros, twice compressed: 10 blocks of it take no more memory than 10 blocks."""
    zeros = gzip.compress(bytes(100 << 20))
    body = decompress("gzip, gzip", io.BytesIO(gzip.compress(zeros * 300)))
    assert body is not None
    assert {len(body.read(1000)) for _ in range(10)} == {1000}
