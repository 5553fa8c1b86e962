"""Real launchers on real directories with real child processes; whatever is left of them at a test's end is killed."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.launching import launch

from enrollgate.common.backoff import Backoff
from enrollgate.domain.observation import LaunchOutcome, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.launchers.local import processes
from enrollgate.launchers.local.launcher import LocalLauncher
from enrollgate.launchers.local.run_directory import RunDirectory

PATIENCE = 60.0
PRELUDE = """
import json, os, pathlib, signal, subprocess, sys, time
notes = pathlib.Path(os.environ["NOTES"])
run_number = int(os.environ["ENROLLGATE_ATTEMPT"])
def report(reason, message="", **more):
    pathlib.Path(os.environ["ENROLLGATE_REPORT_PATH"]).write_text(json.dumps({"reason": reason, "message": message, **more}))
def note(name, text=""):
    draft = notes / (name + ".draft")
    draft.write_text(str(text))
    draft.rename(notes / name)
"""


def wait_for(condition: Callable[[], Any]) -> Any:
    """The condition's first true value; the test fails if none comes in a generous time."""
    give_up = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > give_up:
            pytest.fail("waited in vain")
        time.sleep(0.01)
    return value


class LocalLauncherHarness:
    """One work directory, the launchers opened on it, and the notes that its workers leave."""

    def __init__(self, folder: Path) -> None:
        self.work_dir = folder / "work"
        self.notes = folder / "notes"
        self.notes.mkdir(parents=True)
        self.changed = threading.Event()
        self.now = time.time()
        self._launchers = list[LocalLauncher]()

    def launcher(self, script: str = "", **changes: Any) -> LocalLauncher:
        """A launcher whose worker is this Python script."""
        settings: dict[str, Any] = {
            "installation": "enrollgate",
            "worker_argv": [sys.executable, "-c", PRELUDE + script],
            "worker_env": {"NOTES": str(self.notes)},
            "max_attempts": 3,
            "run_timeout": 600.0,
            "stop_grace": 30.0,
            "backoff": Backoff(base=0, cap=0),
            "run_ttl": 3600.0,
            "on_change": self.changed.set,
            "clock": lambda: self.now,
        }
        launcher = LocalLauncher(self.work_dir, **(settings | changes))
        self._launchers.append(launcher)
        return launcher

    def run(self, name: str) -> RunDirectory:
        return RunDirectory(self.work_dir / "runs" / name)

    def noted(self) -> set[str]:
        return {path.name for path in self.notes.iterdir() if path.suffix != ".draft"}

    def noted_pid(self, name: str) -> int:
        """The pid that a worker has noted under this name."""
        wait_for(lambda: name in self.noted())
        return int((self.notes / name).read_text())

    def supervisor_pid(self, name: str) -> int:
        pid, _ = wait_for(self.run(name).read_supervisor)
        return int(pid)

    def clean(self) -> None:
        for launcher in self._launchers:
            launcher.close()
        for process in list(processes.iter_processes()):
            if processes.mentions_path(process, self.work_dir):
                processes.send_signal(process, signal.SIGKILL)
        wait_for(
            lambda: (
                not [
                    p
                    for p in processes.iter_processes()
                    if processes.mentions_path(p, self.work_dir)
                ]
            )
        )


def finished(launcher: LocalLauncher, name: str) -> Observation:
    """What is seen of the run once it is no longer live."""

    def look() -> Observation | None:
        seen = launcher.observe()[name]
        return None if seen.phase is Phase.LIVE else seen

    observation: Observation = wait_for(look)
    return observation


def order(task_id: int = 1, run_number: int = 1) -> RunOrder:
    return RunOrder(
        f"enrollgate-{task_id}-{run_number}",
        task_id,
        run_number,
        "https://courses.example/1",
        "cookies-1.txt",
    )


def start(launcher: LocalLauncher, task_id: int = 1) -> str:
    """Launches one run; gives its name."""
    one = order(task_id)
    assert launch(launcher, [one]) == {one.name: LaunchOutcome.LAUNCHED}
    return one.name


def gone(pid: int) -> bool:
    return processes.find(pid) is None
