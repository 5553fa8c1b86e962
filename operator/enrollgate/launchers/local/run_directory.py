"""A local run on disk: one directory with everything about it. The launcher and the supervisor meet only here.

    spec.json       what to run, how often and how long           (launcher, before it starts a supervisor)
    lock            held exclusively while a supervisor lives     (inherited by the supervisor: never free in between)
    process.json    the supervisor's pid and start                (supervisor)
    stop            there once the run is asked to end            (launcher)
    log             standard output and error of all tries        (worker, supervisor)
    report.json     the report of the last try                    (worker)
    progress.json   how far the try has come                      (worker)
    reserve         room on the disk for the result              (launcher; freed by the supervisor)
    scratch/        partial files, kept between tries             (worker)
    exit.json       the result, written once, the last thing     (supervisor)

What the files say together is the run's state, whoever crashed when: a result is *finished*; else a held lock is *live*;
else a process.json is a run that *died* without a result; else it was *never started*. Files are replaced atomically. A
file that cannot be understood counts as absent; one that cannot be read for now (I/O error, no permission) is an OSError.

The lock is flock(2), so the directory belongs on a local disk.
"""

import errno
import fcntl
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enrollgate.common.backoff import Backoff
from enrollgate.common.files import write_private
from enrollgate.domain.order import RunOrder
from enrollgate.launchers.local.exit_result import RunResult
from enrollgate.launchers.local.processes import Process

_NAME = re.compile(r"[a-z0-9-]{1,63}")
_READ_LIMIT = 1 << 20
_NOT_THERE = frozenset({errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENXIO})
"""Nothing there, or nothing that is a file of ours."""


def is_run_name(name: str) -> bool:
    """Whether this can be a run's name, here and in Kubernetes; such a name is a safe file name."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a supervisor needs to know. Times in seconds."""

    order: RunOrder
    worker_argv: tuple[str, ...]
    max_attempts: int
    run_timeout: float
    """For all tries and the waits between them together."""
    stop_grace: float
    """Between asking a worker to end and killing it."""
    backoff: Backoff

    def encode(self) -> str:
        """The spec as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def decode(cls, text: str) -> "RunSpec":
        """Reads an encoded spec. Raises ValueError if it is not one."""
        try:
            raw: dict[str, Any] = json.loads(text)
            return cls(
                order=RunOrder(**raw.pop("order")),
                worker_argv=tuple(raw.pop("worker_argv")),
                backoff=Backoff(**raw.pop("backoff")),
                **raw,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a run's spec ({error.__class__.__name__})") from error


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The paths of one run, and its files read and written."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def spec(self) -> Path:
        """What to run."""
        return self.path / "spec.json"

    @property
    def lock(self) -> Path:
        """Held exclusively while the run lives."""
        return self.path / "lock"

    @property
    def process(self) -> Path:
        """The supervisor's identity."""
        return self.path / "process.json"

    @property
    def stop(self) -> Path:
        """Exists once the run is asked to end."""
        return self.path / "stop"

    @property
    def log(self) -> Path:
        """What the worker printed, over all tries."""
        return self.path / "log"

    @property
    def report(self) -> Path:
        """The worker's report of its last try."""
        return self.path / "report.json"

    @property
    def progress(self) -> Path:
        """How far the worker has come."""
        return self.path / "progress.json"

    @property
    def scratch(self) -> Path:
        """Where the worker keeps partial files."""
        return self.path / "scratch"

    @property
    def reserve(self) -> Path:
        """Some bytes that are given back when the result is written, so that a full disk does not lose it."""
        return self.path / "reserve"

    @property
    def result(self) -> Path:
        """How the run ended."""
        return self.path / "exit.json"

    def read_result(self) -> RunResult | None:
        """The result; None if there is none, or only a damaged one: such a run is taken for one that died."""
        text = read_text(self.result)
        try:
            return None if text is None else RunResult.decode(text)
        except ValueError:
            return None

    def read_supervisor(self) -> tuple[int, str] | None:
        """The pid and start of the last supervisor; None if none began, or its file is damaged."""
        raw = read_object(self.process)
        if (
            raw is None
            or not isinstance(raw.get("pid"), int)
            or not isinstance(raw.get("started"), str)
        ):
            return None
        return raw["pid"], raw["started"]

    def write_supervisor(self, supervisor: Process) -> None:
        """Notes who supervises the run."""
        write_private(
            self.process, json.dumps({"pid": supervisor.pid, "started": supervisor.started})
        )

    def acquire(self) -> int | None:
        """Takes the run's lock. Gives the descriptor that holds it, or None if the run is live (or being launched).

        Raises FileNotFoundError if the directory is not there, or is moved away meanwhile.
        """
        while True:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                held = _lock_exclusively(descriptor)
                ours = held and os.path.samestat(os.fstat(descriptor), os.stat(self.lock))  # noqa: PTH116
            except OSError:
                os.close(descriptor)
                raise
            if ours:
                return descriptor
            os.close(descriptor)
            if not held:
                return None

    def is_live(self) -> bool:
        """Whether somebody holds the run's lock exclusively."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return False
            raise
        try:
            return not _flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


def read_progress(work_dir: Path, name: str) -> Mapping[str, object] | None:
    """What the worker of a live run last said of its progress; None if it has said nothing that can be understood.

    Raises OSError if the file cannot be read.
    """
    return (
        read_object(runs_folder(work_dir) / name / "progress.json") if is_run_name(name) else None
    )


def runs_folder(work_dir: Path) -> Path:
    """Where the runs are that are live or not yet discarded."""
    return work_dir / "runs"


def finished_folder(work_dir: Path) -> Path:
    """Where discarded runs are kept for a while."""
    return work_dir / "finished"


def read_text(path: Path) -> str | None:
    """The text of a small file; None if there is no such file, or what is there is no file of ours."""
    try:
        with path.open("rb") as file:
            return file.read(_READ_LIMIT).decode(errors="replace")
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a small file; None if there is none that can be understood."""
    text = read_text(path)
    try:
        value = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _lock_exclusively(descriptor: int) -> bool:
    """An observer holds the lock shared for an instant; only an exclusive holder is a reason to give up."""
    while not _flock(descriptor, fcntl.LOCK_EX):
        if not _flock(descriptor, fcntl.LOCK_SH):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _flock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
