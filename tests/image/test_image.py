"""What the Dockerfile makes is run under user 10001 with a read-only root and nothing but /tmp to write to."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import absent

from enrollgate import version

REPOSITORY = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Image:
    """A built image: its root folder and what the Dockerfile says of running it."""

    folder: Path

    @property
    def config(self) -> dict[str, object]:
        config: dict[str, object] = json.loads(
            (self.folder / "config.json").read_text(encoding="utf-8")
        )
        return config

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in it, in a mount namespace of its own."""
        root = shlex.quote(str(self.folder / "root"))
        environment = [
            f"{name}={value}"
            for name, value in (dict(self.config["environment"]) | variables).items()
        ]  # type: ignore[call-overload]
        inner = [
            "chroot",
            f"--userspec={self.config['user']}",
            str(self.folder / "root"),
            "/usr/bin/env",
            "-i",
        ]
        script = (
            f"mount --bind {root} {root} && mount -o remount,bind,ro {root} && mount -t tmpfs tmpfs {root}/tmp && "
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


def test_it_starts_as_the_cluster_starts_it(image: Image) -> None:
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
def test_what_operator_and_worker_need_is_inside(image: Image, command: tuple[str, ...]) -> None:
    done = image.run(*command)

    assert done.returncode == 0, done.stderr


def test_it_works_with_a_read_only_root(image: Image) -> None:
    """A migration uses the settings, the database layer and the packaged migration scripts."""
    done = image.run("enrollgate", "migrate", ENROLLGATE_DATABASE_URL="sqlite:////tmp/tasks.db")

    assert done.returncode == 0, done.stderr
    assert "migrated to revision" in done.stdout


def test_its_user_is_numeric_and_cannot_write_the_root(image: Image) -> None:
    assert image.config["user"] == "10001:10001"
    assert image.run("id", "-u").stdout.strip() == "10001"
    assert "Read-only file system" in image.run("touch", "/opt/enrollgate/file").stderr
    assert image.run("touch", "/tmp/file").returncode == 0


@pytest.mark.parametrize("tool", ["pip", "pip3", "gcc", "cc", "make"])
def test_no_build_tool_is_left(image: Image, tool: str) -> None:
    assert image.run("sh", "-c", f"command -v {tool}").returncode != 0


@pytest.mark.parametrize("module", ["pip", "setuptools", "wheel"])
def test_no_python_packager_is_left(image: Image, module: str) -> None:
    assert "ModuleNotFoundError" in image.run("python", "-c", f"import {module}").stderr


def test_no_package_lists_and_no_sources_are_left(image: Image) -> None:
    root = image.folder / "root"

    assert not list((root / "var/lib/apt/lists").iterdir())
    assert not list((root / "var/cache/apt").rglob("*.deb"))
    assert not (root / "build").exists()
    assert not (root / "run/image").exists()


def test_the_programs_of_the_dockerfile_are_those_it_names() -> None:
    """Every step is a script that is there and can be executed."""
    for name in ("dependencies", "project", "runtime"):
        assert os.access(REPOSITORY / "scripts" / "image" / name, os.X_OK)
        assert f"image/{name}" in (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
