"""The local launcher: one supervised process per run, on one machine, without a cluster.

In come the reconciler's launches, stops and discards. Out come observations, read from the run
directories (`run_directory`).

Nothing is remembered here: a restarted operator continues where the last one was, and two
operators can share one work directory. Each run has a detached `supervisor`, which makes the
attempts, keeps the deadline and kills. The launcher starts supervisors, reads their results and
passes requests on to them.

A run is live exactly while its lock is held. The launcher takes the lock itself and the
supervisor inherits it, so a run that is starting is never taken for one that does not exist.

    launch    mkdir, take the lock, kill and delete leftovers, write the spec, start a supervisor;
              a run of another claim of this name is ended or discarded first
    observe   a result: finished; else a held lock: live; else: kill leftovers, it does not exist
    stop      create the stop file, then signal the supervisor
    discard   move to finished/ without its scratch; it is deleted there after `run_ttl`

A run that `observe` does not return has no living process. So the next run of its task may start
at once, and nothing is done twice.
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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from enrollgate.common.backoff import Backoff
from enrollgate.common.files import write_private
from enrollgate.common.processes import (
    find,
    is_supported,
    iter_processes,
    kill_orphans,
    mentions_path,
    send_signal,
)
from enrollgate.common.redaction import redact
from enrollgate.domain.observation import LaunchOutcome, LaunchResult, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.planner import Launch
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.domain.run import is_run_of
from enrollgate.domain.run_event import HoldEvent, RunEvent
from enrollgate.launchers.base import LauncherRefused
from enrollgate.launchers.local import detach
from enrollgate.launchers.local.environment import child_environment
from enrollgate.launchers.local.place import create_place, network_file_system
from enrollgate.launchers.local.run_directory import (
    RunDirectory,
    RunSpec,
    finished_folder,
    is_run_name,
    read_progress,
    remove,
    runs_folder,
)
from enrollgate.launchers.local.watcher import Watcher

_LOG = structlog.get_logger(__name__)
# Seconds between two searches for what is older than `run_ttl`.
SWEEP_INTERVAL = 600.0
_BALLAST = "-" * 16384
_DETACH = str(Path(detach.__file__))
# These errors pass when other processes end: the launch is tried again in the next pass.
_MACHINE_IS_FULL = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
# These errors are about the run's own directory, if the folder around it can be used.
_ABOUT_ONE_PATH = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EIO,
        errno.ETXTBSY,
        errno.EBUSY,
    }
)
_REMEDIES = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "raise the disk quota of the operator's user, or free some space",
    errno.EROFS: "mount its disk writable",
    errno.EACCES: "make the operator's user the owner of it and of everything in it",
    errno.EPERM: "make the operator's user the owner of it and of everything in it",
    errno.EIO: "look in the kernel's log for errors of its disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (fs.file-max)",
    errno.EOPNOTSUPP: "put the work directory on a local disk, where files can be locked",
    errno.ENOSYS: "put the work directory on a local disk, where files can be locked",
    errno.ENOLCK: "put the work directory on a local disk, where files can be locked",
}
_DEFAULT_REMEDY = "check that ENROLLGATE_WORK_DIR is a directory on a local disk"


class LocalLauncher:
    """Runs as child processes below `work_dir`. Implements `Launcher`.

    Parameters (times in seconds):
        installation: whose runs these are. Runs of others in the same folder are left alone.
        worker_argv: the worker's command.
        worker_env: the worker's settings. The supervisor adds what differs from run to run.
        max_attempts, run_timeout, stop_grace, backoff: apply to runs launched from now on.
            `run_timeout` covers all attempts together.
        memory_limit: bytes that a worker and its processes may take together; 0: no limit.
        run_ttl: how long the log and the report of a discarded run are kept.
        on_change: called with a run's name soon after it has ended, if it was launched or observed
            here; from another thread.
        clock: the time of day, as files have it.

    Raises LauncherRefused if this is not Linux, or if the directories cannot be made.
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
        memory_limit: int = 0,
        on_change: Callable[[str], None] = lambda _name: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not is_supported():
            raise LauncherRefused(
                "local runs need the /proc of Linux, and this system has none; "
                "run the operator on Linux, or in a Linux container or virtual machine"
            )
        work_dir = work_dir.absolute()
        self._runs = runs_folder(work_dir)
        self._finished = finished_folder(work_dir)
        self._installation = installation
        self._worker_argv = tuple(worker_argv)
        self._environment = child_environment(os.environ, worker_env)
        self._max_attempts = max_attempts
        self._run_timeout = run_timeout
        self._stop_grace = stop_grace
        self._backoff = backoff
        self._memory_limit = memory_limit
        self._run_ttl = run_ttl
        self._clock = clock
        self._swept_at = float("-inf")
        # The runs whose directories cannot be moved away, as they were logged.
        self._kept = set[str]()
        with _available(work_dir):
            work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.place = create_place(work_dir)
            if kind := network_file_system(work_dir):
                _LOG.warning(
                    "the work directory is on a network file system, whose locks may not show "
                    "whether a run is live: set ENROLLGATE_WORK_DIR to a local disk",
                    work_dir=str(work_dir),
                    file_system=kind,
                )
            for folder in (self._runs, self._finished):
                folder.mkdir(mode=0o700, exist_ok=True)
        self._on_change = on_change
        self._watcher = Watcher(on_change)

    def observe(
        self, expected: Collection[str] = (), *, only: bool = False
    ) -> Mapping[str, Observation]:
        """See `Launcher.observe`. Kills what outlived a dead supervisor."""
        observations = dict[str, Observation]()
        with _available(self._runs):
            for run in self._list_runs(self._runs):
                if only and run.name not in expected:
                    continue
                try:
                    observation = self._observe_run(run)
                except OSError:
                    run.restore_modes()
                    try:
                        with _available(run.path):
                            observation = self._observe_run(run)
                    except LauncherRefused as error:
                        if not self._is_about_one(error):
                            raise
                        observation = self._observe_unusable(run, str(error))
                if observation is not None:
                    observations[run.name] = observation
            for name in set(expected) - observations.keys():
                run = self._directory(name)
                if os.path.lexists(run.path) and (run.path.is_symlink() or not run.path.is_dir()):
                    problem = f"{run.path} is no directory any more"
                    observations[name] = self._observe_unusable(run, problem)
        return observations

    def launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        """See `Launcher.launch`. Raises ValueError for a name of another installation."""
        for launch in launches:
            order = launch.order
            run = self._directory(order.name)
            if not is_run_of(self._installation, order.name):
                raise ValueError(
                    f"{order.name!r} is not a run of installation {self._installation}"
                )
            try:
                with _available(run.path):
                    outcome = self._launch(run, order)
            except LauncherRefused as error:
                if (
                    isinstance(error.__cause__, OSError)
                    and error.__cause__.errno in _MACHINE_IS_FULL
                ):
                    _LOG.warning(
                        "no process can be started now; the next pass tries again",
                        run=order.name,
                        error=str(error),
                    )
                    return
                if not self._is_about_one(error):
                    raise
                yield launch, LaunchResult(LaunchOutcome.REFUSED, refusal=str(error))
                continue
            if outcome is not None:
                yield launch, LaunchResult(outcome, launched_at=_launched_at(run))

    def stop(
        self,
        name: str,
        uid: str | None = None,  # noqa: ARG002 -- a local run has no UID
        *,
        keep_name: bool = False,  # noqa: ARG002 -- its lock keeps it
    ) -> None:
        """See `Launcher.stop`. Raises LauncherRefused if the run's files cannot be used."""
        run = self._directory(name)
        with _available(run.path), contextlib.suppress(FileNotFoundError):
            if run.read_result() is not None:
                return
            # First the file, then the signal: a supervisor that starts now looks for the file
            # after it has written down who it is.
            run.stop.touch(mode=0o600)
            pid, started = run.read_supervisor() or (0, "")
            process = find(pid)
            if process is not None and process.started == started:
                send_signal(process, signal.SIGTERM)
            elif not run.is_live():
                self._kill_leftovers(run)

    def read_progress(
        self,
        names: Sequence[str],
        wait_for_turn: Callable[[], bool],  # noqa: ARG002 -- no server is asked
    ) -> Iterator[tuple[str, RunProgress]]:
        """See `Launcher.read_progress`: the files that the workers write."""
        for name in names:
            with contextlib.suppress(OSError):
                if (progress := read_progress(self._runs.parent, name)) is not None:
                    yield name, progress

    def record_event(
        self,
        name: str,
        uid: str | None,  # noqa: ARG002 -- a local run has no UID
        event: RunEvent,
    ) -> None:
        """See `Launcher.record_event`: adds a line to the run's log."""
        line = f"enrollgate: {event.kind}: {redact(event.message)}\n"
        # A pipe has perhaps no reader.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.suppress(OSError):
            descriptor = os.open(self._directory(name).log, flags, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as log:
                log.write(line)

    def record_hold(self, event: HoldEvent) -> None:
        """See `Launcher.record_hold`: the operator's log has said so already."""

    def discard(self, observations: Iterable[Observation]) -> None:
        """See `Launcher.discard`."""
        for observation in observations:
            run = self._directory(observation.name)
            try:
                self._discard(run)
            except LauncherRefused as error:
                if not self._is_about_one(error):
                    raise
                if run.name not in self._kept:
                    self._kept.add(run.name)
                    _LOG.warning("a run's directory is left", run=run.name, error=str(error))
        now = self._clock()
        if now - self._swept_at >= SWEEP_INTERVAL:
            self._swept_at = now
            with _available(self._finished):
                self._sweep(now - self._run_ttl)

    def close(self) -> None:
        """End the watching thread. Live runs continue."""
        self._watcher.close()

    def count_live(self) -> int:
        """Return how many runs are live. Raises LauncherRefused."""
        live = 0
        with _available(self._runs):
            for run in self._list_runs(self._runs):
                try:
                    live += run.is_live()
                except OSError as error:
                    live += self._observe_unusable(run, str(error)).is_live
        return live

    def _is_about_one(self, error: LauncherRefused) -> bool:
        """Return whether the error is about one run's directory, and the others can be used."""
        number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
        can_use = self._runs.is_dir() and os.access(self._runs, os.R_OK | os.W_OK | os.X_OK)
        return can_use and number in _ABOUT_ONE_PATH

    def _directory(self, name: str) -> RunDirectory:
        if not is_run_name(name):
            raise ValueError(f"a run's name is 1 to 63 of a-z, 0-9 and '-', not {name!r}")
        return RunDirectory(self._runs / name)

    def _list_runs(self, folder: Path) -> Iterator[RunDirectory]:
        """Yield the runs of this installation: another one may share the folder."""
        with os.scandir(folder) as entries:
            for entry in entries:
                is_ours = is_run_name(entry.name) and is_run_of(self._installation, entry.name)
                if is_ours and entry.is_dir(follow_symlinks=False):
                    yield RunDirectory(Path(entry.path))

    def _observe_run(self, run: RunDirectory) -> Observation | None:
        live = Observation(
            run.name, Phase.LIVE, claim_id=run.read_claim_id(), launched_at=_launched_at(run)
        )
        result = run.read_result()
        if result is None:
            if run.is_live():
                supervisor = run.read_supervisor()
                if supervisor is not None and not self._watcher.watches(*supervisor):
                    self._watcher.watch(run.name, *supervisor)
                return live
            with contextlib.suppress(FileNotFoundError):  # another operator has discarded it
                if not self._kill_leftovers(run):
                    return live
            # It may have ended after the first look.
            result = run.read_result() or run.damaged_result()
        if result is None:
            return None
        phase = Phase.SUCCEEDED if result.succeeded else Phase.FAILED
        return replace(
            live,
            phase=phase,
            report=result.report,
            started_at=result.started_at,
            finished_at=result.finished_at,
        )

    def _observe_unusable(self, run: RunDirectory, problem: str) -> Observation:
        """Observe a run whose directory cannot be used: live as long as a process names it.

        A second run must not start beside one that is still there.
        """
        if any(mentions_path(process, run.path) for process in iter_processes()):
            _LOG.warning("a run counts as live: processes use it", run=run.name, error=problem)
            return Observation(run.name, Phase.LIVE)
        message = f"the run has no process any more, and its result cannot be read: {problem}"
        return Observation(run.name, Phase.FAILED, report=Report(Reason.WORKER_CRASHED, message))

    def _kill_leftovers(self, run: RunDirectory) -> bool:
        """Kill what outlived a dead supervisor. Returns False if the run is live after all."""
        if not run.supervisor.exists():
            return True
        lock = run.acquire()
        if lock is None:
            return False
        try:
            return run.read_result() is not None or _kill_orphans(run)
        finally:
            os.close(lock)

    def _launch(self, run: RunDirectory, order: RunOrder) -> LaunchOutcome | None:
        """Launch or adopt one run.

        Returns None if its processes cannot be killed now, or if a run of another claim is live.
        """
        while True:
            with contextlib.suppress(FileExistsError):
                run.path.mkdir(mode=0o700)
            try:
                if not stat.S_ISDIR(run.path.lstat().st_mode):
                    return LaunchOutcome.NAME_TAKEN
                lock = run.acquire()
            except FileNotFoundError:  # another operator discarded it between two steps
                continue
            if lock is None:
                claim_id = run.read_claim_id()
                if claim_id == order.claim_id:
                    return LaunchOutcome.ADOPTED
                if claim_id is not None:  # else another operator launches it at this moment
                    self.stop(run.name)
                return None
            try:
                if run.read_result() is not None:
                    if run.read_claim_id() in (None, order.claim_id):
                        return LaunchOutcome.ADOPTED
                    self._move_to_finished(run)
                    continue
                if not _kill_orphans(run):
                    return None
                self._start(run, order, lock)
                return LaunchOutcome.LAUNCHED
            finally:
                os.close(lock)

    def _start(self, run: RunDirectory, order: RunOrder, lock: int) -> None:
        """Prepare the directory and start a supervisor, which inherits the lock."""
        # A result that is there now is a damaged one.
        leftovers = [run.spec, run.stop, run.report, run.progress, run.result, run.ballast]
        if not stat.S_ISREG(_mode(run.log)):
            leftovers.append(run.log)
        if not stat.S_ISDIR(_mode(run.scratch)):
            leftovers.append(run.scratch)
        for leftover in leftovers:
            remove(leftover)
        spec = RunSpec(
            order,
            self._worker_argv,
            self._max_attempts,
            self._run_timeout,
            self._stop_grace,
            self._backoff,
            self._memory_limit,
        )
        write_private(run.ballast, _BALLAST)
        write_private(run.spec, spec.encode())
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            started = subprocess.run(
                [sys.executable, "-P", "-S", _DETACH, str(run.path)],
                env=self._environment,
                cwd=run.path,
                stdin=lock,
                stdout=subprocess.PIPE,
                stderr=log,
                check=False,
            )
        finally:
            os.close(log)
        if started.returncode == detach.EXIT_MACHINE_IS_FULL:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(run.path))
        if not started.stdout or not self._watcher.watch(run.name, int(started.stdout)):
            self._on_change(run.name)  # it was not started, or has ended already

    def _discard(self, run: RunDirectory) -> None:
        """Move a run that is not live to finished/."""
        with _available(run.path), contextlib.suppress(FileNotFoundError):
            if run.read_result() is not None:  # the last thing that its supervisor does
                self._move_to_finished(run)
                return
            lock = run.acquire() if run.path.is_dir() else None
            if lock is None:
                return
            try:
                if _kill_orphans(run):
                    self._move_to_finished(run)
            finally:
                os.close(lock)

    def _move_to_finished(self, run: RunDirectory) -> None:
        target = self._finished / run.name
        try:
            run.path.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # A run of that name from an earlier database.
            shutil.rmtree(target)
            run.path.rename(target)
        shutil.rmtree(target / "scratch", ignore_errors=True)

    def _sweep(self, before: float) -> None:
        """Delete what was discarded before this time of day.

        Runs that died before then without a result, and that nobody asked for, are discarded.
        """
        for finished in self._list_runs(self._finished):
            is_old = _modified_at(finished.path) < before
            shutil.rmtree(finished.path if is_old else finished.scratch, ignore_errors=True)
        for run in self._list_runs(self._runs):
            with contextlib.suppress(OSError, LauncherRefused):  # `observe` names it
                if _modified_at(run.path) < before and run.read_result() is None:
                    self._discard(run)


def _kill_orphans(run: RunDirectory) -> bool:
    """Kill what outlived a dead supervisor, while the lock is held. Returns False if some still
    live.
    """
    supervisor = run.read_supervisor()
    if supervisor is not None and not kill_orphans(*supervisor, run.path):
        _LOG.warning(
            "a run that should have ended still has processes: they survive SIGKILL, "
            "or its lock file was deleted",
            run=run.name,
        )
        return False
    remove(run.supervisor)
    return True


def _launched_at(run: RunDirectory) -> datetime | None:
    """Return when the run's spec was written; None if there is none."""
    try:
        return datetime.fromtimestamp(run.spec.stat().st_mtime, UTC)
    except OSError:
        return None


def _mode(path: Path) -> int:
    """Return the kind and mode of what is there; 0 if there is nothing."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _modified_at(path: Path) -> float:
    """Return when an entry of the directory was last added or removed; infinity if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


@contextlib.contextmanager
def _available(path: Path) -> Iterator[None]:
    """Turn an OSError into LauncherRefused, with the path and a remedy."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        remedy = _REMEDIES.get(error.errno or 0, _DEFAULT_REMEDY)
        raise LauncherRefused(f"{where}: {error.strerror or error}; {remedy}") from error
