"""Generate lectures: a test picture with a tone, a different one for each number."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path


class FfmpegAbsent(RuntimeError):
    """There is no ffmpeg on this machine."""


def find_ffmpeg() -> str:
    """Return the path of ffmpeg, of this machine or of imageio-ffmpeg. Raises FfmpegAbsent."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise FfmpegAbsent(
            "there is no ffmpeg on this machine: install it, or `pip install enrollgate[demo]`"
        ) from error
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@functools.cache
def make_lecture(number: int, seconds: int = 4) -> bytes:
    """Return an MP4 of a few hundred kilobytes. The same number gives the same video and audio."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lecture.mp4"
        video = f"-f lavfi -i testsrc2=size=320x180:rate=15:duration={seconds}"
        audio = f"-f lavfi -i sine=frequency={220 + 40 * number}:duration={seconds}"
        encoding = f"-vf hue=h={40 * number} -c:v mpeg4 -q:v 4 -c:a aac -shortest"
        command = [find_ffmpeg(), "-v", "error", *f"{video} {audio} {encoding}".split(), str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return path.read_bytes()
