"""What tests against real web servers need on this machine."""

import os
import shutil

import pytest
from examples.demo.media import FfmpegAbsent, find_ffmpeg
from tests.conftest import absent


@pytest.fixture(scope="session")
def webservers() -> None:
    """nginx, Apache httpd, a mount namespace for the hosts file, and ffmpeg for the lectures."""
    for program in ("nginx", "apache2"):
        if shutil.which(program) is None:
            absent(program, f"run scripts/webservers as root on Debian, or install {program}")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        absent("a hosts file for the worker", "run the tests as root on Linux")
    try:
        find_ffmpeg()
    except FfmpegAbsent as error:
        absent("ffmpeg", str(error))
