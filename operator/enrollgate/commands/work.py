"""`enrollgate work`: the process of one attempt, which a launcher starts.

The attempt itself is the package `worker`. This module gives it what a process has: settings from
the environment, signals, a report where the launcher looks for it, and an exit code.
"""

import os
import threading
import time
from pathlib import Path

import typer

from enrollgate.commands.console import fail
from enrollgate.common.signals import handle_signals
from enrollgate.domain.reasons import Reason, exit_code
from enrollgate.domain.report import Report
from enrollgate.settings.loading import SettingsError, load_worker_settings
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.order import WorkOrder
from enrollgate.worker.work import work as attempt_course
from enrollgate.worker.work import write_report

# The share of the grace period that a worker may use after it is asked to stop. Then it exits by
# itself, with a report, before its launcher kills it.
_STOP_SHARE = 0.9


def worker_settings_or_fail(report_path: Path) -> WorkerSettings:
    """Return the worker's settings. If they are wrong, report that and end with exit code 2."""
    try:
        return load_worker_settings()
    except SettingsError as error:
        write_report(report_path, Report(Reason.CONFIGURATION_ERROR, str(error)))
        fail(error)


def work(order: WorkOrder) -> int:
    """Run the attempt, write its report, and return the exit code (docs/reasons.md).

    SIGTERM and SIGINT ask the attempt to stop. If it does not stop in time, the process exits.
    """
    stop = threading.Event()

    def on_signal(_name: str) -> None:
        stop.set()
        time.sleep(order.settings.stop_grace * _STOP_SHARE)
        # A thread that waits for a silent connection does not see the event. The next attempt
        # resumes its partial file.
        message = "the run was asked to stop; the next attempt resumes partial files"
        try:
            write_report(order.report_path, Report(Reason.STOPPED, message))
        finally:
            os._exit(exit_code(Reason.STOPPED))

    handle_signals(on_signal)
    report = attempt_course(order, stop=stop)
    try:
        write_report(order.report_path, report)
    except OSError as error:
        # The disk may be full. The exit code still says whether a retry can help.
        typer.echo(f"the report could not be written: {error.strerror}", err=True)
    return exit_code(report.reason)
