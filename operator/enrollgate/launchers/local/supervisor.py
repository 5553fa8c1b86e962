"""Supervise one local run: a small detached process that does what the Job controller does in a
cluster.

The local launcher starts it through `detach`, with the run's lock (taken) as standard input and the
run's log as output. In comes the run's `spec.json`. Out goes `result.json`, written last.

It runs the worker until it succeeds, fails for good, has used up its attempts or its time, or is
asked to end. It leaves no process of the run alive. It kills the worker with all its processes if
they take more memory than their limit. It outlives the operator: exit codes and deadlines are kept
while no operator runs.

It leads a session of its own; the worker and all that the worker starts belong to it. It is also
their subreaper, so orphans among them become its children. If the supervisor dies, the kernel
kills the worker at once.
"""

import contextlib
import ctypes
import math
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import FrameType

from enrollgate.common.backoff import delay
from enrollgate.common.files import write_private
from enrollgate.common.processes import descendant_memory, find, kill_descendants
from enrollgate.common.redaction import redact
from enrollgate.domain.reasons import EXIT_SUCCEEDED, PERMANENT_EXIT_CODES, Reason
from enrollgate.domain.report import Report
from enrollgate.launchers.local.exit_result import (
    ExitResult,
    Interruption,
    RunResult,
    parse_report,
    result_of,
)
from enrollgate.launchers.local.run_directory import RunDirectory, RunSpec, read_text, remove

# Seconds between two looks for a stop request. Its signal may not reach us, for example from
# another container.
_STOP_POLL_INTERVAL = 2.0
# Seconds between two looks at the memory that a run takes.
_MEMORY_POLL_INTERVAL = 0.25
# What a worker may map beyond its limit: stacks and reserves that it never touches.
_MAPPED_RESERVE = 512 * 2**20
# Bytes at the end of the log in which the last line is looked for.
_LOG_TAIL = 4096
_LOG_PREFIX = "supervisor: "
_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36
# Looked up here, because nothing may be looked up between fork and exec.
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl


class SignalWaiter:
    """Makes signals something to wait for: SIGTERM and SIGINT ask to end, SIGCHLD says that a
    child has ended.
    """

    def __init__(self) -> None:
        self.terminated = False
        self._read, write = os.pipe()
        for end in (self._read, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, self._terminate)
        # A handler that does nothing, since the worker would inherit SIG_IGN.
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)

    def wait(self, seconds: float) -> None:
        """Return after this time, or as soon as a signal has come since the last wait."""
        select.select([self._read], [], [], max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 512):
                pass

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.terminated = True


