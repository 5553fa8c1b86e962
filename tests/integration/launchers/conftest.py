"""The harness of the local launcher's tests, and the backends of the conformance tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.launchers.backends import LocalBackend, MemoryBackend
from tests.integration.launchers.harness import LocalLauncherHarness
from tests.launcher_conformance import LauncherBackend

SOURCE = Path(__file__).parents[3] / "operator"


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalLauncherHarness]:
    """A fresh work directory. Its processes are killed at the end."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    )
    harness = LocalLauncherHarness(tmp_path)
    yield harness
    harness.clean()


@pytest.fixture(params=["memory", "local"])
def backend(request: pytest.FixtureRequest) -> LauncherBackend:
    """One launcher of each kind that needs no cluster."""
    if request.param == "memory":
        return MemoryBackend()
    return LocalBackend(request.getfixturevalue("harness"))
