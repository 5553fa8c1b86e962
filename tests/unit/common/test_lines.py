"""Output is cut into the same lines, however it arrives in blocks."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.common.lines import iter_lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\n\ntwo", ["one", "", "two"]),
        (b"10%\r20%\rdone\nnext", ["done", "next"]),
        (b"10%\r20%\r", ["20%"]),
        (b"caf\xe9\n", ["caf\ufffd"]),
        (b"0123456789abc\n", ["01234567"]),
        (b"0123456789abc\rshort\n", ["short"]),
        (b"\r\r\r\n", [""]),
    ],
)
def test_lines_are_cut_and_rewritten_lines_show_their_last_state(
    text: bytes, lines: list[str]
) -> None:
    assert list(iter_lines([text], 8)) == lines


@given(
    st.lists(st.sampled_from([b"a", b"0123456789", b"\n", b"\r", b"\r\n", b""]), max_size=20),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_blocks_do_not_change_the_lines(parts: list[bytes], cuts: list[int]) -> None:
    text = b"".join(parts)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    blocks = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert list(iter_lines(blocks, 8)) == list(iter_lines([text], 8))


def test_a_line_without_end_takes_no_memory() -> None:
    blocks = (b"x" * 65536 for _ in range(16384))  # 1 GiB
    assert [len(line) for line in iter_lines(blocks, 4096)] == [4096]
