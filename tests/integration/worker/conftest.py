"""What all tests of the worker need."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def collect_what_yt_dlp_left() -> Iterator[None]:
    """yt-dlp leaves the sockets of answers that it did not read to the end to the garbage collector: here, not in another test."""
    yield
    gc.collect()
