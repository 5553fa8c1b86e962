"""The operator under real pm2, from npm, with examples/pm2/ecosystem.config.cjs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from examples.demo.site import CourseSite
from tests.conftest import absent
from tests.e2e.operator_process import OperatorProcess, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
COURSE = "ceramics"
Pm2 = Callable[..., str]


@pytest.fixture
def pm2(tmp_path: Path) -> Iterator[Pm2]:
    """Run pm2 with a daemon of this test's own."""
    script = REPOSITORY / "scripts" / "pm2"
    installed = subprocess.run([script], capture_output=True, text=True, check=False)
    if installed.returncode:
        absent("pm2", installed.stderr.strip())
    environment = {name: os.environ[name] for name in ("PATH", "HOME")}
    environment |= {"PM2_HOME": str(tmp_path / "pm2"), "PM2_DISCRETE_MODE": "true"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["node", installed.stdout.strip(), *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run
    run("kill")


@pytest.mark.parametrize("action", ["stop", "restart", "delete", "kill"])
def test_run_outlives_the_operator_that_pm2_ends_and_is_adopted(
    tmp_path: Path, sqlite_url: str, site: CourseSite, pm2: Pm2, action: str
) -> None:
    operator = OperatorProcess(tmp_path, sqlite_url, site)
    operator.create_table()
    operator.add(1, COURSE)
    ecosystem = configure(operator, tmp_path)
    pm2("start", str(ecosystem))
    worker = wait_for_worker(operator)
    wait_until(lambda: site.media_sent > 0)
    pm2(action, *(["enrollgate"] if action != "kill" else []))
    if action != "restart":
        wait_until(lambda: "operator stopped" in logged(tmp_path))
        assert "live: 1; they continue" in logged(tmp_path)
        assert worker.is_running() and operator.status(1) == "enrolled"
        pm2("start", str(ecosystem))
    assert worker.is_running(), logged(tmp_path)
    site.throttle = None
    operator.wait_for_status(1, "completed")
    assert operator.runs() == [(1, 1, "finished", "succeeded", None)]
    assert operator.files(1) == site.lectures(COURSE)
    sent = [record.bytes for record in site.records if record.path.endswith(".mp4")]
    # Probes of a file's first bytes do not count.
    assert sorted(size for size in sent if size > 100_000) == sorted(
        map(len, site.lectures(COURSE))
    ), "one download"


def test_wrong_setting_is_not_restarted_for_ever(
    tmp_path: Path, sqlite_url: str, site: CourseSite, pm2: Pm2
) -> None:
    operator = OperatorProcess(tmp_path, sqlite_url, site, CHECK_INTERVAL="often")
    ecosystem = configure(operator, tmp_path)
    pm2("start", str(ecosystem))

    def is_stopped() -> bool:
        (process,) = json.loads(pm2("jlist"))
        return bool(process["pm2_env"]["status"] == "stopped")

    wait_until(is_stopped, lambda: pm2("jlist"))
    (process,) = json.loads(pm2("jlist"))
    assert process["pm2_env"]["restart_time"] == 0
    assert "ENROLLGATE_CHECK_INTERVAL=often" in logged(tmp_path)


def configure(operator: OperatorProcess, folder: Path) -> Path:
    """Return the example as an administrator edits it: with the paths of this machine."""
    settings = folder / "enrollgate.env"
    settings.write_text(
        "".join(
            f"{name}={value}\n"
            for name, value in operator.environment.items()
            if name.startswith("ENROLLGATE_")
        )
    )
    program = folder / "enrollgate"
    program.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={operator.environment['PYTHONPATH']}\n"
        f'exec {sys.executable} -m enrollgate "$@"\n'
    )
    program.chmod(0o755)
    path = folder / "ecosystem.config.cjs"
    shutil.copy(REPOSITORY / "examples" / "pm2" / "ecosystem.config.cjs", path)
    text = path.read_text()
    for shipped, here in (
        ("/opt/enrollgate/.venv/bin/enrollgate", program),
        ("/etc/enrollgate/enrollgate.env", settings),
    ):
        assert text.count(shipped) == 1
        text = text.replace(shipped, str(here))
    path.write_text(text)
    return path


def logged(folder: Path) -> str:
    """Return what the operators wrote, as pm2 keeps it."""
    return "".join(path.read_text() for path in sorted(folder.glob("pm2/logs/enrollgate-*.log")))


def wait_for_worker(operator: OperatorProcess) -> psutil.Process:
    def find() -> psutil.Process | None:
        for process in psutil.process_iter():
            try:
                scratch = process.environ().get("ENROLLGATE_SCRATCH_DIR", "")
                if scratch.startswith(str(operator.folder)) and "work" in process.cmdline():
                    return process
            except (psutil.Error, OSError):
                continue
        return None

    wait_until(lambda: find() is not None, lambda: logged(operator.folder))
    found = find()
    assert found is not None
    return found
