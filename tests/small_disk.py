"""A small disk that really runs full, mounted for one test."""

import gc
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import absent

# By their full paths: some tests change PATH.
_MOUNT, _UMOUNT = "/bin/mount", "/bin/umount"


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a disk of this size on a new folder. Skip the test where mounting is not allowed."""
    folder.mkdir()
    command = [_MOUNT, "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        absent("the right to mount a small disk", "run as root, where mount works")
    try:
        yield folder
    finally:
        # yt-dlp leaves the file of a failed write to the garbage collector.
        gc.collect()
        is_free = subprocess.run([_UMOUNT, str(folder)], check=False).returncode == 0
        if not is_free:  # a mount that stays breaks later runs of pytest
            subprocess.run([_UMOUNT, "-l", str(folder)], check=True)
        assert is_free, f"a process still uses {folder}"


def enlarge(folder: Path, megabytes: int) -> None:
    """Give a small disk more room."""
    command = [_MOUNT, "-o", f"remount,size={megabytes}m", str(folder)]
    subprocess.run(command, check=True)
