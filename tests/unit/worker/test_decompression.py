"""Bodies are decompressed block by block; what is damaged or cut off is an error, never an end."""

import gzip
import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.worker.downloaders.decompression import decompress
from enrollgate.worker.downloaders.refused import RequestRefused
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


@given(st.lists(st.binary(max_size=70_000), min_size=2, max_size=5), st.integers(1, 70_000))
def test_all_members_of_a_gzip_body_are_read(members: list[bytes], block: int) -> None:
    encoded = b"".join(gzip.compress(member) for member in members)

    class Dripping(io.BytesIO):
        def read(self, amt: int | None = -1, /) -> bytes:
            return super().read(min(block, amt or 0))

    body = decompress("gzip", Dripping(encoded))
    assert body is not None
    assert body.read() == b"".join(members)
    assert read("gzip", encoded + b"garbage") == b"".join(members)


def test_a_cut_second_member_is_an_error() -> None:
    encoded = gzip.compress(b"a") + gzip.compress(b"b" * 1000)
    with pytest.raises(TransportError, match="cut off"):
        read("gzip", encoded[:-5])


@pytest.mark.parametrize("name", ["br", "zstd", "BR", "compress", "dcz", "gzip, br", "br, gzip"])
def test_an_encoding_that_was_not_offered_is_refused_when_read(name: str) -> None:
    body = decompress(name, io.BytesIO(gzip.compress(b"data")))
    assert body is not None
    with pytest.raises(RequestRefused, match="did not offer"):
        body.read()


@pytest.mark.parametrize("name", ["", "identity", "utf-8", "none", "binary", "aws-chunked", ","])
def test_a_name_that_is_no_encoding_is_ignored(name: str) -> None:
    assert decompress(name, io.BytesIO(b"data")) is None
    assert read(f"{name}, gzip", gzip.compress(b"data")) == b"data"


@pytest.mark.parametrize(
    "block",
    [b"\x00\x00\x00\xff\xff" * 10_000, gzip.compress(b"") * 3_000],
    ids=["blocks", "members"],
)
def test_compressed_data_without_content_is_an_error(block: bytes) -> None:
    start = zlib.compressobj(wbits=31).flush(zlib.Z_FULL_FLUSH) if block[0] == 0 else b""
    with pytest.raises(TransportError, match="holds no data"):
        read("gzip", start + block * 100)