class Supervisor:
    """Runs one worker, attempt by attempt, until the run has a result. `clock` is monotonic, in
    seconds.
    """

    def __init__(
        self,
        run: RunDirectory,
        spec: RunSpec,
        environment: Mapping[str, str],
        signals: SignalWaiter,
        clock: Callable[[], float],
    ) -> None:
        self._run = run
        self._spec = spec
        self._environment = environment
        self._signals = signals
        self._clock = clock
        self._deadline = clock() + spec.run_timeout
        self._poll_interval = _MEMORY_POLL_INTERVAL if spec.memory_limit else _STOP_POLL_INTERVAL
        self._random = Random(spec.order.name)  # noqa: S311 -- spreads retries, protects nothing
        _PRCTL(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def supervise(self) -> RunResult | None:
        """Make all attempts. Returns None if the run was interrupted from outside and is to be
        launched again.
        """
        attempt = 1
        while True:
            exit_result, interruption = self._attempt(attempt)
            if exit_result.exit_code is None:
                description = f"the worker was not started ({exit_result.detail})"
            else:
                reason = f" ({exit_result.report.reason})" if exit_result.report else ""
                description = f"the worker ended with {exit_result.exit_code}{reason}"
            if interruption is None:
                pause = self._retry_delay(exit_result, attempt)
                if pause is not None:
                    _log(f"{description}; next attempt in {pause:.1f} s")
                    interruption = self._wait(lambda: False, until=self._clock() + pause)
                    if interruption is None:
                        attempt += 1
                        continue
            result = result_of(exit_result, attempt, interruption, self._spec.run_timeout)
            if result is None:
                conclusion = "no result: the run will be launched again"
            else:
                conclusion = "succeeded" if result.succeeded else f"failed: {result.report.reason}"
            _log(f"{description}; {conclusion}")
            return result

    def _attempt(self, attempt: int) -> tuple[ExitResult, Interruption | None]:
        """Run the worker once, and leave nothing of it alive."""
        if interruption := self._interruption():
            return ExitResult(None, None, "the run was already asked to end"), interruption
        try:
            remove(self._run.report)
            if self._run.scratch.is_symlink() or not self._run.scratch.is_dir():
                remove(self._run.scratch)
            self._run.scratch.mkdir(mode=0o700, exist_ok=True)
            worker = self._start_worker(attempt)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return ExitResult(None, None, str(error)), None
        limit, used = self._spec.memory_limit, 0

        def ended_or_too_large() -> bool:
            nonlocal used
            if worker.poll() is None and limit:
                used = descendant_memory(os.getpid(), limit)
            return worker.returncode is not None or used > limit

        interruption = self._wait(ended_or_too_large)
        if interruption is not None:
            grace = self._spec.stop_grace
            _log(f"{interruption.value}: asking the worker to end within {grace:g} s")
            worker.terminate()
            grace_over = self._clock() + grace
            while worker.poll() is None and self._clock() < grace_over:
                self._signals.wait(grace_over - self._clock())
        is_too_large = worker.poll() is None and interruption is None
        if not kill_descendants(os.getpid()):
            _log("some processes of the run cannot be killed now; continuing without them")
        exit_code = worker.wait()
        with contextlib.suppress(ChildProcessError):  # reap the orphans that became our children
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        report = None
        with contextlib.suppress(OSError):  # the worker has left it unreadable
            report = parse_report(read_text(self._run.report))
        if is_too_large:
            message = (
                f"the worker and its processes took {used // 2**20} MiB of memory, and their limit "
                f"is {limit // 2**20} MiB; they were killed"
            )
            report = Report(Reason.OOM_KILLED, message)
        return ExitResult(exit_code, report, _last_line(self._run.log)), interruption

    def _start_worker(self, attempt: int) -> "subprocess.Popen[bytes]":
        _log(f"[ATTEMPT {attempt}/{self._spec.max_attempts}] starting the worker")
        environment = {
            **self._environment,
            **self._spec.order.variables(),
            "ENROLLGATE_ATTEMPT": str(attempt),
            "ENROLLGATE_MAX_ATTEMPTS": str(self._spec.max_attempts),
            "ENROLLGATE_SCRATCH_DIR": str(self._run.scratch),
            "ENROLLGATE_REPORT_PATH": str(self._run.report),
            "ENROLLGATE_PROGRESS_PATH": str(self._run.progress),
        }
        supervisor, limit = os.getpid(), self._spec.memory_limit
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        mapped = 2 * limit + _MAPPED_RESERVE
        if most != resource.RLIM_INFINITY:
            mapped = min(mapped, most)

        def die_with_supervisor() -> None:
            _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor:  # it died before prctl took effect
                os.kill(os.getpid(), signal.SIGKILL)
            if limit:  # the kernel refuses at once what would grow faster than we look
                resource.setrlimit(resource.RLIMIT_DATA, (mapped, most))

        return subprocess.Popen(
            self._spec.worker_argv,
            env=environment,
            cwd=self._run.path,
            stdin=subprocess.DEVNULL,
            process_group=0,  # a worker that signals its own group does not hit us
            preexec_fn=die_with_supervisor,  # noqa: PLW1509 -- this process has only one thread
        )

    def _retry_delay(self, exit_result: ExitResult, attempt: int) -> float | None:
        """Return the seconds until the next attempt; None if there must not be another one."""
        is_final = exit_result.exit_code in (EXIT_SUCCEEDED, *PERMANENT_EXIT_CODES)
        if is_final or attempt >= self._spec.max_attempts:
            return None
        asked = (exit_result.report.retry_after if exit_result.report else None) or 0.0
        backoff = self._spec.backoff
        return max(delay(attempt, backoff, self._random), min(asked, backoff.cap))

    def _wait(self, is_done: Callable[[], bool], until: float = math.inf) -> Interruption | None:
        """Wait until it is done or that time has come. Returns the interruption, if one came
        first.
        """
        while not is_done():
            if interruption := self._interruption():
                return interruption
            now = self._clock()
            if now >= until:
                return None
            self._signals.wait(min(until - now, self._deadline - now, self._poll_interval))
        return None

    def _interruption(self) -> Interruption | None:
        if os.path.lexists(self._run.stop):
            return Interruption.STOPPED
        if self._signals.terminated:
            return Interruption.SHUTDOWN
        return Interruption.DEADLINE if self._clock() >= self._deadline else None


def main(arguments: list[str]) -> int:
    """Supervise the run in the directory that the only argument names. Returns the exit code."""
    signals = SignalWaiter()
    run = RunDirectory(Path(arguments[0]))
    process = find(os.getpid())
    try:
        holds_lock = os.path.samestat(os.fstat(0), run.lock.stat())
    except OSError:
        holds_lock = False
    if process is None or process.session != process.pid or not holds_lock:
        _log(
            "only the local launcher starts a supervisor: as the leader of its own session, "
            "with the run's lock as standard input"
        )
        return 2
    started_at = datetime.now(UTC)
    run.write_supervisor(process)
    try:
        spec = RunSpec.decode(read_text(run.spec) or "")
    except ValueError as error:
        message = f"spec.json of the run is damaged: {error}"
        result: RunResult | None = RunResult(False, Report(Reason.WORKER_CRASHED, message), 0)
    else:
        result = Supervisor(run, spec, os.environ, signals, time.monotonic).supervise()
    if result is not None:
        result = replace(result, started_at=started_at, finished_at=datetime.now(UTC))
        try:
            _write_result(run, result)
        except OSError:  # the worker has changed the directory that it works in
            run.restore_modes()
            remove(run.result)
            _write_result(run, result)
    return 0


def _write_result(run: RunDirectory, result: RunResult) -> None:
    remove(run.ballast)
    write_private(run.result, result.encode(), durable=True)


def _last_line(log: Path) -> str:
    """Return the last line that the worker logged, redacted; empty if there is none."""
    try:
        # The worker may have put a pipe there, or a link.
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL))
            lines = file.read(_LOG_TAIL).decode(errors="replace").splitlines()
    except OSError:
        return ""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "" if line.startswith(_LOG_PREFIX) else redact(line, 300)


def _log(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk costs the line, not the run
        sys.stderr.write(f"{_LOG_PREFIX}{redact(text)}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
