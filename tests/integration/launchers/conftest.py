import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.launchers.workshop import Workshop

SOURCE = Path(__file__).parents[3] / "operator"


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")])))
    workshop = Workshop(tmp_path)
    yield workshop
    workshop.clean()
