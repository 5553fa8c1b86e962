"""A local run on disk: one directory with everything about it. The launcher and the supervisor
meet only here.

    spec.json       what to run, how often and how long       (launcher, before the supervisor)
    lock            held exclusively while the run is live    (launcher, then supervisor)
    supervisor.json the supervisor's pid and start time       (supervisor)
    stop            exists once the run is asked to end       (launcher)
    log             standard output and error, all attempts   (worker, supervisor)
    report.json     the report of the last attempt            (worker)
    progress.json   how far the current attempt is            (worker)
    ballast         disk space that is freed for the result   (launcher; deleted by the supervisor)
    scratch/        partial files, kept between attempts      (worker)
    result.json     the result, written last                  (supervisor)

The files give the run's state, whoever crashed when:

    result.json                 the run has *finished*
    else, the lock is held      the run is *live*
    else, supervisor.json       the run *died* without a result
    else                        the run was *never started*

Files are replaced atomically. A file that cannot be understood counts as absent, except for
result.json: it is written last, so the run has ended, and nobody knows how. A file that cannot be
read now (I/O error, no permission) raises OSError. The lock is flock(2), so the directory must be
on a local disk.

The worker may do what it likes here: this is its working directory. So an entry may be of any kind,
and no link is followed.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from enrollgate.common.backoff import Backoff
from enrollgate.common.files import write_private
from enrollgate.common.processes import Process
from enrollgate.common.strict_json import SIZE_LIMIT, parse_json
from enrollgate.domain.order import RunOrder
from enrollgate.domain.progress import MalformedProgress, RunProgress
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.launchers.local.exit_result import RunResult

_NAME = re.compile(r"[a-z0-9-]{1,63}")
# What may be in the place of a file, in words.
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFSOCK: "a socket",
}
# There is nothing, or something that we did not write.
_ABSENT = frozenset({errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENXIO})


def is_run_name(name: str) -> bool:
    """Return whether this is a valid run name, here and in Kubernetes. It is a safe file name."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a supervisor needs to know.

    `run_timeout` is in seconds, for all attempts and the waits between them together. `stop_grace`
    is the number of seconds between asking a worker to end and killing it. `memory_limit` is the
    bytes that the worker and its processes may take together; 0: no limit.
    """

    order: RunOrder
    worker_argv: tuple[str, ...]
    max_attempts: int
    run_timeout: float
    stop_grace: float
    backoff: Backoff
    memory_limit: int = 0

    def encode(self) -> str:
        """Return the spec as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def decode(cls, text: str) -> "RunSpec":
        """Read a spec from JSON. Raises ValueError if the text is not a spec."""
        try:
            match parse_json(text):
                case {
                    "order": {
                        "name": str(name),
                        "task_id": int(task_id),
                        "run_number": int(run_number),
                        "course_url": str(course_url),
                        "cookies_name": str(cookies_name),
                        "claim_id": str(claim_id),
                    },
                    "worker_argv": [str(), *_] as argv,
                    "backoff": {
                        "base": int() | float() as base,
                        "factor": int() | float() as factor,
                        "cap": int() | float() as cap,
                        "jitter": int() | float() as jitter,
                    },
                    "max_attempts": int(max_attempts),
                    "run_timeout": int() | float() as run_timeout,
                    "stop_grace": int() | float() as stop_grace,
                    "memory_limit": int(memory_limit),
                } if all(isinstance(each, str) for each in argv):
                    return cls(
                        RunOrder(name, task_id, run_number, course_url, cookies_name, claim_id),
                        tuple(argv),
                        max_attempts,
                        run_timeout,
                        stop_grace,
                        Backoff(base, factor, cap, jitter),
                        memory_limit,
                    )
        except ValueError as error:
            raise ValueError(f"not a run's spec: {error}") from error
        raise ValueError("not a run's spec: a field is missing or of another type")


