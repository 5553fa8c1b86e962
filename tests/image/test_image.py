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
