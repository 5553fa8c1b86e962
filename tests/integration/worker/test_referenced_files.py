"""A container may name other files: parts of a film, its samples, its next part. None is opened."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.media import make_media

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import Expected, Fetched
from enrollgate.worker.verification import file_checker, verify

# https://man7.org/linux/man-pages/man7/inotify.7.html
IN_ACCESS, IN_OPEN = 0x1, 0x20
CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"dinf"}


class OpenWatch:
    """Notices that any process opens a file."""

    def __init__(self, file: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._queue >= 0
        assert libc.inotify_add_watch(self._queue, os.fsencode(file), IN_ACCESS | IN_OPEN) >= 0

    def was_opened(self) -> bool:
        try:
            return bool(os.read(self._queue, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._queue)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a lecture of another course, with a short name beside the checked file."""
    file = tmp_path / "b.x"
    file.write_bytes(make_media("mp4", 2, seed=9))
    return file


@pytest.fixture
def watch(secret: Path) -> Iterator[OpenWatch]:
    watch = OpenWatch(secret)
    assert not watch.was_opened()
    secret.read_bytes()
    assert watch.was_opened(), "the watch works"
    yield watch
    watch.close()


def box(name: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4) + name + content


def rebuild(data: bytes, change: Callable[[bytes, bytes], bytes]) -> bytes:
    """Return the MP4 boxes with those that `change` returns for their names and contents."""
    result, position = b"", 0
    while position < len(data):
        end = position + int.from_bytes(data[position : position + 4])
        name, content = data[position + 4 : position + 8], data[position + 8 : end]
        if name in CONTAINERS:
            content = rebuild(content, change)
        result += box(name, change(name, content))
        position = end
    return result


def reference_movie(secret: Path) -> bytes:
    """Return a film that consists of another one.

    https://developer.apple.com/documentation/quicktime-file-format/reference_movie_atom
    """
    url = os.fsencode(secret) + b"\0"
    data = box(b"rdrf", bytes(4) + b"url " + len(url).to_bytes(4) + url)
    return box(b"ftyp", b"qt  " + bytes(4) + b"qt  ") + box(
        b"moov", box(b"rmra", box(b"rmda", data))
    )


def with_reference(secret: Path) -> bytes:
    """Return a whole film that also names another one to play in its place."""
    movie = reference_movie(secret).partition(b"moov")[2]
    return rebuild(
        make_media("mp4", 1),
        lambda name, content: content + movie if name == b"moov" else content,
    )


def external_samples(kind: bytes) -> Callable[[Path], bytes]:
    """Return what builds a film whose samples are in another file (ISO/IEC 14496-12, 8.7.2)."""

    def build(secret: Path) -> bytes:
        path = os.fsencode(secret)
        name = path[-27:]
        # A classic alias: version 2, the name of the volume, that of the file, then tagged paths.
        alias = bytes(4) + (150 + len(path)).to_bytes(2) + (2).to_bytes(2) + bytes(2)
        alias += bytes([3]) + b"Mac".ljust(27, b"\0") + bytes(12)
        alias += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
        alias += (0).to_bytes(2) + (0).to_bytes(2) + bytes(16)
        alias += (2).to_bytes(2) + len(path).to_bytes(2) + path + b"\0" * (len(path) % 2)
        alias += (0xFFFF).to_bytes(2) + bytes(2)
        entry = box(kind, bytes(4) + (path + b"\0" if kind == b"url " else alias))
        dref = bytes(4) + (1).to_bytes(4) + entry
        changed = {b"dref": dref, b"mdat": b""}
        return rebuild(make_media("mp4", 4), changed.get)

    return build


def next_segment(secret: Path) -> bytes:
    """Return a Matroska file that names its next part (RFC 9559, 5.1.2.6)."""
    film, name = make_media("mkv", 1), secret.name.encode()
    application = b"\x4d\x80\x84Lavf"
    assert film.count(application) == 1 and len(name) == 3
    return film.replace(application, b"\x3e\x83\xbb\x83" + name)


FILMS: dict[str, Callable[[Path], bytes]] = {
    "a reference movie": reference_movie,
    "a movie with a reference": with_reference,
    "samples by URL": external_samples(b"url "),
    "samples by alias": external_samples(b"alis"),
    "a linked segment": next_segment,
}
# Their own content is whole. The rest has none of its own.
DELIVERED = {"a movie with a reference", "a linked segment"}


@pytest.mark.parametrize("kind", FILMS)
def test_no_file_that_a_container_names_is_opened(
    tmp_path: Path, secret: Path, watch: OpenWatch, kind: str
) -> None:
    film = tmp_path / ("a.mkv" if kind == "a linked segment" else "a.mov")
    film.write_bytes(FILMS[kind](secret))
    expected = Expected(film.suffix, is_media=True)
    try:
        verify(Fetched(film, expected=expected), threading.Event())
        reason = None
    except Failure as failure:
        reason = failure.reason
    assert not watch.was_opened()
    is_known = reason in (Reason.SITE_ERROR, Reason.INCOMPLETE_DOWNLOAD)
    assert is_known if kind not in DELIVERED else reason is None, reason
    findings = file_checker().check(film, threading.Event())
    assert (findings.seconds or 0.0) < 1.5, "nothing of the other film is counted"
