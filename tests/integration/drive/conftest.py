"""Fixtures of the Drive tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.drive_emulator import DriveEmulator
from tests.integration.drive.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A destination on a running emulator."""
    with DriveEmulator() as emulator:
        yield Bench(emulator, tmp_path)


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    """Let a whole run of the worker retry without pauses."""
    monkeypatch.setattr(
        "enrollgate.worker.destinations.drive.destination.RetryPolicy",
        lambda _stop: bench.retry_policy(),
    )
