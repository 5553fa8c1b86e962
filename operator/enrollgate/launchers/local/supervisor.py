"""The supervisor of one local run: a small detached process that plays the Job controller's part on a single machine.

`python -m enrollgate.launchers.local.supervisor RUN_DIRECTORY`, started by the local launcher with the run's lock, taken, as its
standard input and the run's log as its output. It runs the worker until it succeeds, fails for good, has used up its tries
or its time, or is asked to end; it leaves nothing of the run alive behind it; and the last thing it does is to write the
result. It outlives the operator, so exit codes and deadlines are kept while no operator runs.

It is the leader of a session of its own, which the worker and everything the worker starts belong to. On Linux it is also
the one to whom orphans among them fall (a subreaper), and its death kills the worker at once.
"""

import contextlib
import ctypes
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType

from enrollgate.common.backoff import delay
from enrollgate.common.files import write_private
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
from enrollgate.launchers.local.processes import find, kill_descendants
from enrollgate.launchers.local.run_directory import RunDirectory, RunSpec, read_text

_STOP_POLL_INTERVAL = 2.0
"""Seconds between two looks for a stop request whose signal could not reach us (from another container, say)."""
_TAIL = 4096
_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36


class SignalWaiter:
    """Turns signals into something to wait for: SIGTERM asks to end, SIGCHLD says that a child has."""

    def __init__(self) -> None:
        self.terminated = False
        self._read, write = os.pipe()
        for end in (self._read, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, self._terminate)
        for number in (
            signal.SIGCHLD,
            signal.SIGHUP,
        ):  # not SIG_IGN, which the worker would inherit
            signal.signal(number, lambda _number, _frame: None)

    def wait(self, seconds: float) -> None:
        """Returns after that time, or as soon as a signal has come since the last wait."""
        select.select([self._read], [], [], max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 512):
                pass

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.terminated = True


class Supervisor:
    """Runs one worker to its result."""

    def __init__(
        self,
        run: RunDirectory,
        spec: RunSpec,
        environment: Mapping[str, str],
        bell: SignalWaiter,
        clock: Callable[[], float],
    ) -> None:
        self._run = run
        self._spec = spec
        self._environment = environment
        self._bell = bell
        self._clock = clock
        self._deadline = clock() + spec.run_timeout
        self._random = Random(spec.order.name)  # noqa: S311 (spreads retries, guards nothing)
        self._prctl = _prctl()
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def supervise(self) -> RunResult | None:
        """All tries. None if the run was cut short from outside and is to be started anew."""
        number = 1
        while True:
            ending, interruption = self._try(number)
            if interruption is None and self._worth_another(ending, number):
                pause = self._pause(ending, number)
                _say(f"{_describe(ending)}; next try in {pause:.1f} s")
                interruption = self._wait(lambda: False, until=self._clock() + pause)
                if interruption is None:
                    number += 1
                    continue
            result = result_of(ending, number, interruption, self._spec.run_timeout)
            _say(f"{_describe(ending)}; {_describe_result(result)}")
            return result

    def _try(self, number: int) -> tuple[ExitResult, Interruption | None]:
        """One try, from clearing the way to leaving nothing behind."""
        if interruption := self._interruption():
            return ExitResult(None, None, "it was not wanted any more"), interruption
        try:
            self._run.report.unlink(missing_ok=True)
            self._run.scratch.mkdir(mode=0o700, exist_ok=True)
            worker = self._start(number)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return ExitResult(None, None, str(error)), None
        interruption = self._wait(lambda: worker.poll() is not None)
        if interruption is not None:
            _say(
                f"{interruption.value}: asking the worker to end within {self._spec.stop_grace:g} s"
            )
            worker.terminate()
            grace_over = self._clock() + self._spec.stop_grace
            while worker.poll() is None and self._clock() < grace_over:
                self._bell.wait(grace_over - self._clock())
        if not kill_descendants(os.getpid()):
            _say("some processes of the run cannot be killed just now; going on without them")
        exit_code = worker.wait()
        _reap()
        report = parse_report(read_text(self._run.report))
        return ExitResult(exit_code, report, _last_line(self._run.log)), interruption

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        _say(f"[ATTEMPT {number}/{self._spec.max_attempts}] starting the worker")
        environment = {
            **self._environment,
            **self._spec.order.variables(),
            "ENROLLGATE_ATTEMPT": str(number),
            "ENROLLGATE_MAX_ATTEMPTS": str(self._spec.max_attempts),
            "ENROLLGATE_SCRATCH_DIR": str(self._run.scratch),
            "ENROLLGATE_REPORT_PATH": str(self._run.report),
            "ENROLLGATE_PROGRESS_PATH": str(self._run.progress),
        }
        return subprocess.Popen(
            self._spec.worker_argv,
            env=environment,
            cwd=self._run.path,
            stdin=subprocess.DEVNULL,
            process_group=0,  # a worker that signals its own group does not hit us
            preexec_fn=partial(_die_with, os.getpid(), self._prctl),  # noqa: PLW1509 (there is only one thread)
        )

    def _worth_another(self, ending: ExitResult, number: int) -> bool:
        over = ending.exit_code == EXIT_SUCCEEDED or ending.exit_code in PERMANENT_EXIT_CODES
        return not over and number < self._spec.max_attempts

    def _pause(self, ending: ExitResult, number: int) -> float:
        asked = (ending.report.retry_after if ending.report else None) or 0.0
        return max(
            delay(number, self._spec.backoff, self._random), min(asked, self._spec.backoff.cap)
        )

    def _wait(self, done: Callable[[], bool], until: float = math.inf) -> Interruption | None:
        """Waits until it is done or that instant has come; gives what came between, if something did."""
        while not done():
            if interruption := self._interruption():
                return interruption
            now = self._clock()
            if now >= until:
                return None
            self._bell.wait(min(until - now, self._deadline - now, _STOP_POLL_INTERVAL))
        return None

    def _interruption(self) -> Interruption | None:
        if self._run.stop.exists():
            return Interruption.STOPPED
        if self._bell.terminated:
            return Interruption.SHUTDOWN
        return Interruption.DEADLINE if self._clock() >= self._deadline else None


