"""Turn the end of a worker into the result of its run. Pure functions, without files or processes.

In come an exit code, a report and why the worker was interrupted. Out comes a `RunResult`, which
is stored as JSON.

The exit code decides, as it does for a Kubernetes Job. The worker's report explains. If there is
no report, or if it contradicts the exit code, the report is written here.
"""

import json
import signal
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from enrollgate.common.strict_json import parse_instant, parse_json
from enrollgate.domain.reasons import EXIT_SUCCEEDED, Reason
from enrollgate.domain.report import MalformedReport, Report


class Interruption(Enum):
    """Why a worker is asked to end early."""

    # The operator wants the run to end.
    STOPPED = "stopped"
    # The run has used up its time.
    DEADLINE = "deadline"
    # Something else ended the supervisor, most likely a shutdown of the machine. The run gets no
    # result, so that it is launched again.
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, after all its attempts, and from when to when it was supervised."""

    succeeded: bool
    report: Report
    attempts: int
    started_at: datetime | None = None
    finished_at: datetime | None = None

    def encode(self) -> str:
        """Return the result as JSON."""
        report = self.report.bounded().to_dict()
        content = {"succeeded": self.succeeded, "attempts": self.attempts, "report": report}
        for name, instant in (("started_at", self.started_at), ("finished_at", self.finished_at)):
            content[name] = instant.isoformat() if instant else None
        return json.dumps(content, indent=1)

    @classmethod
    def decode(cls, text: str) -> "RunResult":
        """Read a result from JSON. Raises ValueError if the text is not a result."""
        try:
            match parse_json(text):
                case {
                    "succeeded": bool(succeeded),
                    "attempts": int(attempts),
                    "report": report,
                    "started_at": str() | None as started_at,
                    "finished_at": str() | None as finished_at,
                }:
                    return cls(
                        succeeded,
                        Report.from_dict(report),
                        attempts,
                        parse_instant(started_at or ""),
                        parse_instant(finished_at or ""),
                    )
        except ValueError as error:
            raise ValueError(f"not a result: {error}") from error
        raise ValueError("not a result: a field is missing or of another type")


@dataclass(frozen=True, slots=True)
class ExitResult:
    """How one attempt ended.

    `exit_code` is negative for a signal, as in `subprocess`, and None if the worker could not be
    started. `report` is None if the worker left none that can be read. `detail` is the last line
    of its log, or why it could not be started.
    """

    exit_code: int | None
    report: Report | None
    detail: str = ""


def parse_report(text: str | None) -> Report | None:
    """Read a worker's report. Returns None if there is no text, or if it is not a report."""
    if text is None:
        return None
    try:
        return Report.decode(text)
    except MalformedReport:
        return None


def result_of(
    exit_result: ExitResult, attempts: int, interruption: Interruption | None, run_timeout: float
) -> RunResult | None:
    """Return the run's result after its last attempt; None if the run is to be launched again.

    A worker that succeeded has succeeded, even if it was interrupted. `run_timeout` is in seconds.
    """
    report = exit_result.report
    if exit_result.exit_code == EXIT_SUCCEEDED:
        report = report or Report(None, "succeeded; the worker left no report")
        return RunResult(True, report, attempts)
    if interruption is Interruption.SHUTDOWN:
        return None
    is_explained = report is not None and report.reason is not None
    report = report or Report(Reason.WORKER_CRASHED, "")
    if interruption is Interruption.DEADLINE:
        message = f"the run took longer than its time limit of {run_timeout:g} s"
        report = replace(report, reason=Reason.DEADLINE_EXCEEDED, message=message)
    elif interruption is Interruption.STOPPED and not is_explained:
        report = replace(report, reason=Reason.STOPPED, message="the run was stopped")
    elif not is_explained:
        message = explain_crash(exit_result)
        report = replace(report, reason=Reason.WORKER_CRASHED, message=message)
    return RunResult(False, report, attempts)


def explain_crash(exit_result: ExitResult) -> str:
    """Return one sentence on a worker that ended without an explanation."""
    code = exit_result.exit_code
    if code is None:
        return f"the worker could not be started: {exit_result.detail}"
    if code >= 0:
        cause = f"ended with exit code {code}"
    else:
        try:
            cause = f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            cause = f"was killed by signal {-code}"
        if -code == signal.SIGKILL:
            cause += " (out of memory, or by hand)"
    without = "without a report" if exit_result.report is None else "although it reported success"
    detail = f"; the last line of its log: {exit_result.detail}" if exit_result.detail else ""
    return f"the worker {cause} {without}{detail}"
