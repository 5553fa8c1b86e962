"""Cut the output of a program or a site into lines of a bounded length, in bounded memory."""

from collections.abc import Iterable, Iterator


def iter_lines(blocks: Iterable[bytes], limit: int) -> Iterator[str]:
    """Yield the lines of a stream of blocks, without their ends, each cut to `limit` bytes.

    A carriage return begins a line again, as on a terminal: of a progress bar, the last state is
    yielded. At most one block and `limit` bytes are in memory, even if no line ever ends.
    """
    line = b""
    for block in blocks:
        *complete, rest = block.split(b"\n")
        for part in complete:
            yield _decode(_extend(line, part, limit))
            line = b""
        line = _extend(line, rest, limit)
    if line:
        yield _decode(line)


def _extend(line: bytes, more: bytes, limit: int) -> bytes:
    """Return the line with more of it, cut to `limit` bytes and one final carriage return."""
    text = more.rstrip(b"\r")
    end = b"\r" if len(text) < len(more) else b""
    _, is_rewritten, last = text.rpartition(b"\r")
    if is_rewritten or (text and line.endswith(b"\r")):
        line = b""
    return line[:limit] + last[: max(0, limit - len(line))] + end


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r").decode(errors="replace")
