"""Real launchers on real directories with real child processes.

`LocalLauncherHarness.clean` kills whatever is left of them at the end of a test.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.launching import launch

from enrollgate.common import processes
from enrollgate.common.backoff import Backoff
from enrollgate.domain.observation import LaunchOutcome, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.launchers.local.launcher import LocalLauncher
from enrollgate.launchers.local.run_directory import RunDirectory

_T = TypeVar("_T")
# Seconds; generous, since machines are slow at times.
TIMEOUT = 60.0
# What each worker script begins with.
PRELUDE = """
import json, os, pathlib, signal, subprocess, sys, time
notes = pathlib.Path(os.environ["NOTES"])
attempt = int(os.environ["ENROLLGATE_ATTEMPT"])
def report(reason, message="", **more):
    text = json.dumps({"reason": reason, "message": message, **more})
    pathlib.Path(os.environ["ENROLLGATE_REPORT_PATH"]).write_text(text)
def note(name, text=""):
    draft = notes / (name + ".draft")
    draft.write_text(str(text))
    draft.rename(notes / name)
"""


def wait_for(condition: Callable[[], _T | None]) -> _T:
    """Return the condition's first true value. The test fails if there is none in time."""
    deadline = time.monotonic() + TIMEOUT
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"the condition was not met within {TIMEOUT:g} s")
        time.sleep(0.01)
    return value


class LocalLauncherHarness:
    """One work directory, the launchers opened on it, and the notes that its workers write."""

    def __init__(self, folder: Path) -> None:
        self.work_dir = folder / "work"
        self.notes = folder / "notes"
        self.notes.mkdir(parents=True)
        # Set whenever a run has ended; the names of those that have.
        self.changed = threading.Event()
        self.ended = list[str]()
        self.now = time.time()
        self._launchers = list[LocalLauncher]()

    def launcher(self, script: str = "", **changes: Any) -> LocalLauncher:
        """Open a launcher whose worker is this Python script. `changes` replace its arguments."""
        arguments: dict[str, Any] = {
            "installation": "enrollgate",
            "worker_argv": [sys.executable, "-c", PRELUDE + script],
            "worker_env": {"NOTES": str(self.notes)},
            "max_attempts": 3,
            "run_timeout": 600.0,
            "stop_grace": 30.0,
            "backoff": Backoff(base=0, cap=0),
            "run_ttl": 3600.0,
            "on_change": self._note_end,
            "clock": lambda: self.now,
        }
        launcher = LocalLauncher(self.work_dir, **(arguments | changes))
        self._launchers.append(launcher)
        return launcher

    def _note_end(self, name: str) -> None:
        self.ended.append(name)
        self.changed.set()

    def run(self, name: str) -> RunDirectory:
        return RunDirectory(self.work_dir / "runs" / name)

    def note_names(self) -> set[str]:
        return {path.name for path in self.notes.iterdir() if path.suffix != ".draft"}

    def wait_for_pid(self, note: str) -> int:
        """Wait for this note of a worker, and return the pid in it."""
        wait_for(lambda: note in self.note_names())
        return int((self.notes / note).read_text())

    def supervisor_pid(self, name: str) -> int:
        pid, _ = wait_for(self.run(name).read_supervisor)
        return pid

    def clean(self) -> None:
        for launcher in self._launchers:
            launcher.close()
        for process in self._processes():
            processes.send_signal(process, signal.SIGKILL)
        wait_for(lambda: not self._processes())

    def _processes(self) -> list[processes.Process]:
        return [
            process
            for process in processes.iter_processes()
            if processes.mentions_path(process, self.work_dir)
        ]


def wait_until_finished(launcher: LocalLauncher, name: str) -> Observation:
    """Return the run's observation once it is no longer live."""

    def finished() -> Observation | None:
        observation = launcher.observe()[name]
        return None if observation.phase is Phase.LIVE else observation

    return wait_for(finished)


def build_order(task_id: int = 1, run_number: int = 1) -> RunOrder:
    return RunOrder(
        f"enrollgate-{task_id}-{run_number}",
        task_id,
        run_number,
        "https://courses.example/1",
        "cookies-1.txt",
    )


def start(launcher: LocalLauncher, task_id: int = 1) -> str:
    """Launch one run, and return its name."""
    order = build_order(task_id)
    assert launch(launcher, [order]) == {order.name: LaunchOutcome.LAUNCHED}
    return order.name


def is_gone(pid: int) -> bool:
    return processes.find(pid) is None