class _Entry:
    """Gives a run directory the path of one of its entries, as an attribute."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "RunDirectory", _owner: type | None = None) -> Path:
        return run.path / self._name


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The paths of one run, and how its files are read and written. The module's text has the
    list.
    """

    path: Path

    spec = _Entry("spec.json")
    lock = _Entry("lock")
    supervisor = _Entry("supervisor.json")
    stop = _Entry("stop")
    log = _Entry("log")
    report = _Entry("report.json")
    progress = _Entry("progress.json")
    ballast = _Entry("ballast")
    scratch = _Entry("scratch")
    result = _Entry("result.json")

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    def read_result(self) -> RunResult | None:
        """Return the result; None if there is none or if it is damaged."""
        text = read_text(self.result)
        try:
            return None if text is None else RunResult.decode(text)
        except ValueError:
            return None

    def damaged_result(self) -> RunResult | None:
        """Return the failure of a launched run whose result cannot be understood.

        None if there is none. Call it only if the run is not live and `read_result` found nothing.
        """
        if not (os.path.lexists(self.result) and os.path.lexists(self.spec)):
            return None
        kind = stat.S_IFMT(self.result.lstat().st_mode)
        what = _KINDS.get(kind, "damaged" if kind == stat.S_IFREG else "not a file")
        message = (
            f"the run has ended, but its result.json is {what}: something else than Enrollgate "
            "wrote there"
        )
        return RunResult(False, Report(Reason.WORKER_CRASHED, message), 0)

    def restore_modes(self) -> None:
        """Make the directory and its entries usable for their owner again, as they were made."""
        with contextlib.suppress(OSError):
            if not self.path.is_symlink():
                self.path.chmod(0o700)
                for entry in os.scandir(self.path):
                    if not entry.is_symlink():
                        Path(entry.path).chmod(0o700 if entry.is_dir() else 0o600)

    def read_claim_id(self) -> str | None:
        """Return the claim that the run was launched for; None if its spec cannot be read."""
        match read_object(self.spec):
            case {"order": {"claim_id": str(claim_id)}}:
                return claim_id
        return None

    def read_supervisor(self) -> tuple[int, str] | None:
        """Return the pid and start time of the last supervisor; None if none started or the file
        is damaged.
        """
        match read_object(self.supervisor):
            case {"pid": int(pid), "started": str(started)}:
                return pid, started
        return None

    def write_supervisor(self, supervisor: Process) -> None:
        """Write down which process supervises the run."""
        content = {"pid": supervisor.pid, "started": supervisor.started}
        write_private(self.supervisor, json.dumps(content))

    def acquire(self) -> int | None:
        """Take the run's lock. Returns the descriptor that holds it, or None if the run is live or
        being launched.

        Raises FileNotFoundError if the directory does not exist, or is moved away meanwhile.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            try:
                descriptor = os.open(self.lock, flags, 0o600)
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
                    raise
                remove(self.lock)  # as if the lock had been deleted
                continue
            try:
                held = _lock_exclusively(descriptor)
                # Another file may be there by now.
                is_ours = held and os.path.samestat(os.fstat(descriptor), self.lock.stat())
            except OSError:
                os.close(descriptor)
                raise
            if is_ours:
                return descriptor
            os.close(descriptor)
            if not held:
                return None

    def is_live(self) -> bool:
        """Return whether a process holds the run's lock exclusively."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise
        try:
            return not _try_flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


def read_progress(work_dir: Path, name: str) -> RunProgress | None:
    """Return the last progress that the worker of a live run wrote; None if there is none that can
    be understood.

    Raises OSError if the file cannot be read.
    """
    if not is_run_name(name):
        return None
    found = read_object(RunDirectory(runs_folder(work_dir) / name).progress)
    try:
        return RunProgress.from_dict(found)
    except MalformedProgress:
        return None


def runs_folder(work_dir: Path) -> Path:
    """Return the folder of the runs that are live or not yet discarded."""
    return work_dir / "runs"


def finished_folder(work_dir: Path) -> Path:
    """Return the folder where discarded runs are kept for a while."""
    return work_dir / "finished"


def read_text(path: Path) -> str | None:
    """Return the text of a small file; None if it does not exist or is not a regular file."""
    try:
        # Opening a pipe must not wait for its writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(SIZE_LIMIT).decode(errors="replace")
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def remove(path: Path) -> None:
    """Delete whatever is there; a link, not what it leads to. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, object] | None:
    """Return the JSON object in a small file; None if there is none that can be understood."""
    text = read_text(path)
    try:
        value = None if text is None else parse_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _lock_exclusively(descriptor: int) -> bool:
    """Take the lock unless another process holds it exclusively.

    An observer holds it shared for an instant: that is no reason to give up.
    """
    while not _try_flock(descriptor, fcntl.LOCK_EX):
        if not _try_flock(descriptor, fcntl.LOCK_SH):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _try_flock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
