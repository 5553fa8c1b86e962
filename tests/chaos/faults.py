"""The faults of the chaos suite: each hits one thing at random, and ends by itself or at the end.

`Machine` is what they are done to: the operators, which something like systemd starts again, their
supervisors and workers, the database server, the disk, the site and the Drive.
"""

import errno
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil
from tests.chaos.course_site import WatchfulSite, find_clients
from tests.databases.pair import ReplicatedPair
from tests.drive_emulator import DriveEmulator, Fault
from tests.drive_emulator.faults import RANDOM
from tests.e2e.operator_process import OperatorProcess

# Steps that a frozen process stays frozen, at most.
_LONGEST_FREEZE = 12
# Steps between two starts of an operator's processes.
_RESTART_PAUSE = 4
_FILLER = "filler"
# The share of the Drive's answers that fail while it is disturbed.
_DISTURBANCE = 0.4
# What happens to the chunks of an upload that the Drive has lost.
_LOST = (Fault("dropped"), Fault("corrupt"))
# What happens to the next chunks when it is disturbed.
_KEPT_IN_PART = (Fault("partial"), Fault("nothing_kept"))
# The Drive's faults, as `Faults.happened` names them after the operation.
DRIVE_FAULTS = tuple(
    f"status {each.status}" if each.kind == "status" else each.kind for each in (*RANDOM, *_LOST)
)
# What is counted beside the faults themselves.
DETAILS = (
    "supervisor killed",
    "worker killed",
    "supervisor frozen",
    "worker frozen",
    "worker killed at the end of an upload",
    "unfinished upload expired",
)
# What no worker writes.
_NONSENSE = (
    b"",
    b"\xff\xfe\x00",
    b'{"reason": null, "message": 5}',
    b'{"reason": "SiteError", "message": "x", "items_failed": "many", "items_delivered": 1e999}',
    b'{"reason": "SiteError", "message": "x", "bytes_delivered": ' + b"9" * 3950 + b"}",
    b"[" * 4096,
    b'{"reason": "\\ud800", "message": "\\u0000"}',
    b'{"reason": "SiteError", "message": "' + b"x" * 2**20 + b'"}',
)


def find_runs(folder: Path) -> list[psutil.Process]:
    """Return the supervisors and workers below this folder, and whatever they started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            scratch = process.environ().get("ENROLLGATE_SCRATCH_DIR", "")
            if scratch.startswith(str(folder)) or _is_supervisor(process, folder):
                found.append(process)
    return found


def _is_supervisor(process: psutil.Process, folder: Path) -> bool:
    """Return whether its last argument is a run's directory below this folder."""
    directory = Path(["", *process.cmdline()][-1])
    return directory.parent.name == "runs" and directory.is_relative_to(folder)


def kill_runs(folder: Path) -> None:
    """Kill the runs below this folder, and wait until they are gone.

    A supervisor may start a worker meanwhile, so they are looked for again.
    """
    while runs := find_runs(folder):
        for process in runs:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(runs, timeout=60)


