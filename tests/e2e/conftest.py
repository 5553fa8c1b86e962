"""What several end-to-end tests share."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.demo.site import CourseSite
from tests.conftest import absent
from tests.e2e.operator_process import course_site
from tests.repository import REPOSITORY


@pytest.fixture
def site() -> Iterator[CourseSite]:
    """Serve the demo's courses so slowly that a run is live for many seconds."""
    with course_site(throttle=10_000) as running:
        yield running


@pytest.fixture(scope="session")
def node_writer() -> Path:
    """The example with its one dependency."""
    return _with_packages(REPOSITORY / "examples" / "node-writer") / "writer.mjs"


@pytest.fixture(scope="session")
def orm_packages() -> Path:
    """The folder `orms` with the packages that its lock file names."""
    return _with_packages(Path(__file__).parent / "orms")


def _with_packages(folder: Path) -> Path:
    """Copy a folder, and install its packages there. The copy is kept between test runs."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        absent("node", "install Node.js 18 or newer with npm")
    copy = REPOSITORY / ".cache" / folder.name
    shutil.copytree(folder, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    lock = (copy / "package-lock.json").read_bytes()
    installed = copy / "node_modules" / ".of-lock"
    if not installed.exists() or installed.read_bytes() != lock:
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"], cwd=copy, check=True, capture_output=True
        )
        installed.write_bytes(lock)
    return copy
