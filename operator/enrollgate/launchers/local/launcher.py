"""The local launcher: one supervised child process per run, on one machine, with no cluster.

What exists is what the run directories say (`run_directory`), so nothing is remembered here and a restarted operator takes
up where the last one was; two operators on one work directory get in nobody's way. Each run has a detached `supervisor`
that does the trying, timing and killing. The launcher starts supervisors, reads their verdicts and passes on requests.

A run is live exactly while its lock is held. The launcher takes the lock itself and hands it to the supervisor open, so
there is no moment in which a run that is starting can be taken for one that is not there.

    launch      mkdir -> take the lock -> clear what a dead supervisor left -> write the spec -> start a supervisor
    observe     result: finished; else lock held: live; else: kill what the dead one left behind, and it is not there
    stop        leave a note, and signal the supervisor
    discard     move to finished/ without its scratch, where it is deleted after a while

What `observe` does not show has no living process: a new run_number may follow at once, and nothing is done twice.
"""

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog

from enrollgate.common.backoff import Backoff
from enrollgate.common.files import write_private
from enrollgate.domain.observation import LaunchOutcome, LaunchResult, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.planner import Launch
from enrollgate.domain.run import is_run_of
from enrollgate.domain.run_event import RunEvent
from enrollgate.launchers.base import LauncherRefused
from enrollgate.launchers.local.environment import child_environment
from enrollgate.launchers.local.processes import find, kill_orphans, send_signal
from enrollgate.launchers.local.run_directory import (
    RunDirectory,
    RunSpec,
    finished_folder,
    is_run_name,
    runs_folder,
)
from enrollgate.launchers.local.watcher import Watcher

_LOG = structlog.get_logger(__name__)
SWEEP_INTERVAL = 600.0
"""Seconds between two searches for what has outlived `run_ttl`."""
_RESERVE = "-" * 16384
_MACHINE_IS_FULL = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_REMEDIES = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "raise the disk quota of the operator's user, or free some space",
    errno.EROFS: "mount its disk writable",
    errno.EACCES: "let the operator's user own it and everything below it",
    errno.EPERM: "let the operator's user own it and everything below it",
    errno.EIO: "see what the kernel says of its disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (fs.file-max)",
    errno.ENOLCK: "put the work directory on a local disk, where files can be locked",
}


