import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.launchers.harness import LocalLauncherHarness

SOURCE = Path(__file__).parents[3] / "operator"


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalLauncherHarness]:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    )
    workshop = LocalLauncherHarness(tmp_path)
    yield workshop
    workshop.clean()
