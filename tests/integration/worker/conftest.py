"""Fixtures for all tests of the worker."""

import gc
from collections.abc import Iterator

import pytest
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
