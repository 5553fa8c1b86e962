"""Fixtures for all tests of the worker."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.demo.media import FfmpegAbsent, find_ffmpeg
from tests.conftest import absent
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor


@pytest.fixture(autouse=True)
def collect_what_yt_dlp_left() -> Iterator[None]:
    """Collect garbage after each test.

    yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
    So their warnings appear here and not in another test.
    """
    yield
    gc.collect()


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's ffmpeg, which would rewrite streams: their fragments are only joined."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(FFmpegPostProcessor, "_version_cache", {})


@pytest.fixture
def site() -> Iterator[FaultySite]:
    """Serve a course of four lectures, about 100 kB each."""
    lectures = [Lecture(f"Lecture {n}", lecture(100_000 + n, n)) for n in range(1, 5)]
    with FaultySite(lectures) as running:
        yield running


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put ffmpeg on the PATH under its own name, as in the image."""
    try:
        program = find_ffmpeg()
    except FfmpegAbsent as error:
        absent("ffmpeg", str(error))
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").symlink_to(program)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(
        FFmpegPostProcessor, "_version_cache", {}
    )  # Another test may have found none.
    return program
