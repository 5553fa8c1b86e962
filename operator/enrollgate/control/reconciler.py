"""One pass: observe, plan, apply. Every pass starts from the rows and the runs as they are.

    gate      backlog -> track new tasks, record status changes, fail timed-out tasks,
              untrack finished tasks
    runs      unfinished rows -> the launcher's observations -> plan -> apply
    launches  claim runs for the free slots -> plan -> check that each task is still enrolled
              -> launch

That is a *full* pass. When the launcher names the runs that have changed, a *focused* pass looks at
those alone and then fills the slots they leave: its cost follows the change, however many runs
there are.

A pass may be interrupted anywhere, at any time, by anything: the next one continues from what it
finds. A run exists in the database before it exists at the launcher, and its name follows from its
task and run number, so creating it again creates nothing new. Between passes only hints are kept:
which unknown statuses and other places were warned about, and whose rows were held.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from enrollgate.common.redaction import redact
from enrollgate.database import Database, RowHeld, Tables, backlog, runs, tasks
from enrollgate.database.backlog import Backlog
from enrollgate.database.runs import Recorded
from enrollgate.domain.clock import SMALLEST_STEP, ClockReading
from enrollgate.domain.gate import closed_line, open_line, timeout_message, waiting_line
from enrollgate.domain.observation import LaunchOutcome, Observation, Phase
from enrollgate.domain.planner import (
    Action,
    Adopt,
    DiscardOrphan,
    Launch,
    Record,
    Stop,
    StopOrphan,
    plan,
)
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import START_FAILURES, Reason, explain
from enrollgate.domain.run import Outcome, RunPlace, RunState, UnfinishedRun
from enrollgate.domain.task import TaskState
from enrollgate.launchers import Launcher, LauncherRefused, RunEvent, RunEventType
from enrollgate.telemetry import metrics

_T = TypeVar("_T")
_LOG = structlog.get_logger(__name__)
# Rows held by other transactions that each part of a pass waits for, before it continues without
# the rest.
HELD_LIMIT = 3
# Runs launched before that is recorded in the database.
LAUNCH_BATCH = 500
# Runs launched between two checks of whether their tasks are still enrolled.
CHECK_BATCH = 50


@dataclass(frozen=True, slots=True)
class PassSummary:
    """What one pass saw and did, for logs and metrics.

    `unfinished` is the number of unfinished runs at the end, `statements` the number of SQL
    statements sent. `refused` runs were claimed in this pass and finished without being launched:
    their slots are free again. `ending` names the runs to observe again soon, because no event
    announces their end.
    """

    waiting: int
    enrolled: int
    unfinished: int
    launched: int
    finished: int
    expired: int
    statements: int
    refused: int = 0
    ending: frozenset[str] = frozenset()

    @property
    def more(self) -> bool:
        """Return whether the next pass should follow at once: tasks or free slots are left."""
        return self.expired >= tasks.EXPIRY_LIMIT or self.refused > 0


@dataclass(frozen=True, slots=True)
class _Applied:
    """How many runs an `_apply` finished and launched.

    `refused` counts the finished ones that were to be launched.
    """

    finished: int
    refused: int
    launched: int


class Reconciler:
    """Brings runs and tasks in line with each other, one `reconcile` at a time.

    `progress` is called after each task, so that a long pass is not mistaken for a dead one.
    `new_claim_id` returns at most 32 letters and digits, other ones each time.
    `monotonic` returns seconds of a clock that nobody sets: with it, a step of the database's clock
    is noticed, and the waiting tasks wait as long as they would have without.
    """

    def __init__(
        self,
        database: Database,
        tables: Tables,
        launcher: Launcher,
        policy: Policy,
        *,
        installation: str,
        progress: Callable[[], None] = lambda: None,
        new_claim_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._database = database
        self._tables = tables
        self._launcher = launcher
        self._policy = policy
        self._installation = installation
        self._progress = progress
        self._new_claim_id = new_claim_id
        self._monotonic = monotonic
        # Of the last full pass: a step of the clock is seen by comparing two.
        self._clock: ClockReading | None = None
        self._warned = set[str | None]()
        self._warned_of_ids = False
        # The tasks whose rows were held when they were last tried: the others come first.
        self._held = set[int]()
        # Rows that this part of the pass has waited for without getting them.
        self._waits = 0
        # The other places with runs, as they were logged.
        self._elsewhere = frozenset[RunPlace]()
        # Of the last full pass: for the numbers in summaries only.
        self._waiting = self._enrolled = 0

    def reconcile(self, changed: Collection[str] | None = None) -> PassSummary:
        """Run one pass: a full one, or one focused on the runs that are named as changed.

        Raises DatabaseUnavailable, DatabaseMisconfigured or LauncherUnavailable: then the pass is
        aborted, and the next one does what it did not get to.
        """
        with metrics.timed_pass():
            return self._full_pass() if changed is None else self._focused_pass(changed)

    def _full_pass(self) -> PassSummary:
        sent_before = self._database.statements
        before = self._monotonic() if self._monotonic else 0.0
        seen = backlog.load_backlog(self._database, self._tables)
        now = seen.now
        expired = self._tend_gate(seen, self._follow_clock(seen, before))
        unfinished = runs.unfinished(self._database, self._tables, installation=self._installation)
        self._warn_of_runs_elsewhere(unfinished)
        observed, actions = self._plan(unfinished, only=False)
        applied = self._apply(actions, now)
        with_run = sum(run.task is TaskState.ENROLLED for run in unfinished)
        is_work_left = self._enrolled > with_run or applied.finished > 0
        remaining = len(unfinished) - applied.finished
        claimed = self._launch_claimed(now, remaining, is_work_left=is_work_left)
        return self._summarize(
            observed.values(),
            applied,
            claimed,
            remaining=remaining,
            expired=expired,
            sent_before=sent_before,
        )

    def _focused_pass(self, changed: Collection[str]) -> PassSummary:
        sent_before = self._database.statements
        now = self._database.now(on_primary=True)
        unfinished = runs.unfinished(
            self._database, self._tables, installation=self._installation, names=changed
        )
        observed, actions = self._plan(unfinished, only=True)
        applied = self._apply(actions, now)
        remaining = runs.count_unfinished(self._database, installation=self._installation)
        claimed = self._launch_claimed(now, remaining, is_work_left=applied.finished > 0)
        return self._summarize(
            observed.values(),
            applied,
            claimed,
            remaining=remaining,
            expired=0,
            sent_before=sent_before,
        )

    def _launch_claimed(
        self, now: datetime, remaining: int, *, is_work_left: bool
    ) -> tuple[int, _Applied]:
        """Claim runs for the free slots and launch them.

        Return how many were claimed, and what came of them.
        """
        limit = self._policy.max_concurrent_runs
        if not is_work_left or remaining >= limit:
            return 0, _Applied(0, 0, 0)
        claimed = runs.claim(
            self._database,
            self._tables,
            claim_id=self._new_claim_id(),
            installation=self._installation,
            place=self._launcher.place,
            limit=limit,
            unfinished=remaining,
        )
        # A run that was just claimed is created, or adopted if another operator has created it
        # meanwhile: the plan needs no observation of it.
        actions = plan(claimed, {}, self._policy, self._launcher.place)
        return len(claimed), self._apply(actions, now)

    def _plan(
        self, unfinished: Collection[UnfinishedRun], *, only: bool
    ) -> tuple[Mapping[str, Observation], tuple[Action, ...]]:
        """Observe the runs that are here, and plan."""
        here = self._launcher.place
        expected = [run.name for run in unfinished if here.can_observe(run.place)]
        observed = self._launcher.observe(expected, only=only)
        return observed, plan(unfinished, observed, self._policy, here)

    def _warn_of_runs_elsewhere(self, unfinished: Iterable[UnfinishedRun]) -> None:
        """Say once for each other place that its runs are waited for."""
        here = self._launcher.place
        elsewhere = Counter(run.place for run in unfinished if not here.can_observe(run.place))
        for place in elsewhere.keys() - self._elsewhere:
            _LOG.warning(
                "runs elsewhere are waited for, since only an operator there can observe them; "
                "if that place is gone for good, release them with `enrollgate release`",
                place=str(place),
                runs=elsewhere[place],
            )
        self._elsewhere = frozenset(elsewhere)

    def _summarize(
        self,
        observed: Iterable[Observation],
        applied: _Applied,
        claimed: tuple[int, _Applied],
        *,
        remaining: int,
        expired: int,
        sent_before: int,
    ) -> PassSummary:
        count, launched = claimed
        return PassSummary(
            waiting=self._waiting,
            enrolled=self._enrolled,
            unfinished=remaining + count - launched.finished,
            launched=applied.launched + launched.launched,
            finished=applied.finished + launched.finished,
            expired=expired,
            statements=self._database.statements - sent_before,
            refused=launched.finished,
            ending=frozenset(each.name for each in observed if each.is_ending),
        )

    # the gate

    def _follow_clock(self, seen: Backlog, before: float) -> int:
        """Move the waits with the database's clock, if it was set since the last full pass.

        Return how many steps of the clock `seen.now` comes after.
        """
        last = self._clock
        corrected = max(seen.clock_steps, last.corrected if last else 0)
        after = self._monotonic() if self._monotonic else 0.0
        reading = ClockReading(seen.now, before, after, corrected)
        if self._monotonic and last and (step := reading.step_since(last)):
            moved = tasks.move_waits(self._database, step, clock_steps=last.corrected)
            reading = replace(reading, corrected=max(corrected, last.corrected + 1))
            _LOG.warning(
                "the database's clock was set: tasks wait as long as without that",
                step_seconds=round(step.total_seconds(), 1),
                tasks=moved,
            )
        elif seen.begins_in_future(timedelta(seconds=SMALLEST_STEP)):
            moved = tasks.restart_future_waits(self._database, seen.now)
            _LOG.warning(
                "the database's clock was set back while no operator worked: "
                "tasks that began to wait in its future begin now",
                tasks=moved,
            )
        self._clock = reading
        return reading.corrected

    def _tend_gate(self, seen: Backlog, clock_steps: int) -> int:
        """Track what is at the gate; fail what has timed out. Return the number of the latter."""
        now, statuses = seen.now, self._tables.statuses
        self._waiting = seen.count(*statuses.waiting)
        self._enrolled = seen.count(statuses.enrolled)
        self._warn_of_unknown_statuses(seen.unknown_statuses.items())
        metrics.TASKS.labels("unknown").set(seen.unknown)
        if seen.without_key and not self._warned_of_ids:
            self._warned_of_ids = True
            problem = "rows whose id is no whole number from 0 on are left alone; give them one"
            _LOG.warning(problem, rows=seen.without_key)
        if seen.new:
            for task in tasks.track_new(self._database, self._tables, now, clock_steps=clock_steps):
                self._log_decision(task.task_id, task.status, 0.0)
        if seen.changed:
            for change in tasks.record_changes(
                self._database, self._tables, now, clock_steps=clock_steps
            ):
                is_fresh = change.was not in statuses.waiting
                elapsed = 0.0 if is_fresh else (now - change.since).total_seconds()
                self._log_decision(change.task_id, change.status, elapsed)
        is_due = seen.is_timeout_over(self._policy.enrollment_timeout)
        expired = self._expire(now) if is_due else 0
        if seen.left:
            for left in tasks.left_gate(self._database, self._tables):
                self._untrack(left, now)
        return expired

    def _expire(self, now: datetime) -> int:
        """Fail the tasks whose enrollment timeout is over. Return how many were failed."""
        limit = self._policy.enrollment_timeout
        message = timeout_message(limit)
        expired = 0
        due = tasks.due(self._database, self._tables, now, limit)
        for task in self._reachable(due, lambda task: task.task_id):
            with self._unless_held(task.task_id):
                is_failed = tasks.expire(
                    self._database,
                    self._tables,
                    task,
                    now,
                    installation=self._installation,
                    message=message,
                )
                if is_failed:
                    expired += 1
                    metrics.TASKS_EXPIRED.inc()
                    elapsed = (now - task.since).total_seconds()
                    self._log_closed(task.task_id, task.status, f"{message}, failed", elapsed)
        return expired

    def _untrack(self, left: list[tasks.LeftTask], now: datetime) -> None:
        """Stop tracking finished and deleted tasks; fail those whose status became unknown."""
        known = [task for task in left if task.state is not TaskState.UNKNOWN]
        unknown = [task for task in left if task.state is TaskState.UNKNOWN and not task.has_run]
        tasks.untrack(self._database, [task.task_id for task in known])
        for task in self._reachable(unknown, lambda task: task.task_id):
            with self._unless_held(task.task_id):
                if tasks.reject(
                    self._database, self._tables, task, now, installation=self._installation
                ):
                    why = f"rejected, failed: {Reason.UNEXPECTED_STATUS}"
                    elapsed = (now - task.since).total_seconds()
                    self._log_closed(task.task_id, str(task.status), why, elapsed)
        for task in known:
            why = "row deleted" if task.state is TaskState.MISSING else task.state.value
            elapsed = (now - task.since).total_seconds()
            self._log_closed(task.task_id, task.status or task.was, f"over: {why}", elapsed)

    def _warn_of_unknown_statuses(self, unknown: Iterable[tuple[str | None, int]]) -> None:
        for status, count in unknown:
            if status in self._warned or len(self._warned) >= backlog.UNKNOWN_STATUS_LIMIT:
                continue
            self._warned.add(status)
            _LOG.warning(
                "rows with an unknown status are left alone; if it has a meaning, "
                "name it in ENROLLGATE_STATUS_*",
                status="NULL" if status is None else redact(status),
                tasks=count,
            )
            if len(self._warned) == backlog.UNKNOWN_STATUS_LIMIT:
                _LOG.warning("further unknown statuses are counted but not named")

    def _log_decision(self, task_id: int, status: str, elapsed: float) -> None:
        line = open_line if status == self._tables.statuses.enrolled else waiting_line
        _LOG.info(line(task_id, status, elapsed, self._policy.enrollment_timeout))

    def _log_closed(self, task_id: int, status: str, why: str, elapsed: float) -> None:
        _LOG.warning(closed_line(task_id, status, why, elapsed, self._policy.enrollment_timeout))

    def _log_run_closed(self, run: UnfinishedRun, why: str, now: datetime) -> None:
        if run.since is not None:  # else the gate has logged it already
            elapsed = (now - run.since).total_seconds()
            self._log_closed(run.task_id, run.task_status or run.task.value, why, elapsed)

    # rows that other transactions hold

    @contextmanager
    def _unless_held(self, task_id: int) -> Iterator[None]:
        """Leave a task whose row another transaction holds to the next pass."""
        try:
            yield
            self._held.discard(task_id)
        except RowHeld as error:
            self._held.add(task_id)
            self._waits += 1
            _LOG.warning("a task is left to the next pass", task=task_id, error=str(error))
        self._progress()

    def _reachable(self, each: Iterable[_T], task_of: Callable[[_T], int]) -> Iterator[_T]:
        """Yield the items whose rows were free last time, then the others.

        Stop after HELD_LIMIT rows that are held.
        """
        self._waits = 0
        for one in sorted(each, key=lambda one: task_of(one) in self._held):
            if self._waits >= HELD_LIMIT:
                return
            yield one

    # the runs

    def _apply(self, actions: Collection[Action], now: datetime) -> _Applied:
        """Apply the actions: ends first, launches last and in batches."""
        recorded = list[Observation]()
        ends = [action for action in actions if isinstance(action, Stop | Record)]
        for end in self._reachable(ends, lambda end: end.run.task_id):
            with self._unless_held(end.run.task_id):
                if isinstance(end, Stop):
                    self._stop(end, now)
                elif self._record(end, now):
                    # A lost run may have left files behind, though nothing of it was observed.
                    left = end.observation or Observation(end.run.name, Phase.FAILED)
                    recorded.append(left)
        adopted = [action for action in actions if isinstance(action, Adopt)]
        self._mark_launched(
            [(each.run, each.observation.uid, each.observation.launched_at) for each in adopted]
        )
        self._clear_orphans(
            [action for action in actions if isinstance(action, StopOrphan | DiscardOrphan)]
        )
        self._discard(recorded)
        launches = [action for action in actions if isinstance(action, Launch)]
        launched = refused = 0
        for start in range(0, len(launches), LAUNCH_BATCH):
            created, taken = self._launch(launches[start : start + LAUNCH_BATCH], now)
            launched, refused = launched + created, refused + taken
        return _Applied(len(recorded) + refused, refused, launched)

    def _launch(self, launches: list[Launch], now: datetime) -> tuple[int, int]:
        """Launch the runs whose tasks are enrolled now.

        Return how many were launched, and how many can never be.
        """
        results = list(self._launcher.launch(self._still_enrolled(launches)))
        taken = [
            launch.run for launch, result in results if result.outcome is LaunchOutcome.NAME_TAKEN
        ]
        launched = self._mark_launched(
            [
                (launch.run, result.uid, result.launched_at)
                for launch, result in results
                if launch.run not in taken
            ]
        )
        refused = 0
        for run in taken:
            message = f"an object that is not ours is already called {run.name}"
            action = Record(run, None, Outcome.FAILED, Reason.NAME_TAKEN, message, move_task=True)
            with self._unless_held(run.task_id):
                refused += self._record(action, now)
        return launched, refused

    def _still_enrolled(self, launches: list[Launch]) -> Iterator[Launch]:
        """Yield the launches whose tasks are enrolled at the moment when they are asked for."""
        for start in range(0, len(launches), CHECK_BATCH):
            batch = launches[start : start + CHECK_BATCH]
            names = runs.still_enrolled(
                self._database, self._tables, [launch.run.name for launch in batch]
            )
            yield from (launch for launch in batch if launch.run.name in names)

    def _mark_launched(
        self, existing: list[tuple[UnfinishedRun, str | None, datetime | None]]
    ) -> int:
        """Record that these runs (with their Jobs' UIDs) exist, and since when.

        Announce and count those not recorded before.
        """
        if not existing:
            return 0
        new = runs.mark_launched(
            self._database, {run.name: launched_at for run, _, launched_at in existing}
        )
        metrics.RUNS_LAUNCHED.inc(len(new))
        for run, uid, _ in existing:
            if run.name in new:
                _LOG.info("run launched", run=run.name, task=run.task_id, run_number=run.run_number)
                message = f"task {run.task_id} is enrolled: run {run.run_number} was launched"
                event = RunEvent(RunEventType.LAUNCHED, message)
                self._launcher.record_event(run.name, uid, event)
        return len(new)

    def _stop(self, stop: Stop, now: datetime) -> None:
        name, uid = stop.run.name, stop.observation.uid
        if stop.run.state is not RunState.STOPPING:
            if not runs.mark_stopping(self._database, self._tables, stop):
                return
            self._log_run_closed(stop.run, f"stopping its run: {stop.reason}", now)
            _LOG.warning("stopping a run", run=name, reason=stop.reason.value, detail=stop.message)
            kind = RunEventType.FAILED if stop.reason in START_FAILURES else RunEventType.REVOKED
            event = RunEvent(kind, f"stopping: {stop.reason}: {stop.message}")
            self._launcher.record_event(name, uid, event)
        self._ask_to_stop(stop.observation)

    def _ask_to_stop(self, observation: Observation, *, keep_name: bool = False) -> None:
        try:
            self._launcher.stop(observation.name, observation.uid, keep_name=keep_name)
        except LauncherRefused as error:
            # One run that cannot be stopped now must not delay the others.
            _LOG.warning(
                "a run could not be stopped; the next pass tries again",
                run=observation.name,
                error=str(error),
            )

    def _discard(self, observations: list[Observation]) -> None:
        try:
            self._launcher.discard(observations)
        except LauncherRefused as error:
            # They are observed again, and discarded then: nothing waits for it.
            _LOG.warning(
                "recorded runs could not be discarded; the next pass tries again", error=str(error)
            )

    def _record(self, action: Record, now: datetime) -> bool:
        """Finish a run and announce it.

        Return False if another operator has changed the run: it is that one's to record.
        """
        run, reason = action.run, action.reason
        recorded = runs.record(self._database, self._tables, action)
        if recorded is Recorded.OVERTAKEN:
            _LOG.debug("a run is left to the operator that has changed it", run=run.name)
            return False
        metrics.RUNS_FINISHED.labels(action.outcome.value, reason.value if reason else "none").inc()
        message = action.message if reason is None else f"{reason}: {action.message}"
        details: dict[str, object] = {
            "run": run.name,
            "task": run.task_id,
            "outcome": action.outcome.value,
        }
        if action.task_to is not None:
            message += f"; the task becomes {action.task_to.value}"
            details["task_status"] = (
                action.task_to.value
                if recorded is Recorded.MOVED
                else "changed by Node.js, left as it is"
            )
        event = RunEvent(RunEventType.of(action.outcome), message)
        self._launcher.record_event(
            run.name, action.observation.uid if action.observation else None, event
        )
        if reason is None:
            _LOG.info("run finished", **details)
            return True
        if run.state is RunState.CLAIMED and action.task_to is not None:
            self._log_run_closed(run, f"refused, {action.task_to}: {reason}", now)
        remedy = action.remedy or explain(reason).remedy
        _LOG.warning(
            "run finished", **details, reason=reason.value, detail=action.message, remedy=remedy
        )
        return True

    def _clear_orphans(self, orphans: list[StopOrphan | DiscardOrphan]) -> None:
        """Stop or discard runs without an unfinished row of their claim.

        The database is asked once more: a run may have been claimed after the rows were read and
        before the observation.
        """
        if not orphans:
            return
        names = [orphan.observation.name for orphan in orphans]
        ours = runs.unfinished_claims(self._database, names)
        finished = list[Observation]()
        for orphan in orphans:
            name = orphan.observation.name
            if name in ours and orphan.observation.claim_id in (None, ours[name]):
                continue
            if isinstance(orphan, DiscardOrphan):
                finished.append(orphan.observation)
            elif not orphan.observation.is_ending:
                _LOG.warning("stopping a run that has no unfinished row of its claim", run=name)
                self._ask_to_stop(orphan.observation, keep_name=True)
        self._discard(finished)
