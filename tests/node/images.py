"""Build the images that the node runs, from the Dockerfile, with buildah.

Run `python -m tests.node.images`. It prints the folder with one archive for each image. The base
image is a local one under the name that the Dockerfile has (`tests.image.image_root`). It needs
root, buildah, runc and the network.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.image.image_root import (
    CACHE,
    REPOSITORY,
    CannotBuild,
    base_image,
    base_root,
    fingerprint,
)

# Names that no registry has: the node never pulls.
IMAGE = "enrollgate.test/enrollgate:1"
# Shell tools alone: an image without Enrollgate in it.
OTHER_IMAGE = "enrollgate.test/busybox:1"
PAUSE_IMAGE = "enrollgate.test/pause:1"
# Files of this machine that the build needs to reach the network.
_NETWORK_FILES = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")


def images() -> Path:
    """Return the folder with the archives of all images, from the cache if nothing has changed.

    Raises:
        CannotBuild: a part is absent, or a step failed.
    """
    folder = CACHE / f"node-images-{fingerprint()}"
    if (folder / "complete").exists():
        return folder
    part = folder.with_name(f"{folder.name}.part.{os.getpid()}")
    part.mkdir(parents=True)
    try:
        builder = _Builder(part / "storage")
        builder.import_root(base_root(), f"docker.io/library/{base_image()}")
        builder.build_dockerfile()
        builder.build_busybox(part)
        for name in (IMAGE, OTHER_IMAGE, PAUSE_IMAGE):
            archive = part / f"{name.rpartition('/')[2].partition(':')[0]}.tar"
            builder.run("push", "-q", name, f"docker-archive:{archive}:{name}")
        builder.remove()
        for old in CACHE.glob("node-images-*"):
            if ".part." not in old.name:
                shutil.rmtree(old)
        (part / "complete").touch()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


class _Builder:
    """buildah with a storage of its own."""

    def __init__(self, storage: Path) -> None:
        storage.mkdir()
        configuration = storage / "storage.conf"
        configuration.write_text(
            f'[storage]\ndriver = "overlay"\nrunroot = "{storage}/run"\n'
            f'graphroot = "{storage}/graph"\n'
        )
        self._storage = storage
        self._environment = os.environ | {"CONTAINERS_STORAGE_CONF": str(configuration)}

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *arguments],
            cwd=REPOSITORY,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotBuild(
                f"buildah {arguments[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}"
            )
        return done.stdout.strip()

    def import_root(self, root: Path, name: str, *config: str) -> None:
        """Make an image of one layer from a root folder."""
        container = self.run("from", "scratch")
        self.run("copy", "-q", container, str(root), "/")
        search = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.run("config", "--env", search, *config, container)
        self.run("commit", "-q", container, name)
        self.run("rm", container)

    def build_dockerfile(self) -> None:
        mounts = [f"--volume={file}:{file}:ro" for file in _NETWORK_FILES if Path(file).is_file()]
        runtime = ("--isolation", "oci", "--runtime", shutil.which("runc") or "runc")
        network = ("--pull-never", "--network", "host")
        self.run("bud", "-q", *runtime, *network, *mounts, "-t", IMAGE, ".")

    def build_busybox(self, folder: Path) -> None:
        """Make the image that holds a pod's namespaces, and one with a shell and nothing else."""
        program = shutil.which("busybox")
        if program is None:
            raise CannotBuild("busybox is absent: install busybox-static")
        root = folder / "busybox"
        (root / "bin").mkdir(parents=True)
        shutil.copy2(program, root / "bin" / "busybox")
        (root / "bin" / "sh").symlink_to("busybox")
        wait = '["/bin/busybox", "sleep", "2147483647"]'
        self.import_root(root, PAUSE_IMAGE, "--entrypoint", wait)
        self.import_root(root, OTHER_IMAGE)

    def remove(self) -> None:
        """Remove the storage, with its mounts."""
        self.run("rmi", "--all", "--force")
        shutil.rmtree(self._storage)


if __name__ == "__main__":
    try:
        print(images())
    except CannotBuild as error:
        sys.exit(f"images: {error}")
