"""The worker as a process that resolves the test servers' name: it has a hosts file of its own.

The process runs in a mount namespace, so it needs root on Linux. All else is as in production.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.webservers.site import NAME

from enrollgate.domain.report import Report

_SCRIPT = 'mount --bind "$0" /etc/hosts && exec "$@"'


def with_hosts(folder: Path, line: str = "") -> list[str]:
    """Return the beginning of a command that runs with a hosts file of its own.

    `line` is added to it. The file is written to `folder`.
    """
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {NAME}\n{line}")
    return ["unshare", "--mount", "sh", "-c", _SCRIPT, str(hosts)]


def start_worker(
    tmp_path: Path,
    course_url: str,
    host: str,
    authority: Path,
    *,
    hosts_line: str = "",
    **settings: str,
) -> "subprocess.Popen[str]":
    """Start `enrollgate work` for this course. `settings` by their names without the prefix.

    `hosts_line` is added to its hosts file.

    The same `tmp_path` means the same run: scratch and destination are kept.
    """
    (tmp_path / "report.json").unlink(missing_ok=True)
    values = {
        "TASK_ID": "7",
        "COURSE_URL": course_url,
        "SCRATCH_DIR": str(tmp_path / "scratch"),
        "REPORT_PATH": str(tmp_path / "report.json"),
        "ALLOWED_HOSTS": host,
        "DESTINATION": f"directory:{tmp_path / 'out'}",
    } | settings
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "SSL_CERT_FILE": str(authority),
    } | {f"ENROLLGATE_{name}": value for name, value in values.items()}
    return subprocess.Popen(
        [*with_hosts(tmp_path, hosts_line), sys.executable, "-m", "enrollgate", "work"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_worker(
    tmp_path: Path,
    course_url: str,
    host: str,
    authority: Path,
    *,
    hosts_line: str = "",
    **settings: str,
) -> Report:
    """Run `enrollgate work` to its end and return its report. See `start_worker`."""
    with start_worker(
        tmp_path, course_url, host, authority, hosts_line=hosts_line, **settings
    ) as worker:
        try:
            _, log = worker.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            worker.kill()
            raise
    report = tmp_path / "report.json"
    assert report.exists(), log
    return Report.decode(report.read_text())


def delivered_files(tmp_path: Path) -> list[bytes]:
    """Return the contents of all delivered lectures, in the order of their names."""
    paths = sorted(path for path in (tmp_path / "out").rglob("*.mp4"))
    return [path.read_bytes() for path in paths]
