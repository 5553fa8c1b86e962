"""The gate: which tasks are known, since when they wait, and which of them fail there.

New tasks are tracked, status changes recorded, finished and deleted tasks untracked; tasks whose
enrollment timed out (`expire`) or whose status became unknown (`reject`) fail. Each part handles a
limited number of tasks, so that a flood delays no run.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from enrollgate.common.redaction import redact
from enrollgate.control.confinement import LONGEST_SET_ASIDE, Confinement
from enrollgate.control.task_log import TaskLog
from enrollgate.database import Database, Tables, tasks
from enrollgate.database.backlog import Backlog
from enrollgate.database.tables import UNKNOWN_STATUS_LIMIT
from enrollgate.domain.clock import SMALLEST_STEP, ClockReading
from enrollgate.domain.gate import timeout_message
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import Reason
from enrollgate.domain.task import TaskState
from enrollgate.telemetry import metrics

_LOG = structlog.get_logger(__name__)


class Gate:
    """Tends the tasks at the gate.

    `monotonic` returns seconds of a clock that nobody sets: with it, a step of the database's clock
    is noticed, and the waiting tasks wait as long as they would have without.
    """

    def __init__(
        self,
        database: Database,
        tables: Tables,
        policy: Policy,
        confinement: Confinement,
        log: TaskLog,
        *,
        installation: str,
        monotonic: Callable[[], float] | None,
    ) -> None:
        self._database = database
        self._tables = tables
        self._policy = policy
        self._confinement = confinement
        self._log = log
        self._installation = installation
        self._monotonic = monotonic
        # Of the last full pass: a step of the clock is seen by comparing two.
        self._clock: ClockReading | None = None
        # How many steps of the database's clock the instants that are written now come after.
        self.clock_steps = 0
        self._warned = set[str | None]()
        self._warned_of_ids = False
        # Waiting and enrolled tasks of the last full pass: for the numbers in summaries only.
        self.waiting = self.enrolled = 0
        # Whether a part of this pass has reached its limit.
        self.is_limited = False

    def begin_pass(self) -> None:
        """Forget what the last pass has seen."""
        self.is_limited = False

    def follow_clock(self, seen: Backlog, before: float, after: float) -> None:
        """Move the waits with the database's clock, if it was set since the last full pass.

        `before` and `after` are seconds of `monotonic`, before and after the backlog was read.
        """
        last = self._clock
        corrected = max(seen.clock_steps, last.corrected if last else 0)
        reading = ClockReading(seen.now, before, after, corrected)
        if self._monotonic and last and (step := reading.step_since(last)):
            moved = tasks.move_waits(self._database, step, clock_steps=last.corrected)
            reading = replace(reading, corrected=max(corrected, last.corrected + 1))
            if step < timedelta():
                tasks.restart_future_waits(
                    self._database, seen.now, longest_pause=LONGEST_SET_ASIDE
                )
            _LOG.warning(
                "the database's clock was set: tasks wait as long as without that",
                step_seconds=round(step.total_seconds(), 1),
                tasks=moved,
            )
        elif seen.begins_in_future(timedelta(seconds=SMALLEST_STEP)):
            moved = tasks.restart_future_waits(
                self._database, seen.now, longest_pause=LONGEST_SET_ASIDE
            )
            _LOG.warning(
                "the database's clock was set back while no operator worked: "
                "tasks that began to wait in its future begin now",
                tasks=moved,
            )
        self._clock = reading
        self.clock_steps = reading.corrected

    def tend(self, seen: Backlog) -> list[tasks.LeftTask]:
        """Track what is at the gate. Return the tasks to fail: their status became unknown."""
        now, statuses = seen.now, self._tables.statuses
        self.waiting = seen.count(*statuses.waiting)
        self.enrolled = seen.count(statuses.enrolled)
        self._warn_of_unknown_statuses(seen.unknown_statuses.items())
        metrics.TASKS.labels("unknown").set(seen.unknown)
        if seen.without_key and not self._warned_of_ids:
            self._warned_of_ids = True
            problem = "rows whose id is no whole number from 0 on are left alone; give them one"
            _LOG.warning(problem, rows=seen.without_key)
        metrics.TASKS_SET_ASIDE.set(seen.set_aside)
        oldest = (now - seen.waiting_since).total_seconds() if seen.waiting_since else 0.0
        metrics.OLDEST_WAITING.set(max(0.0, oldest))
        if new := seen.new:
            # Enrolled tasks first: their runs are claimed in this pass.
            first = [statuses.enrolled] if statuses.enrolled in new else statuses.waiting
            if sum(new.values()) <= tasks.GATE_LIMIT:
                first = statuses.open
            found = tasks.track_new(
                self._database,
                self._tables,
                now,
                first,
                clock_steps=self.clock_steps,
                on_refusal=self._confinement.note_refused,
            )
            for task in found:
                self._log.log_decision(task.task_id, task.status, 0.0)
                if task.status == statuses.enrolled:
                    metrics.ENROLLMENT_WAIT.observe(0.0)
            self.is_limited |= sum(new.values()) > tasks.GATE_LIMIT
        if seen.changed:
            changes = tasks.record_changes(
                self._database,
                self._tables,
                now,
                clock_steps=self.clock_steps,
                on_refusal=self._confinement.note_refused,
            )
            for change in changes:
                is_fresh = change.was not in statuses.waiting
                elapsed = 0.0 if is_fresh else (now - change.since).total_seconds()
                self._log.log_decision(change.task_id, change.status, elapsed)
                if change.status == statuses.enrolled:
                    metrics.ENROLLMENT_WAIT.observe(max(0.0, elapsed))
            self.is_limited |= seen.changed > tasks.GATE_LIMIT
        return self._untrack_left(now) if seen.left else []

    def _untrack_left(self, now: datetime) -> list[tasks.LeftTask]:
        """Stop tracking finished and deleted tasks. Return those whose status became unknown."""
        untracked, unknown = 0, list[tasks.LeftTask]()
        for left in tasks.left_gate(self._database, self._tables, now):
            known = [task for task in left if task.state is not TaskState.UNKNOWN]
            for task in tasks.untrack(self._database, known, self._confinement.note_refused):
                why = "row deleted" if task.state is TaskState.MISSING else task.state.value
                elapsed = (now - task.since).total_seconds()
                self._log.log_closed(task.task_id, task.status or task.was, f"over: {why}", elapsed)
            untracked += len(known)
            # What happens to a task with a run is decided together with that run.
            unknown += (t for t in left if t.state is TaskState.UNKNOWN and t.run_id is None)
            self._confinement.progress()
            if max(untracked, len(unknown)) >= tasks.GATE_LIMIT or self._confinement.is_stopping():
                self.is_limited = True
                break
        return unknown

    def expire(self, now: datetime) -> int:
        """Fail the tasks whose enrollment timeout is over. Return how many were failed."""
        limit = self._policy.enrollment_timeout
        message = timeout_message(limit)

        def expire(task: tasks.TrackedTask) -> bool:
            is_failed = tasks.expire(
                self._database,
                self._tables,
                task,
                now,
                installation=self._installation,
                message=message,
            )
            metrics.TASKS_EXPIRED.inc(int(is_failed))
            return is_failed

        due = tasks.due(self._database, self._tables, now, limit)
        expired, refused = self._confinement.fail_each(
            self._database, due, expire, f"{message}, failed", now
        )
        self.is_limited |= expired + refused >= tasks.EXPIRY_LIMIT
        return expired

    def reject(self, unknown: list[tasks.LeftTask], now: datetime) -> None:
        """Fail the tasks whose status became an unknown one, EXPIRY_LIMIT of them at most."""

        def reject(task: tasks.LeftTask) -> bool:
            return tasks.reject(
                self._database, self._tables, task, now, installation=self._installation
            )

        why = f"rejected, failed: {Reason.UNEXPECTED_STATUS}"
        self._confinement.fail_each(self._database, unknown, reject, why, now)
        self.is_limited |= len(unknown) > tasks.EXPIRY_LIMIT

    def _warn_of_unknown_statuses(self, unknown: Iterable[tuple[str | None, int]]) -> None:
        for status, count in unknown:
            if status in self._warned or len(self._warned) >= UNKNOWN_STATUS_LIMIT:
                continue
            self._warned.add(status)
            _LOG.warning(
                "rows with an unknown status are left alone; if it has a meaning, "
                "name it in ENROLLGATE_STATUS_*",
                status="NULL" if status is None else redact(status),
                tasks=count,
            )
            if len(self._warned) == UNKNOWN_STATUS_LIMIT:
                _LOG.warning("further unknown statuses are counted but not named")