class Machine:
    """Operators that are started again whenever they end, and all that runs beside them."""

    def __init__(
        self,
        operators: Sequence[OperatorProcess],
        databases: ReplicatedPair,
        site: WatchfulSite,
        disk: Path,
        drive: DriveEmulator,
    ) -> None:
        self.operators = operators
        # Those that are started again.
        self.working = operators
        self.databases = databases
        self.site = site
        self.disk = disk
        self.drive = drive
        # The step from which something like systemd may start each operator again.
        self._start_at = Counter[OperatorProcess]()
        # The step at which the disk has room again.
        self._full_until = 0
        # The step at which the Drive works again.
        self._disturbed_until = 0
        # How often each fault has happened.
        self.done = Counter[str]()
        # What is frozen, and the step at which it continues.
        self._frozen: list[tuple[int, psutil.Process]] = []
        self._step = 0

    def step(self) -> None:
        """Start operators that have ended, and continue processes that were frozen long enough."""
        self._step += 1
        for until, process in [*self._frozen]:
            if self._step >= until:
                self._thaw(until, process)
        if self._step >= self._full_until:
            (self.disk / _FILLER).unlink(missing_ok=True)
        if self._step >= self._disturbed_until:
            self.drive.faults.share = 0.0
        for operator in self.working:
            is_alive = any(process.poll() is None for process in operator.processes)
            if not is_alive and self._step >= self._start_at[operator]:
                operator.start()
                self._start_at[operator] = self._step + _RESTART_PAUSE

    def is_frozen(self, pid: int) -> bool:
        """Return whether this process is frozen now."""
        return any(process.pid == pid for _, process in self._frozen)

    def calm(self) -> None:
        """End all faults."""
        for until, process in [*self._frozen]:
            self._thaw(until, process)
        self.site.refuse_next = self._full_until = self._disturbed_until = 0
        self.drive.before_final_response = lambda: None

    def _thaw(self, until: int, process: psutil.Process) -> None:
        self._frozen.remove((until, process))
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)

    def runs(self) -> list[psutil.Process]:
        """Return the supervisors and workers, and whatever they started."""
        return find_runs(self.disk)

    def _kind(self, process: psutil.Process) -> str:
        return "supervisor" if _is_supervisor(process, self.disk) else "worker"

    def leave_alone(self, operator: OperatorProcess) -> None:
        """Stop all operators, and start only this one again."""
        self.stop()
        self.working = [operator]

    def stop(self) -> None:
        """Stop the operators. Their runs continue."""
        for operator in self.operators:
            operator.stop_all()

    def kill_all(self) -> None:
        """Leave no process behind, whatever has failed."""
        self.calm()
        self.stop()
        kill_runs(self.disk)

    def leftovers(self) -> list[Path]:
        """Return what must not be there once all runs have ended."""
        return [*self.disk.glob("*/runs/*"), *self.disk.glob("*/finished/*/scratch")]

    @property
    def faults(self) -> list[Callable[[Random], str]]:
        """Return the faults. Processes of runs die twice as often as others."""
        return [
            self.kill_an_operator,
            self.freeze_an_operator,
            self.kill_a_process_of_a_run,
            self.kill_a_process_of_a_run,
            self.freeze_a_process_of_a_run,
            self.refuse_requests,
            self.kill_the_database,
            self.freeze_the_database,
            self.switch_to_the_replica,
            self.fill_the_disk,
            self.spoil_the_report_of_a_run,
            self.disturb_the_drive,
            self.lose_uploads,
            self.kill_at_the_end_of_an_upload,
        ]

    def kill_an_operator(self, random: Random) -> str:
        process = random.choice(self._alive())
        process.kill()
        process.wait()
        return f"{process.pid}"

    def freeze_an_operator(self, random: Random) -> str:
        return self._freeze(random.choice(self._alive()).pid, random)

    def _alive(self) -> list[subprocess.Popen[bytes]]:
        processes = (process for operator in self.operators for process in operator.processes)
        return [process for process in processes if process.poll() is None]

    def kill_a_process_of_a_run(self, random: Random) -> str:
        process = random.choice(self.runs())
        kind = self._kind(process)
        process.kill()
        self.done[f"{kind} killed"] += 1
        return f"{kind} {process.pid}"

    def freeze_a_process_of_a_run(self, random: Random) -> str:
        process = random.choice(self.runs())
        kind, what = self._kind(process), self._freeze(process.pid, random)
        self.done[f"{kind} frozen"] += 1
        return f"{kind} {what}"

    def _freeze(self, pid: int, random: Random) -> str:
        process, steps = psutil.Process(pid), random.randint(1, _LONGEST_FREEZE)
        process.send_signal(signal.SIGSTOP)
        self._frozen.append((self._step + steps, process))
        return f"{pid} for {steps} steps"

    def kill_the_database(self, random: Random) -> str:
        self.databases.primary.kill()
        self.databases.primary.start()
        return "it was started again"

    def switch_to_the_replica(self, random: Random) -> str:
        if self.is_frozen(self.database_pid):
            raise IndexError
        self.databases.switch()
        return f"it is the primary now, at port {self.databases.primary.port}"

    def freeze_the_database(self, random: Random) -> str:
        return self._freeze(self.database_pid, random)

    @property
    def database_pid(self) -> int:
        assert self.databases.primary.process is not None
        return self.databases.primary.process.pid

    def fill_the_disk(self, random: Random) -> str:
        steps = random.randint(1, _LONGEST_FREEZE)
        self._full_until = self._step + steps
        try:
            with (self.disk / _FILLER).open("ab") as filler:
                while True:
                    filler.write(bytes(4096))
                    filler.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        return f"for {steps} steps"

    def spoil_the_report_of_a_run(self, random: Random) -> str:
        """Write nonsense where a worker tells how far it is and how it ended, and kill it."""
        worker = random.choice([each for each in self.runs() if self._kind(each) == "worker"])
        report = Path(worker.environ()["ENROLLGATE_REPORT_PATH"])
        nonsense = random.choice(_NONSENSE)
        for path in (report, report.with_name("progress.json")):
            path.write_bytes(nonsense)
        worker.kill()
        return f"{report.parent.name}: {nonsense[:40]!r}"

    def refuse_requests(self, random: Random) -> str:
        self.site.refuse_next = random.randint(1, 6)
        return f"the next {self.site.refuse_next} requests"

    def disturb_the_drive(self, random: Random) -> str:
        """Let it answer 429, 403 and 5xx, break uploads off, and lose answers."""
        steps = random.randint(1, 3 * _LONGEST_FREEZE)
        self._disturbed_until = self._step + steps
        self.drive.faults.share = _DISTURBANCE
        self.drive.faults.script("chunk", *_KEPT_IN_PART)
        return f"for {steps} steps"

    def lose_uploads(self, random: Random) -> str:
        """Let the Drive forget unfinished uploads, drop one, and spoil one."""
        uploads = [each for each in self.drive.store.uploads.values() if each.file is None]
        for upload in uploads:
            upload.expired = True
        self.done["unfinished upload expired"] += len(uploads)
        self.drive.faults.script("chunk", *_LOST)
        return f"{len(uploads)} unfinished uploads"

    def kill_at_the_end_of_an_upload(self, random: Random) -> str:
        """Kill the workers at the Drive when it has the next file and has not said so."""

        def kill() -> None:
            self.drive.before_final_response = lambda: None
            for worker in self._uploaders():
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
                    self.done["worker killed at the end of an upload"] += 1

        self.drive.before_final_response = kill
        return "the next one"

    def _uploaders(self) -> list[psutil.Process]:
        """Return the workers that have a connection to the Drive."""
        clients = set(find_clients(self.drive.port).values())
        return [process for process in self.runs() if process.pid in clients]

    def hit(self, fault: Callable[[Random], str], random: Random) -> str | None:
        """Let a fault happen. Returns what it hit, None if there is nothing to hit."""
        try:
            what = fault(random)
        except (IndexError, OSError, psutil.NoSuchProcess):
            return None
        self.done[fault.__name__] += 1
        return what
