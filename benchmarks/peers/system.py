"""What the harness knows about a system that turns rows into Jobs."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.world import REPOSITORY, ClusterWorld
from tests.databases.server import die_with_parent


class PeerAbsent(Exception):
    """A peer cannot be built or installed here. The message is the exact error."""


@dataclass
class Running:
    """The processes of a system. `launcher` is the one that creates Jobs; `relaunch` replaces it
    after it was killed.
    """

    relaunch: Callable[[], subprocess.Popen[bytes]]
    others: tuple[subprocess.Popen[bytes], ...] = ()
    # Stopped with the system, and not counted as its own: a database server.
    uncounted: tuple[subprocess.Popen[bytes], ...] = ()

    def __post_init__(self) -> None:
        self.launcher = self.relaunch()

    @property
    def pids(self) -> list[int]:
        """Ids of the processes whose CPU and memory count."""
        return [process.pid for process in (self.launcher, *self.others)]

    def kill_launcher(self) -> None:
        """Send SIGKILL to the process that creates Jobs, and start it again at once."""
        self.launcher.kill()
        self.launcher.wait()
        self.launcher = self.relaunch()

    def stop(self) -> None:
        """Stop all processes. One that does not end within 20 s is killed."""
        for process in (self.launcher, *self.others, *self.uncounted):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class System:
    """One system in one configuration.

    `start` gets the namespace with its database, and how many Jobs may exist at the same time.
    """

    name: str
    version: str
    settings: str
    # What cannot be compared with the other systems, in one sentence.
    not_comparable: str
    start: Callable[[ClusterWorld, int], Running]
    # The task of a Job, from its name; None if a Job is not tied to a row.
    task_of: Callable[[str], int | None]
    writes_back: bool = True
    # Whether a ratio is computed against this system: then it is measured several times.
    is_compared: bool = False
    # What a row waits for at most, beside the work itself, in seconds.
    interval: float = 1.0


def spawn(
    world: ClusterWorld, command: Sequence[object], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to a file next to the operator's log.

    It dies with the benchmark, however that ends.
    """
    arguments = [str(each) for each in command]
    with (world.folder / f"{Path(arguments[0]).name}.log").open("ab") as log:
        return subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=REPOSITORY,  # where the modules of this package are found
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- it calls nothing but prctl
        )


def run_module(name: str, *arguments: str, environment: dict[str, str]) -> str:
    """Run a module of this package to its end. Returns what it prints."""
    command = [sys.executable, "-m", f"benchmarks.peers.{name}", *arguments]
    done = subprocess.run(
        command,
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    return done.stdout
