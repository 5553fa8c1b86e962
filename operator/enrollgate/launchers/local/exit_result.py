"""How a local run ended, in one file and in words: pure functions from exit codes and reports to a result.

The exit code rules, as it does for a Kubernetes Job; the worker's report explains. Where the worker left no report, or one
that does not fit its exit code, the report is written here.
"""

import json
import signal
from dataclasses import dataclass, replace
from enum import Enum

from enrollgate.domain.reasons import EXIT_SUCCEEDED, Reason
from enrollgate.domain.report import MalformedReport, Report


class Interruption(Enum):
    """Why a worker is asked to end before it has."""

    STOPPED = "stopped"
    """The operator wants the run to end."""
    DEADLINE = "deadline"
    """The run has used up its time."""
    SHUTDOWN = "shutdown"
    """Somebody else ended the supervisor: the machine goes down, most likely. The run is left without a result, so that
    it is started anew."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, after all its tries."""

    succeeded: bool
    report: Report
    tries: int

    def encode(self) -> str:
        """The result as JSON."""
        report = json.loads(self.report.encode())
        return json.dumps(
            {"succeeded": self.succeeded, "tries": self.tries, "report": report}, indent=1
        )

    @classmethod
    def decode(cls, text: str) -> "RunResult":
        """Reads an encoded result. Raises ValueError if it is not one."""
        try:
            raw = json.loads(text)
            succeeded = {True: True, False: False}[raw["succeeded"]]
            tries, report = int(raw["tries"]), Report.decode(json.dumps(raw["report"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"not a result ({error.__class__.__name__})") from error
        return cls(succeeded, report, tries)


@dataclass(frozen=True, slots=True)
class ExitResult:
    """How one try ended."""

    exit_code: int | None
    """Negative for a signal, as `subprocess` has it; None if the worker could not even be started."""
    report: Report | None
    """What the worker said, if it left a report that can be read."""
    last_words: str = ""
    """The last line of its log, or why it could not be started."""


def parse_report(text: str | None) -> Report | None:
    """A worker's report, or None if there is none or it is not one."""
    if text is None:
        return None
    try:
        return Report.decode(text)
    except (MalformedReport, RecursionError):
        return None


def result_of(
    ending: ExitResult, tries: int, interruption: Interruption | None, run_timeout: float
) -> RunResult | None:
    """The result after the last try; None if there is to be none. What is complete is complete, however it was
    interrupted.
    """
    if ending.exit_code == EXIT_SUCCEEDED:
        return RunResult(
            True, ending.report or Report(None, "succeeded; the worker left no report"), tries
        )
    if interruption is Interruption.SHUTDOWN:
        return None
    report = ending.report
    if interruption is Interruption.DEADLINE:
        message = f"the run took longer than its time limit of {run_timeout:g} s"
        report = replace(report or _CRASHED, reason=Reason.DEADLINE_EXCEEDED, message=message)
    elif interruption is Interruption.STOPPED and (report is None or report.reason is None):
        report = replace(report or _CRASHED, reason=Reason.STOPPED, message="the run was stopped")
    elif report is None or report.reason is None:
        report = replace(
            report or _CRASHED, reason=Reason.WORKER_CRASHED, message=explain_crash(ending)
        )
    return RunResult(False, report, tries)


def explain_crash(ending: ExitResult) -> str:
    """One sentence on a worker that ended without explaining itself."""
    if ending.exit_code is None:
        return f"the worker could not be started: {ending.last_words}"
    if ending.exit_code < 0:
        cause = f"was killed by {_signal_name(-ending.exit_code)}"
        if -ending.exit_code == signal.SIGKILL:
            cause += " (out of memory, or by hand)"
    else:
        cause = f"ended with exit code {ending.exit_code}"
    without = "without a report" if ending.report is None else "although it reported success"
    words = f"; the last line of its log: {ending.last_words}" if ending.last_words else ""
    return f"the worker {cause} {without}{words}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_CRASHED = Report(Reason.WORKER_CRASHED, "")
