"""Run the image as user 10001 on a read-only root, with /tmp as the only writable folder."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pytest
from tests.conftest import absent
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture

from enrollgate import version

REPOSITORY = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Config(TypedDict):
    """The instructions of the Dockerfile that say how to run the image."""

    user: str
    workdir: str
    environment: dict[str, str]
    entrypoint: list[str]
    command: list[str]
    labels: dict[str, str]


@dataclass(frozen=True)
class Image:
    """A built image: its root folder and how to run it."""

    folder: Path

    @property
    def config(self) -> Config:
        config: Config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return config

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the image, in its own mount namespace."""
        root = shlex.quote(str(self.folder / "root"))
        variables = self.config["environment"] | variables
        environment = [f"{name}={value}" for name, value in variables.items()]
        inner = [
            "chroot",
            f"--userspec={self.config['user']}",
            str(self.folder / "root"),
            "/usr/bin/env",
            "-i",
        ]
        script = (
            f"mount --bind {root} {root} && mount -o remount,bind,ro {root} && "
            f"mount -t tmpfs tmpfs {root}/tmp && "
            f"exec {shlex.join([*inner, *environment, *command])}"
        )
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="session")
def image() -> Image:
    if os.geteuid() != 0 or not shutil.which("apt-get") or not shutil.which("unshare"):
        absent(
            "a built image",
            "run the tests as root on Debian, where tests/image/image_root.py can build it",
        )
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tests" / "image" / "image_root.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Image(Path(done.stdout.strip()))


def test_entry_point_runs_the_operator(image: Image) -> None:
    assert image.config["entrypoint"] == ["enrollgate"]
    assert image.config["command"] == ["run"]
    done = image.run("enrollgate", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"enrollgate {version()}"), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("enrollgate", "work", "--help"),
        ("ffmpeg", "-version"),
        (
            "python",
            "-c",
            "import enrollgate.control.kopf_controller, enrollgate.worker.work, yt_dlp",
        ),
    ],
    ids=" ".join,
)
def test_programs_of_operator_and_worker_are_installed(
    image: Image, command: tuple[str, ...]
) -> None:
    done = image.run(*command)

    assert done.returncode == 0, done.stderr


def test_every_module_can_be_imported(image: Image) -> None:
    """What was removed from the image (scripts/image/prune.py) is not needed by any of them."""
    script = (
        "import enrollgate, importlib, pkgutil\n"
        "for module in pkgutil.walk_packages(enrollgate.__path__, 'enrollgate.'):\n"
        "    name = module.name\n"
        "    if not name.endswith(('.__main__', '.env')) and '.versions.' not in name:\n"
        "        importlib.import_module(name)\n"
        "from enrollgate.worker.destinations.drive.client import load_discovery_document\n"
        "assert load_discovery_document()['name'] == 'drive'\n"
    )
    done = image.run("python", "-c", script)

    assert done.returncode == 0, done.stderr


def test_worker_downloads_a_course(image: Image) -> None:
    with FaultySite(
        [Lecture("One", lecture(100_000, 1)), Lecture("Two", lecture(90_000, 2))]
    ) as site:
        done = image.run(
            "enrollgate",
            "work",
            ENROLLGATE_TASK_ID="1",
            ENROLLGATE_COURSE_URL=f"{site.url}/feed",
            ENROLLGATE_ALLOWED_HOSTS=site.host,
            ENROLLGATE_DESTINATION="directory:/tmp/courses",
            ENROLLGATE_SCRATCH_DIR="/tmp/scratch",
            ENROLLGATE_REPORT_PATH="/tmp/report",
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "delivered: 01 'One'" in done.stderr and "task 1: complete" in done.stderr


def test_image_is_small_and_says_what_it_is(image: Image) -> None:
    """The base image has 125 MB of the 600 MB that docs/decisions/0008-small-image.md sets."""
    environment = image.folder / "root" / "opt" / "enrollgate"
    used = subprocess.run(["du", "-sm", environment], capture_output=True, text=True, check=True)

    assert int(used.stdout.split()[0]) <= 475
    assert image.config["labels"]["org.opencontainers.image.version"] == version()
    assert image.config["labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_migration_runs_on_a_read_only_root(image: Image) -> None:
    """The migration uses the settings, the database layer and the packaged migration scripts."""
    done = image.run("enrollgate", "migrate", ENROLLGATE_DATABASE_URL="sqlite:////tmp/tasks.db")

    assert done.returncode == 0, done.stderr
    assert "migrated to revision" in done.stdout


def test_user_is_numeric_and_cannot_write_to_the_root(image: Image) -> None:
    assert image.config["user"] == "10001:10001"
    assert image.run("id", "-u").stdout.strip() == "10001"
    assert "Read-only file system" in image.run("touch", "/opt/enrollgate/file").stderr
    assert image.run("touch", "/tmp/file").returncode == 0


@pytest.mark.parametrize("tool", ["pip", "pip3", "gcc", "cc", "make"])
def test_build_tools_are_not_installed(image: Image, tool: str) -> None:
    assert image.run("sh", "-c", f"command -v {tool}").returncode != 0


@pytest.mark.parametrize("module", ["pip", "setuptools", "wheel"])
def test_python_packaging_tools_are_not_installed(image: Image, module: str) -> None:
    assert "ModuleNotFoundError" in image.run("python", "-c", f"import {module}").stderr


def test_package_lists_and_sources_are_removed(image: Image) -> None:
    root = image.folder / "root"

    assert not list((root / "var/lib/apt/lists").iterdir())
    assert not list((root / "var/cache/apt").rglob("*.deb"))
    assert not (root / "build").exists()
    assert not (root / "run/image").exists()


def test_build_scripts_exist_and_the_dockerfile_runs_them() -> None:
    """Each build step is an executable script."""
    for name in ("dependencies", "project", "runtime"):
        assert os.access(REPOSITORY / "scripts" / "image" / name, os.X_OK)
        assert f"image/{name}" in (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
