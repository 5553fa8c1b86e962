"""What goes wrong with one task stays with it: held and refused rows, and unforeseen errors.

Errors of the database or the launcher as a whole pass through: they end the pass. Between passes
only hints are kept: which errors were announced, and whose rows were held.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

import structlog

from enrollgate.control.task_log import TaskLog
from enrollgate.database import (
    Database,
    DatabaseError,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    RowHeld,
    RowRefused,
    RowTimedOut,
)
from enrollgate.database.set_aside import SetAside, set_aside
from enrollgate.database.tasks import EXPIRY_LIMIT, LeftTask, TrackedTask
from enrollgate.launchers import LauncherUnavailable
from enrollgate.telemetry import metrics

_T = TypeVar("_T")
_Task = TypeVar("_Task", TrackedTask, LeftTask)
_LOG = structlog.get_logger(__name__)
# Rows held by other transactions that each part of a pass waits for, before it continues without
# the rest.
HELD_LIMIT = 3
# Seconds for which a task is set aside after its first refusal; they double up to the limit.
SET_ASIDE = 10.0
LONGEST_SET_ASIDE = 600.0
# Errors of single tasks that are announced in the log, at most; the others are counted.
_ANNOUNCED_LIMIT = 1000


class Confinement:
    """Confines errors to tasks.

    `progress` is called after each task, so that a long pass is not mistaken for a dead one.
    `is_stopping` returns whether the operator is about to end: then no further task is begun.
    """

    def __init__(
        self, log: TaskLog, *, progress: Callable[[], None], is_stopping: Callable[[], bool]
    ) -> None:
        self._log = log
        self.progress = progress
        self.is_stopping = is_stopping
        # The tasks whose rows were held when they were last tried: the others come first.
        self._held = set[int | None]()
        # Rows that this part of the pass has waited for without getting them.
        self._waits = 0
        # The tasks whose rows were locked when they were last written: see `written`.
        self._locked = set[int]()
        # Errors of single tasks that were announced in the log: task and type.
        self._announced = set[tuple[int | None, str]]()

    @contextmanager
    def confined(self, task_id: int | None) -> Iterator[None]:
        """Confine an error to this task: a held or refused row, and whatever nobody foresaw.

        In the next pass, it comes after the others. Errors of the database or the launcher as a
        whole end the pass.
        """
        try:
            yield
        except RowHeld as error:
            self._held.add(task_id)
            self._waits += 1
            log = _LOG.warning if self._is_new(task_id, error) else _LOG.debug
            log("a task is left to the next pass", task=task_id, error=str(error))
        except RowRefused as error:
            self.note_refused(task_id, error)
        except (DatabaseUnavailable, DatabaseMisconfigured, LauncherUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 -- one task must not stop the others
            self._held.add(task_id)
            metrics.UNEXPECTED_ERRORS.inc()
            is_new = self._is_new(task_id, error)
            if self._log.may_log("failed with an unexpected error"):
                _LOG.error(
                    "an unexpected error in the handling of one task; the others go on. "
                    "Please report it, with this traceback",
                    task=task_id,
                    error=type(error).__name__,
                    exc_info=error if is_new else None,
                )
        self.progress()

    @contextmanager
    def written(self, task_id: int) -> Iterator[None]:
        """Write one task. A row that is locked for the second time in a row counts as refused.

        So it is set aside: the next passes do not wait for it. A trigger can claim a lock, too.
        """
        try:
            yield
        except RowTimedOut:
            self._waits += 1
            raise
        except RowHeld as error:
            if task_id not in self._locked:
                self._locked.add(task_id)
                raise
            self._waits += 1
            raise RowRefused(error.problem, error.remedy) from error
        self._locked.discard(task_id)

    def is_held(self, task_id: int) -> bool:
        """Return whether the task's row was held or refused when it was last tried."""
        return task_id in self._held or task_id in self._locked

    def may_wait(self, error: DatabaseError) -> bool:
        """Return whether this part of the pass may wait for further rows after this error."""
        self._waits += isinstance(error, RowHeld | RowTimedOut)
        return self._waits < HELD_LIMIT

    def note_refused(self, task_id: int | None, error: RowRefused) -> None:
        """Log once that a statement about a task was refused; the next pass tries it again."""
        self._held.add(task_id)
        metrics.REFUSALS.labels("database").inc()
        if self._is_new(task_id, error) and self._log.may_log("refused by the database"):
            _LOG.warning(
                "the database refuses a row; the next pass tries it again",
                task=task_id,
                error=str(error),
            )

    def _is_new(self, task_id: int | None, error: Exception) -> bool:
        """Return whether this kind of error of this task is to be announced."""
        key = (task_id, type(error).__name__)
        is_new = key not in self._announced and len(self._announced) < _ANNOUNCED_LIMIT
        if is_new:
            self._announced.add(key)
        return is_new

    @staticmethod
    def pause(refusals: int) -> float:
        """Return the seconds for which a task is set aside that was refused so often before."""
        return min(LONGEST_SET_ASIDE, SET_ASIDE * 2.0 ** min(refusals, 10))

    def set_aside_until(
        self, task_id: int, refusals: int, by: str, why: str, now: datetime
    ) -> SetAside:
        """Announce that a task is set aside, in the log once, and return until when."""
        pause = self.pause(refusals)
        metrics.REFUSALS.labels(by).inc()
        if self._log.may_log(f"set aside, refused by the {by}"):
            log = _LOG.debug if refusals else _LOG.warning
            log(
                f"the {by} refuses a task; it is set aside and tried again, the others go on",
                task=task_id,
                error=why,
                pause_seconds=pause,
            )
        return SetAside(why, now + timedelta(seconds=pause))

    def fail_each(
        self,
        database: Database,
        found: Iterable[_Task],
        fail: Callable[[_Task], bool],
        why: str,
        now: datetime,
    ) -> tuple[int, int]:
        """Fail EXPIRY_LIMIT tasks, and set those aside that the database refuses to fail.

        `fail` returns whether the task was failed, and raises RowHeld or RowRefused. `why` is for
        the log. Return how many were failed, and how many were set aside.
        """
        failed = refused = 0
        reachable = self.reachable(found, lambda task: task.task_id)
        for task in islice(reachable, EXPIRY_LIMIT):
            with self.confined(task.task_id):
                try:
                    with self.written(task.task_id):
                        is_failed = fail(task)
                except RowRefused as error:
                    until = self.set_aside_until(
                        task.task_id, task.refusals, "database", str(error), now
                    )
                    set_aside(database, task.task_id, until)
                    refused += 1
                    continue
                if is_failed:
                    failed += 1
                    elapsed = (now - task.since).total_seconds()
                    self._log.log_closed(task.task_id, str(task.status), why, elapsed)
        return failed, refused

    def reachable(self, each: Iterable[_T], task_of: Callable[[_T], int]) -> Iterator[_T]:
        """Yield the items whose rows were free last time, then the others.

        Stop after HELD_LIMIT rows that are held, and before the operator ends.
        """
        self._waits = 0
        for one in sorted(each, key=lambda one: task_of(one) in self._held):
            if self._waits >= HELD_LIMIT or self.is_stopping():
                return
            self._held.discard(task_of(one))  # whoever handles it puts it back
            yield one