class LocalLauncher:
    """Runs as child processes below `work_dir`. Implements `Launcher`.

    `installation` says whose runs these are: others in the same folder are left alone. Times are in seconds. `worker_argv`
    is the worker's command, `worker_env` its settings; what differs from run to run it finds in ENROLLGATE_* variables (see
    `supervisor`). `max_attempts`, `run_timeout` (over all tries), `stop_grace` and `backoff` apply to runs launched from now
    on. `run_ttl` is how long a discarded run's log and report are kept. `on_change` is called from another thread soon after
    a run that this launcher has launched or observed has ended. `clock` gives the time of day as files carry it. Raises
    LauncherRefused if the directories cannot be made.
    """

    def __init__(
        self,
        work_dir: Path,
        *,
        installation: str,
        worker_argv: Sequence[str],
        worker_env: Mapping[str, str],
        max_attempts: int,
        run_timeout: float,
        stop_grace: float,
        backoff: Backoff,
        run_ttl: float,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        work_dir = work_dir.absolute()
        self._runs = runs_folder(work_dir)
        self._finished = finished_folder(work_dir)
        self._installation = installation
        self._worker_argv = tuple(worker_argv)
        self._environment = child_environment(os.environ, worker_env)
        self._max_tries = max_attempts
        self._run_timeout = run_timeout
        self._stop_grace = stop_grace
        self._backoff = backoff
        self._run_ttl = run_ttl
        self._clock = clock
        self._swept_at = float("-inf")
        with _available(work_dir):
            work_dir.mkdir(parents=True, exist_ok=True)
            for folder in (self._runs, self._finished):
                folder.mkdir(mode=0o700, exist_ok=True)
        self._on_change = on_change
        self._watcher = Watcher(on_change)

    def observe(
        self, expected: Collection[str] = (), *, only: bool = False
    ) -> Mapping[str, Observation]:
        """See `Launcher.observe`. Kills what outlived a dead supervisor: a run that is not shown is not running."""
        seen = dict[str, Observation]()
        with _available(self._runs):
            for run in self._ours(self._runs):
                if only and run.name not in expected:
                    continue
                with _available(run.path):
                    observation = self._look(run)
                if observation is not None:
                    seen[run.name] = observation
        return seen

    def launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        """See `Launcher.launch`. Raises ValueError at a name that is none of this installation's."""
        for launch in launches:
            order = launch.order
            run = self._directory(order.name)
            if not is_run_of(self._installation, order.name):
                raise ValueError(f"{order.name!r} is no name of a run of {self._installation}")
            with _available(run.path):
                try:
                    outcome = self._launch(run, order)
                except OSError as error:
                    if error.errno not in _MACHINE_IS_FULL:
                        raise
                    _LOG.warning(
                        "no process can be started just now", run=order.name, error=error.strerror
                    )
                    return
            if outcome is not None:
                yield launch, LaunchResult(outcome)

    def stop(self, name: str, uid: str | None = None) -> None:  # noqa: ARG002 -- processes have no UID
        """See `Launcher.stop`. Raises LauncherRefused if the run's directory cannot be read or written."""
        run = self._directory(name)
        with _available(run.path), contextlib.suppress(FileNotFoundError):
            if run.read_result() is not None:
                return
            run.stop.touch(
                mode=0o600
            )  # before the look at who supervises, who looks for it after having told
            pid, started = run.read_supervisor() or (0, "")
            process = find(pid)
            if process is not None and process.started == started:
                send_signal(process, signal.SIGTERM)
            elif not run.is_live():
                self._kill_leftovers(run)

    def record_event(
        self,
        name: str,
        uid: str | None,  # noqa: ARG002 -- processes have no UID
        event: RunEvent,
    ) -> None:
        """See `Launcher.record_event`: a line in the run's log."""
        with (
            contextlib.suppress(OSError),
            self._directory(name).log.open("a", encoding="utf-8") as log,
        ):
            log.write(f"enrollgate: {event.kind}: {event.message}\n")

    def discard(self, observations: Iterable[Observation]) -> None:
        """See `Launcher.discard`. A run that is live after all is left alone."""
        for observation in observations:
            run = self._directory(observation.name)
            with _available(run.path), contextlib.suppress(FileNotFoundError):
                self._discard(run)
        now = self._clock()
        if now - self._swept_at >= SWEEP_INTERVAL:
            self._swept_at = now
            with _available(self._finished):
                self._sweep(now - self._run_ttl)

    def close(self) -> None:
        """Ends the watching thread. Live runs go on without us."""
        self._watcher.close()

    def _directory(self, name: str) -> RunDirectory:
        if not is_run_name(name):
            raise ValueError(f"a run's name is 1 to 63 of a-z, 0-9 and '-', not {name!r}")
        return RunDirectory(self._runs / name)

    def _ours(self, folder: Path) -> Iterator[RunDirectory]:
        """The runs of this installation. Another one may share the folder, with a database of its own."""
        return (run for run in _directories(folder) if is_run_of(self._installation, run.name))

    # seeing

    def _look(self, run: RunDirectory) -> Observation | None:
        result = run.read_result()
        if result is None:
            if run.is_live():
                self._watch(run)
                return Observation(run.name, Phase.LIVE)
            with contextlib.suppress(FileNotFoundError):  # discarded by another operator
                if not self._kill_leftovers(run):
                    return Observation(run.name, Phase.LIVE)
            result = run.read_result()  # it may have ended after the first look
        if result is None:
            return None
        return Observation(
            run.name, Phase.SUCCEEDED if result.succeeded else Phase.FAILED, result.report
        )

    def _watch(self, run: RunDirectory) -> None:
        supervisor = run.read_supervisor()
        if supervisor is not None and not self._watcher.watches(*supervisor):
            self._watcher.watch(*supervisor)

    def _kill_leftovers(self, run: RunDirectory) -> bool:
        """Kills what a dead supervisor left alive, once. False if the run lives on, or has come to life again."""
        if not run.supervisor.exists():
            return True
        lock = run.acquire()
        if lock is None:
            return False
        try:
            return run.read_result() is not None or _kill_orphans(run)
        finally:
            os.close(lock)

    # starting

    def _launch(self, run: RunDirectory, order: RunOrder) -> LaunchOutcome | None:
        while True:
            with contextlib.suppress(FileExistsError):
                run.path.mkdir(mode=0o700)
            try:
                if not stat.S_ISDIR(run.path.lstat().st_mode):
                    return LaunchOutcome.NAME_TAKEN
                lock = run.acquire()
            except FileNotFoundError:  # discarded by another operator between two steps
                continue
            if lock is None:
                return LaunchOutcome.ADOPTED
            try:
                return self._launch_locked(run, order, lock)
            finally:
                os.close(lock)

    def _launch_locked(self, run: RunDirectory, order: RunOrder, lock: int) -> LaunchOutcome | None:
        if run.read_result() is not None:
            return LaunchOutcome.ADOPTED
        if not _kill_orphans(run):
            return None
        for leftover in (
            run.stop,
            run.report,
            run.progress,
            run.result,
        ):  # a result here is a damaged one
            _remove(leftover)
        spec = RunSpec(
            order,
            self._worker_argv,
            self._max_tries,
            self._run_timeout,
            self._stop_grace,
            self._backoff,
        )
        write_private(run.ballast, _RESERVE)
        write_private(run.spec, spec.encode())
        if not self._watcher.watch(self._start_supervisor(run, lock)):
            self._on_change()  # it has ended already
        return LaunchOutcome.LAUNCHED

    def _start_supervisor(self, run: RunDirectory, lock: int) -> int:
        """The pid of the new supervisor, which holds the lock from now on."""
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            started = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "enrollgate.launchers.local.supervisor",
                    str(run.path),
                ],
                env=self._environment,
                cwd=run.path,
                stdin=lock,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)
        started.returncode = (
            0  # it is not Popen that waits for it: the watcher does, or whoever comes after us
        )
        return started.pid

    # clearing away

    def _discard(self, run: RunDirectory) -> None:
        if run.read_result() is not None:  # the supervisor's last word: it does nothing more here
            self._retire(run)
            return
        if not run.path.is_dir():
            return
        lock = run.acquire()
        if lock is None:
            return
        try:
            if _kill_orphans(run):
                self._retire(run)
        finally:
            os.close(lock)

    def _retire(self, run: RunDirectory) -> None:
        target = self._finished / run.name
        try:
            run.path.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(
                target
            )  # an earlier run of that name, before the database was started afresh
            run.path.rename(target)
        shutil.rmtree(target / "scratch", ignore_errors=True)

    def _sweep(self, before: float) -> None:
        """Deletes what was discarded before that time of day, and discards what died then and was asked for by nobody."""
        for retired in self._ours(self._finished):
            if _modified(retired.path) < before:
                shutil.rmtree(retired.path, ignore_errors=True)
            elif retired.scratch.exists():
                shutil.rmtree(retired.scratch, ignore_errors=True)
        for run in self._ours(self._runs):
            if _modified(run.path) < before and run.read_result() is None:
                with contextlib.suppress(FileNotFoundError):
                    self._discard(run)


def _kill_orphans(run: RunDirectory) -> bool:
    """Ends what a dead supervisor left alive; the lock must be held. False if some of it cannot be killed just now."""
    supervisor = run.read_supervisor()
    if supervisor is not None and not kill_orphans(*supervisor, run.path):
        _LOG.warning(
            "a run that should be over still has processes, which outlive SIGKILL or hold no lock",
            run=run.name,
        )
        return False
    _remove(run.supervisor)
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _directories(folder: Path) -> Iterator[RunDirectory]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_run_name(entry.name) and entry.is_dir(follow_symlinks=False):
                yield RunDirectory(Path(entry.path))


def _modified(path: Path) -> float:
    """When something was last put into or taken out of the directory; never, if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


@contextlib.contextmanager
def _available(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        remedy = _REMEDIES.get(
            error.errno or 0, "see that ENROLLGATE_WORK_DIR is a sound directory of a local disk"
        )
        raise LauncherRefused(f"{where}: {error.strerror or error}; {remedy}") from error
