"""The operator under real systemd, with examples/systemd/enrollgate.service, its sandbox included.

A user manager of systemd needs no machine that was booted with systemd, but root, to hide /run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from examples.demo.site import CourseSite
from tests.conftest import absent, left_out
from tests.databases.server import die_with_parent
from tests.e2e.operator_process import OperatorProcess, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
COURSE = "ceramics"
# sd_booted(3) looks for this folder.
MANAGER = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system
exec /lib/systemd/systemd --user --log-target=console --unit=basic.target
"""
Systemctl = Callable[..., str]


@pytest.fixture
def systemctl() -> Iterator[Systemctl]:
    """Start a manager of this test's own. Its units are in `$XDG_CONFIG_HOME/systemd/user`."""
    if shutil.which("systemctl") is None:
        absent("systemd", "run scripts/systemd")
    with tempfile.TemporaryDirectory(prefix="systemd-") as folder:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "XDG_RUNTIME_DIR": folder,
            "XDG_CONFIG_HOME": folder,
        }

        def run(*arguments: str) -> str:
            done = subprocess.run(
                ["systemctl", "--user", *arguments],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            return done.stdout + done.stderr

        with (Path(folder) / "manager.log").open("wb") as log:
            manager = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", MANAGER],
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- no thread of the tests holds a lock
            )
        try:
            deadline = time.monotonic() + 30
            while not run("show", "--property=Version").startswith("Version="):
                if manager.poll() is not None or time.monotonic() > deadline:
                    text = (Path(folder) / "manager.log").read_text()
                    left_out(f"systemd's user manager does not start here: {text[-300:]}")
                time.sleep(0.1)
            yield run
            run("kill", "enrollgate")
        finally:
            manager.terminate()
            manager.wait()


@pytest.mark.parametrize("action", ["stop", "restart"])
def test_live_run_outlives_the_operator_that_systemd_ends(
    tmp_path: Path, sqlite_url: str, site: CourseSite, systemctl: Systemctl, action: str
) -> None:
    operator = OperatorProcess(tmp_path, sqlite_url, site)
    start(operator, systemctl)
    worker = wait_for_worker(operator, site)
    assert systemctl(action, "enrollgate") == ""
    assert worker.is_running() and operator.status(1) == "enrolled"
    if action == "stop":
        assert "unless systemd kills them with enrollgate.service" in operator.log
        assert systemctl("start", "enrollgate") == ""
    site.throttle = None
    operator.wait_for_status(1, "completed")
    assert operator.runs() == [(1, 1, "finished", "succeeded", None)]
    assert operator.files(1) == site.lectures(COURSE)


def test_run_that_systemd_kills_with_the_operator_is_lost_and_repeated(
    tmp_path: Path, sqlite_url: str, site: CourseSite, systemctl: Systemctl
) -> None:
    operator = OperatorProcess(tmp_path, sqlite_url, site)
    start(operator, systemctl, ("KillMode=process", "KillMode=control-group"))
    worker = wait_for_worker(operator, site)
    assert systemctl("stop", "enrollgate") == ""
    wait_until(lambda: not worker.is_running())
    site.throttle = None
    assert systemctl("start", "enrollgate") == ""
    operator.wait_for_status(1, "completed")
    assert [run[:4] for run in operator.runs()] == [
        (1, 1, "finished", "lost"),
        (1, 2, "finished", "succeeded"),
    ]


def test_wrong_setting_is_not_restarted(
    tmp_path: Path, sqlite_url: str, site: CourseSite, systemctl: Systemctl
) -> None:
    operator = OperatorProcess(tmp_path, sqlite_url, site, CHECK_INTERVAL="often")
    start(operator, systemctl)
    wait_until(lambda: "ActiveState=failed" in systemctl("show", "enrollgate"))
    shown = systemctl("show", "enrollgate").splitlines()
    assert {"ExecMainStatus=2", "NRestarts=0"} <= set(shown), operator.log


def start(operator: OperatorProcess, systemctl: Systemctl, *changes: tuple[str, str]) -> None:
    """Write a row and start the example as an administrator edits it."""
    operator.create_table()
    operator.add(1, COURSE)
    folder, settings = operator.folder, operator.folder / "enrollgate.env"
    settings.write_text(
        "".join(
            f"{name}={value}\n"
            for name, value in operator.environment.items()
            if name.startswith("ENROLLGATE_") or name == "PYTHONPATH"
        )
    )
    text = (REPOSITORY / "examples" / "systemd" / "enrollgate.service").read_text()
    for shipped, here in (
        ("/opt/enrollgate/.venv/bin/enrollgate run", f"{sys.executable} -m enrollgate run"),
        ("/etc/enrollgate/enrollgate.env", str(settings)),
        ("-/srv/courses", str(folder)),
        # This user manager is root's, and the tests' Python may be in root's home.
        ("User=enrollgate\nGroup=enrollgate\n", f"StandardError=append:{folder}/operator.log\n"),
        ("ProtectHome=yes", "ProtectHome=read-only"),
        # A container's /proc may not be mounted once more.
        ("ProtectKernelLogs=yes\n", ""),
        ("ProtectKernelTunables=yes\n", ""),
        *changes,
    ):
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, here)
    units = systemctl("show", "--property=UnitPath", "--value").split()
    path = next(Path(each) for each in units if each.endswith("/systemd/user"))
    path.mkdir(parents=True)
    (path / "enrollgate.service").write_text(text)
    assert systemctl("daemon-reload") == ""
    assert systemctl("start", "enrollgate") == "", systemctl("show", "enrollgate")


def wait_for_worker(operator: OperatorProcess, site: CourseSite) -> psutil.Process:
    wait_until(lambda: site.media_sent > 0, lambda: operator.log)
    for process in psutil.process_iter():
        try:
            scratch = process.environ().get("ENROLLGATE_SCRATCH_DIR", "")
            if scratch.startswith(str(operator.folder)) and "work" in process.cmdline():
                return process
        except (psutil.Error, OSError):
            continue
    raise AssertionError(operator.log)
