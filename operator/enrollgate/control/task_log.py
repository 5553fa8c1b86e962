"""Log lines about single tasks: bounded in number per pass, the rest summed up in one line."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import structlog

from enrollgate.domain.gate import closed_line, open_line, unlisted_line, waiting_line
from enrollgate.domain.run import UnfinishedRun

_LOG = structlog.get_logger(__name__)
# Lines about single tasks that one pass logs.
LINE_LIMIT = 200


class TaskLog:
    """Writes the gate's decisions. `timeout` is the enrollment timeout in seconds."""

    def __init__(self, *, enrolled: str, timeout: float) -> None:
        self._enrolled = enrolled
        self._timeout = timeout
        self._lines = 0
        self._unlisted = Counter[str]()

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Allow LINE_LIMIT lines within, and sum up those that were not logged."""
        self._lines = 0
        try:
            yield
        finally:
            if self._unlisted:
                _LOG.warning(unlisted_line(self._unlisted))
                self._unlisted.clear()

    def may_log(self, kind: str) -> bool:
        """Return whether this pass may log another line about one task; else count it."""
        self._lines += 1
        if self._lines > LINE_LIMIT:
            self._unlisted[kind] += 1
        return self._lines <= LINE_LIMIT

    def log_decision(self, task_id: int, status: str, elapsed: float) -> None:
        """Log that the gate is open for this task, or that it waits since `elapsed` seconds."""
        is_open = status == self._enrolled
        if self.may_log("enrolled, gate open" if is_open else "waiting"):
            line = open_line if is_open else waiting_line
            fields = self._fields(task_id, status, elapsed)
            _LOG.info(line(task_id, status, elapsed, self._timeout), fields=fields)

    def log_closed(self, task_id: int, status: str, why: str, elapsed: float) -> None:
        """Log why the gate is closed for this task, known for `elapsed` seconds."""
        if self.may_log(why):
            fields = self._fields(task_id, status, elapsed)
            _LOG.warning(closed_line(task_id, status, why, elapsed, self._timeout), fields=fields)

    def _fields(self, task_id: int, status: str, elapsed: float) -> dict[str, object]:
        """Return the data of a line, for logs in JSON; times in seconds."""
        shown = round(elapsed, 3)
        return {"task": task_id, "status": status, "elapsed": shown, "limit": self._timeout}

    def log_run_closed(self, run: UnfinishedRun, why: str, now: datetime) -> None:
        """Log why the gate is closed for a task with a run."""
        if run.since is not None:  # else the gate has logged it already
            elapsed = (now - run.since).total_seconds()
            self.log_closed(run.task_id, run.task_status or run.task.value, why, elapsed)
