"""Fixtures for all tests of the worker."""

import gc
from collections.abc import Iterator

import pytest
from tests.faulty_site import FaultySite, Lecture, content


@pytest.fixture(autouse=True)
def collect_what_yt_dlp_left() -> Iterator[None]:
    """Collect garbage after each test.

    yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector.
    So their warnings appear here and not in another test.
    """
    yield
    gc.collect()


@pytest.fixture
def site() -> Iterator[FaultySite]:
    """Serve a course of four lectures, about 100 kB each."""
    lectures = [Lecture(f"Lecture {n}", content(100_000 + n, n)) for n in range(1, 5)]
    with FaultySite(lectures) as running:
        yield running
