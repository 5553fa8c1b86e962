"""yt-dlp's own network tests pass on our request handler (tests/yt_dlp_network)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import absent
from tests.repository import REPOSITORY
from tests.yt_dlp_network import refused
from tests.yt_dlp_network.plugin import mark_refused

pytestmark = pytest.mark.slow
FILES = ("test_networking.py", "test_http_proxy.py", "test_downloader_http.py")


def test_yt_dlps_network_tests_pass_on_our_handler(tmp_path: Path) -> None:
    script = subprocess.run(
        [REPOSITORY / "scripts" / "yt-dlp-tests"], capture_output=True, text=True, check=False
    )
    if script.returncode != 0:
        absent("yt-dlp's source package", script.stderr)
    source = Path(script.stdout.strip())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"),
            *("-p", "tests.yt_dlp_network.plugin", "-c", os.devnull, f"--rootdir={source}"),
            *(source / "test" / name for name in FILES),
        ],
        env=os.environ
        | {"PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}", "PYTEST_ADDOPTS": ""},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert f"{len(refused.REFUSED)} xfailed" in done.stdout, done.stdout[-2_000:]


def test_a_refused_test_that_does_not_exist_fails_the_run() -> None:
    with pytest.raises(pytest.UsageError, match="test_gone"):
        mark_refused([], {"test_networking.py::test_gone": "no reason"})