def main(arguments: list[str]) -> int:
    """Supervises the run in the directory that the only argument names."""
    bell = SignalWaiter()
    run = RunDirectory(Path(arguments[0]))
    me = find(os.getpid())
    if me is None or me.session != me.pid or not _holds_lock(run):
        _say(
            "only the local launcher starts a supervisor: in a session of its own, with the run's lock as standard input"
        )
        return 2
    run.write_supervisor(me)
    try:
        spec = RunSpec.decode(read_text(run.spec) or "")
    except ValueError as error:
        message = f"spec.json of the run is damaged: {error}"
        result: RunResult | None = RunResult(False, Report(Reason.WORKER_CRASHED, message), 0)
    else:
        result = Supervisor(run, spec, os.environ, bell, time.monotonic).supervise()
    if result is not None:
        run.reserve.unlink(missing_ok=True)
        write_private(run.result, result.encode(), durable=True)
    return 0


def _holds_lock(run: RunDirectory) -> bool:
    try:
        return os.path.samestat(os.fstat(0), run.lock.stat())
    except OSError:
        return False


def _prctl() -> Callable[[int, int], object]:
    """prctl(2), looked up before any fork; elsewhere than on Linux it does nothing."""
    if sys.platform != "linux":
        return lambda _option, _value: None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda option, value: libc.prctl(option, value, 0, 0, 0)


def _die_with(supervisor: int, prctl: Callable[[int, int], object]) -> None:
    """In the worker, before it becomes the worker: have it killed when its supervisor dies."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os.kill(os.getpid(), signal.SIGKILL)


def _reap() -> None:
    """Takes leave of the orphans that fell to us."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "" if line.startswith(_VOICE) else redact(line, 300)


_VOICE = "supervisor: "


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk costs the line, not the run
        sys.stderr.write(f"{_VOICE}{redact(text)}\n")
        sys.stderr.flush()


def _describe(ending: ExitResult) -> str:
    if ending.exit_code is None:
        return f"the worker was not started ({ending.last_words})"
    return f"the worker ended with {ending.exit_code}" + (
        f" ({ending.report.reason})" if ending.report else ""
    )


def _describe_result(result: RunResult | None) -> str:
    if result is None:
        return "no result: the run is to be started anew"
    return "succeeded" if result.succeeded else f"failed: {result.report.reason}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
