"""Lectures made on the spot: a test picture with a tone, each a different one, playable anywhere."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path


class FfmpegAbsent(RuntimeError):
    """No ffmpeg is on this machine."""


def find_ffmpeg() -> str:
    """The ffmpeg of this machine, or the one that PyPI's imageio-ffmpeg carries. Raises FfmpegAbsent."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise FfmpegAbsent(
            "no ffmpeg on this machine: install ffmpeg, or `pip install enrollgate[demo]`"
        ) from error
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@functools.cache
def make_lecture(number: int, seconds: int = 4) -> bytes:
    """An MP4 of some hundred kilobytes. The same number gives the same picture and tone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lecture.mp4"
        command = [
            find_ffmpeg(),
            *(
                "-v",
                "error",
                "-f",
                "lavfi",
                "-i",
                f"testsrc2=size=320x180:rate=15:duration={seconds}",
            ),
            *("-f", "lavfi", "-i", f"sine=frequency={220 + 40 * number}:duration={seconds}"),
            *(
                "-vf",
                f"hue=h={40 * number}",
                "-c:v",
                "mpeg4",
                "-q:v",
                "4",
                "-c:a",
                "aac",
                "-shortest",
                str(path),
            ),
        ]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return path.read_bytes()
