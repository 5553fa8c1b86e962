"""One pass: observe, plan, apply. Every pass starts from the rows and the runs as they are.

    gate      backlog -> track new tasks, record status changes, untrack finished tasks
    runs      unfinished rows -> the launcher's observations -> plan -> apply
    launches  claim runs for the free slots -> plan -> check that each task is still enrolled
              -> launch
    failures  fail the tasks whose enrollment timed out or whose status became unknown

That is a *full* pass. When the launcher names the runs that have changed, a *focused* pass looks at
those alone and then fills the slots they leave: its cost follows the change, however many runs
there are.

Each part handles a limited number of tasks, so that a flood at the gate delays no run; the next
pass follows at once. What goes wrong with one task is confined to it (`_confined`): if the database
or the launcher refuses it, it is set aside and tried again after a growing pause.

A pass may be interrupted anywhere, at any time, by anything: the next one continues from what it
finds. A run exists in the database before it exists at the launcher, and its name follows from its
task and run number, so creating it again creates nothing new. Between passes only hints are kept:
which unknown statuses, errors and other places were warned about, and whose rows were held.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

import structlog

from enrollgate.common.redaction import redact
from enrollgate.database import (
    Database,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    RowHeld,
    RowRefused,
    Tables,
    backlog,
    runs,
    tasks,
)
from enrollgate.database.backlog import Backlog
from enrollgate.database.runs import Recorded, SetAside
from enrollgate.domain.clock import SMALLEST_STEP, ClockReading
from enrollgate.domain.gate import (
    closed_line,
    open_line,
    timeout_message,
    unlisted_line,
    waiting_line,
)
from enrollgate.domain.observation import LaunchOutcome, LaunchResult, Observation, Phase
from enrollgate.domain.planner import (
    Action,
    Adopt,
    DiscardOrphan,
    Finish,
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
from enrollgate.launchers import (
    Launcher,
    LauncherRefused,
    LauncherUnavailable,
    RunEvent,
    RunEventType,
)
from enrollgate.telemetry import metrics

_T = TypeVar("_T")
_LOG = structlog.get_logger(__name__)
# Rows held by other transactions that each part of a pass waits for, before it continues without
# the rest.
HELD_LIMIT = 3
# Runs that one pass records or stops, at most.
END_LIMIT = 1000
# Runs launched before that is recorded in the database.
LAUNCH_BATCH = 500
# Runs launched between two checks of whether their tasks are still enrolled.
CHECK_BATCH = 50
# Lines about single tasks that one pass logs; the rest is summed up in one line.
LINE_LIMIT = 200
# Seconds for which a task is set aside after its first refusal; they double up to the limit.
SET_ASIDE = 10.0
LONGEST_SET_ASIDE = 600.0
# Errors of single tasks that are announced in the log, at most; the others are counted.
_ANNOUNCED_LIMIT = 1000
_UNFORESEEN = (
    "an unexpected error of Enrollgate: report it, with the traceback in the operator's log"
)


@dataclass(frozen=True, slots=True)
class PassSummary:
    """What one pass saw and did, for logs and metrics.

    `unfinished` is the number of unfinished runs at the end, `statements` the number of SQL
    statements sent. `refused` runs were claimed in this pass and given up without being launched:
    their slots are free again. `is_limited` says that a part of the pass reached its limit.
    `ending` names the runs to observe again soon, because no event announces their end.
    """

    waiting: int
    enrolled: int
    unfinished: int
    launched: int
    finished: int
    expired: int
    statements: int
    refused: int = 0
    is_limited: bool = False
    ending: frozenset[str] = frozenset()

    @property
    def more(self) -> bool:
        """Return whether the next pass should follow at once: tasks or free slots are left."""
        return self.is_limited or self.expired >= tasks.EXPIRY_LIMIT or self.refused > 0


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
    `is_stopping` returns whether the operator is about to end: then a pass begins no further task.
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
        is_stopping: Callable[[], bool] = lambda: False,
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
        self._is_stopping = is_stopping
        self._warned = set[str | None]()
        self._warned_of_ids = False
        # The tasks whose rows were held when they were last tried: the others come first.
        self._held = set[int | None]()
        # Rows that this part of the pass has waited for without getting them.
        self._waits = 0
        # The other places with runs, as they were logged.
        self._elsewhere = frozenset[RunPlace]()
        # Errors of single tasks that were announced in the log: task and type.
        self._announced = set[tuple[int | None, str]]()
        # Lines about single tasks that this pass has logged, and has not logged, by kind.
        self._lines = 0
        self._unlisted = Counter[str]()
        # Whether a part of this pass has reached its limit.
        self._is_limited = False
        # Tasks with a run that this pass has seen finished or deleted at the gate.
        self._left = dict[int, TaskState]()
        # Of the last full pass: for the numbers in summaries only.
        self._waiting = self._enrolled = 0

    def reconcile(self, changed: Collection[str] | None = None) -> PassSummary:
        """Run one pass: a full one, or one focused on the runs that are named as changed.

        Raises DatabaseUnavailable, DatabaseMisconfigured or LauncherUnavailable: then the pass is
        aborted, and the next one does what it did not get to.
        """
        self._lines, self._is_limited = 0, False
        self._left.clear()
        with metrics.timed_pass():
            try:
                return self._full_pass() if changed is None else self._focused_pass(changed)
            finally:
                if self._unlisted:
                    _LOG.warning(unlisted_line(self._unlisted))
                    self._unlisted.clear()

    def _full_pass(self) -> PassSummary:
        sent_before = self._database.statements
        before = self._monotonic() if self._monotonic else 0.0
        seen = backlog.load_backlog(self._database, self._tables)
        now = seen.now
        rejected = self._tend_gate(seen, self._follow_clock(seen, before))
        unfinished = runs.unfinished(
            self._database, self._tables, now, installation=self._installation
        )
        self._warn_of_runs_elsewhere(unfinished)
        observed = self._observe(unfinished, only=False)
        applied = self._apply(self._plan(unfinished, observed, now), now)
        with_run = sum(run.task is TaskState.ENROLLED for run in unfinished)
        is_work_left = self._enrolled > with_run or applied.finished > 0
        remaining = sum(run.state is not RunState.ENDED for run in unfinished) - applied.finished
        claimed = self._launch_claimed(now, remaining, is_work_left=is_work_left)
        is_due = seen.is_timeout_over(self._policy.enrollment_timeout)
        expired = self._expire(now) if is_due else 0
        self._reject(rejected, now)
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
            self._database, self._tables, now, installation=self._installation, names=changed
        )
        observed = self._observe(unfinished, only=True)
        applied = self._apply(self._plan(unfinished, observed, now), now)
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
        return len(claimed), self._apply(self._plan(claimed, {}, now), now)

    def _observe(
        self, unfinished: Iterable[UnfinishedRun], *, only: bool
    ) -> Mapping[str, Observation]:
        """Observe the runs that are here."""
        here = self._launcher.place
        expected = [run.name for run in unfinished if here.can_observe(run.place)]
        return self._launcher.observe(expected, only=only)

    def _plan(
        self,
        unfinished: Iterable[UnfinishedRun],
        observed: Mapping[str, Observation],
        now: datetime,
    ) -> list[Action]:
        """Plan run by run, so that an error in one keeps no other from its action."""
        actions, orphans, here = list[Action](), dict(observed), self._launcher.place
        for run in unfinished:
            seen = orphans.pop(run.name, None)
            if run.task is TaskState.ENROLLED and run.task_id in self._left:
                # Node.js set the task back meanwhile: a fresh start, with a new run.
                run = replace(run, task=self._left[run.task_id])  # noqa: PLW2901 -- as it was seen
            is_planned = list[bool]()
            with self._confined(run.task_id):
                found = {} if seen is None else {run.name: seen}
                actions += plan([run], found, self._policy, here)
                is_planned.append(True)
            if not is_planned and seen is None and run.state is RunState.CLAIMED:
                with self._confined(run.task_id):
                    self._release(run, _UNFORESEEN, now)
        return actions + list(plan([], orphans, self._policy, here))

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
            is_limited=self._is_limited,
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
        return reading.corrected

    def _tend_gate(self, seen: Backlog, clock_steps: int) -> list[tasks.LeftTask]:
        """Track what is at the gate. Return the tasks to fail: their status became unknown."""
        now, statuses = seen.now, self._tables.statuses
        self._waiting = seen.count(*statuses.waiting)
        self._enrolled = seen.count(statuses.enrolled)
        self._warn_of_unknown_statuses(seen.unknown_statuses.items())
        metrics.TASKS.labels("unknown").set(seen.unknown)
        if seen.without_key and not self._warned_of_ids:
            self._warned_of_ids = True
            problem = "rows whose id is no whole number from 0 on are left alone; give them one"
            _LOG.warning(problem, rows=seen.without_key)
        metrics.TASKS_SET_ASIDE.set(seen.set_aside)
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
                clock_steps=clock_steps,
                on_refusal=self._note_statement_refused,
            )
            for task in found:
                self._log_decision(task.task_id, task.status, 0.0)
            self._is_limited |= sum(new.values()) > tasks.GATE_LIMIT
        if seen.changed:
            changes = tasks.record_changes(
                self._database,
                self._tables,
                now,
                clock_steps=clock_steps,
                on_refusal=self._note_statement_refused,
            )
            for change in changes:
                is_fresh = change.was not in statuses.waiting
                elapsed = 0.0 if is_fresh else (now - change.since).total_seconds()
                self._log_decision(change.task_id, change.status, elapsed)
            self._is_limited |= seen.changed > tasks.GATE_LIMIT
        return self._untrack_left(now) if seen.left else []

    def _untrack_left(self, now: datetime) -> list[tasks.LeftTask]:
        """Stop tracking finished and deleted tasks. Return those whose status became unknown."""
        untracked, unknown = 0, list[tasks.LeftTask]()
        for left in tasks.left_gate(self._database, self._tables, now):
            known = [task for task in left if task.state is not TaskState.UNKNOWN]
            for task in tasks.untrack(self._database, known, self._note_statement_refused):
                why = "row deleted" if task.state is TaskState.MISSING else task.state.value
                elapsed = (now - task.since).total_seconds()
                self._log_closed(task.task_id, task.status or task.was, f"over: {why}", elapsed)
            self._left |= {task.task_id: task.state for task in known if task.has_run}
            untracked += len(known)
            # What happens to a task with a run is decided together with that run.
            unknown += (t for t in left if t.state is TaskState.UNKNOWN and not t.has_run)
            self._progress()
            if max(untracked, len(unknown)) >= tasks.GATE_LIMIT or self._is_stopping():
                self._is_limited = True
                break
        return unknown

    def _expire(self, now: datetime) -> int:
        """Fail the tasks whose enrollment timeout is over. Return how many were failed."""
        limit = self._policy.enrollment_timeout
        message = timeout_message(limit)
        expired = refused = 0
        due = tasks.due(self._database, self._tables, now, limit)
        for task in self._reachable(due, lambda task: task.task_id):
            with self._confined(task.task_id):
                try:
                    is_failed = tasks.expire(
                        self._database,
                        self._tables,
                        task,
                        now,
                        installation=self._installation,
                        message=message,
                    )
                except RowRefused as error:
                    self._set_aside(task, error, now)
                    refused += 1
                    continue
                if is_failed:
                    expired += 1
                    metrics.TASKS_EXPIRED.inc()
                    elapsed = (now - task.since).total_seconds()
                    self._log_closed(task.task_id, task.status, f"{message}, failed", elapsed)
        self._is_limited |= expired + refused >= tasks.EXPIRY_LIMIT
        return expired

    def _reject(self, unknown: list[tasks.LeftTask], now: datetime) -> None:
        """Fail the tasks whose status became an unknown one, EXPIRY_LIMIT of them at most."""
        tried = 0
        for task in self._reachable(unknown, lambda task: task.task_id):
            if tried == tasks.EXPIRY_LIMIT:
                self._is_limited = True
                return
            tried += 1
            with self._confined(task.task_id):
                try:
                    is_failed = tasks.reject(
                        self._database, self._tables, task, now, installation=self._installation
                    )
                except RowRefused as error:
                    self._set_aside(task, error, now)
                    continue
                if is_failed:
                    why = f"rejected, failed: {Reason.UNEXPECTED_STATUS}"
                    elapsed = (now - task.since).total_seconds()
                    self._log_closed(task.task_id, str(task.status), why, elapsed)

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
        is_open = status == self._tables.statuses.enrolled
        if self._may_log("enrolled, gate open" if is_open else "waiting"):
            line = open_line if is_open else waiting_line
            _LOG.info(line(task_id, status, elapsed, self._policy.enrollment_timeout))

    def _log_closed(self, task_id: int, status: str, why: str, elapsed: float) -> None:
        if self._may_log(why):
            timeout = self._policy.enrollment_timeout
            _LOG.warning(closed_line(task_id, status, why, elapsed, timeout))

    def _log_run_closed(self, run: UnfinishedRun, why: str, now: datetime) -> None:
        if run.since is not None:  # else the gate has logged it already
            elapsed = (now - run.since).total_seconds()
            self._log_closed(run.task_id, run.task_status or run.task.value, why, elapsed)

    def _may_log(self, kind: str) -> bool:
        """Return whether this pass may log another line about one task; else count it."""
        self._lines += 1
        if self._lines > LINE_LIMIT:
            self._unlisted[kind] += 1
        return self._lines <= LINE_LIMIT

    # what goes wrong with one task

    @contextmanager
    def _confined(self, task_id: int | None) -> Iterator[None]:
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
            self._note_statement_refused(task_id, error)
        except (DatabaseUnavailable, DatabaseMisconfigured, LauncherUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 -- one task must not stop the others
            self._held.add(task_id)
            metrics.UNEXPECTED_ERRORS.inc()
            is_new = self._is_new(task_id, error)
            if self._may_log("failed with an unexpected error"):
                _LOG.error(
                    "an unexpected error in the handling of one task; the others go on. "
                    "Please report it, with this traceback",
                    task=task_id,
                    error=type(error).__name__,
                    exc_info=error if is_new else None,
                )
        self._progress()

    def _note_statement_refused(self, task_id: int | None, error: RowRefused) -> None:
        """Log once that a statement about a task was refused; the next pass tries it again."""
        self._held.add(task_id)
        metrics.REFUSALS.labels("database").inc()
        if self._is_new(task_id, error) and self._may_log("refused by the database"):
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

    def _set_aside(
        self, task: tasks.TrackedTask | tasks.LeftTask, error: RowRefused, now: datetime
    ) -> None:
        """Set a task aside that the database refuses to fail."""
        until = self._until(task.task_id, task.refusals, "database", str(error), now)
        tasks.set_aside(self._database, task.task_id, until)

    def _release(self, run: UnfinishedRun, why: str, now: datetime) -> bool:
        """Give up a claimed run that cannot be launched now, and set its task aside.

        Return False if another operator has changed the run.
        """
        until = self._until(run.task_id, run.launch_refusals, "launcher", why, now)
        return runs.release(self._database, self._tables, run, now, until)

    def _until(self, task_id: int, refusals: int, by: str, why: str, now: datetime) -> SetAside:
        """Announce that a task is set aside, in the log once, and return until when."""
        pause = min(LONGEST_SET_ASIDE, SET_ASIDE * 2.0 ** min(refusals, 10))
        metrics.REFUSALS.labels(by).inc()
        if self._may_log(f"set aside, refused by the {by}"):
            log = _LOG.debug if refusals else _LOG.warning
            log(
                f"the {by} refuses a task; it is set aside and tried again, the others go on",
                task=task_id,
                error=why,
                pause_seconds=pause,
            )
        return SetAside(why, now + timedelta(seconds=pause))

    def _reachable(self, each: Iterable[_T], task_of: Callable[[_T], int]) -> Iterator[_T]:
        """Yield the items whose rows were free last time, then the others.

        Stop after HELD_LIMIT rows that are held, and before the operator ends.
        """
        self._waits = 0
        for one in sorted(each, key=lambda one: task_of(one) in self._held):
            if self._waits >= HELD_LIMIT or self._is_stopping():
                return
            self._held.discard(task_of(one))  # whoever handles it puts it back
            yield one

    # the runs

    def _apply(self, actions: Collection[Action], now: datetime) -> _Applied:
        """Apply the actions: ends first, launches last and in batches."""
        recorded = list[Observation]()
        ends = [action for action in actions if isinstance(action, Stop | Record | Finish)]
        ends.sort(key=lambda end: isinstance(end, Finish))  # their slots are free already
        self._is_limited |= len(ends) > END_LIMIT
        for end in islice(self._reachable(ends, lambda end: end.run.task_id), END_LIMIT):
            with self._confined(end.run.task_id):
                if isinstance(end, Stop):
                    self._stop(end, now)
                elif isinstance(end, Finish):
                    self._finish(end, now)
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

        Return how many were launched, and how many were given up.
        """
        results = self._ask_to_launch(launches)
        taken = [
            launch.run for launch, result in results if result.outcome is LaunchOutcome.NAME_TAKEN
        ]
        refused = [
            (launch.run, result.refusal)
            for launch, result in results
            if result.outcome is LaunchOutcome.REFUSED
        ]
        exists = (LaunchOutcome.LAUNCHED, LaunchOutcome.ADOPTED)
        launched = self._mark_launched(
            [
                (launch.run, result.uid, result.launched_at)
                for launch, result in results
                if result.outcome in exists
            ]
        )
        given_up = 0
        for run, why in refused:
            with self._confined(run.task_id):
                given_up += self._release(run, why, now)
        for run in taken:
            message = f"an object that is not ours is already called {run.name}"
            action = Record(run, None, Outcome.FAILED, Reason.NAME_TAKEN, message, move_task=True)
            with self._confined(run.task_id):
                given_up += self._record(action, now)
        return launched, given_up

    def _ask_to_launch(self, launches: list[Launch]) -> list[tuple[Launch, LaunchResult]]:
        """Ask the launcher for all at once; after an unforeseen error, for each alone."""
        results = [
            (each, LaunchResult(LaunchOutcome.REFUSED, refusal=_UNFORESEEN)) for each in launches
        ]
        unforeseen = results
        with self._confined(None):
            results = list(self._launcher.launch(self._still_enrolled(launches)))
        if results is not unforeseen or len(launches) < 2:
            return results
        results = []
        for launch, refusal in unforeseen:
            alone = [(launch, refusal)]
            with self._confined(launch.run.task_id):
                alone = list(self._launcher.launch(self._still_enrolled([launch])))
            results += alone
        return results

    def _still_enrolled(self, launches: list[Launch]) -> Iterator[Launch]:
        """Yield the launches whose tasks are enrolled at the moment when they are asked for."""
        for start in range(0, len(launches), CHECK_BATCH):
            if self._is_stopping():
                return
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
        if set_aside := [run.task_id for run, *_ in existing if run.launch_refusals]:
            tasks.end_set_aside(self._database, set_aside)
        return len(new)

    def _stop(self, stop: Stop, now: datetime) -> None:
        name, uid = stop.run.name, stop.observation.uid
        if stop.run.state is not RunState.STOPPING:
            try:
                is_ours = runs.mark_stopping(self._database, self._tables, stop)
            except RowRefused as error:
                if not stop.fail_task:
                    raise
                until = self._until(stop.run.task_id, 0, "database", str(error), now)
                is_ours = runs.mark_stopping(self._database, self._tables, stop, until=until)
            if not is_ours:
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
        try:
            recorded = runs.record(self._database, self._tables, action)
        except RowRefused as error:
            if action.task_to is None:
                raise
            until = self._until(run.task_id, run.refusals, "database", str(error), now)
            recorded = runs.record(self._database, self._tables, action, until=until)
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
            details["task_status"] = {
                Recorded.MOVED: action.task_to.value,
                Recorded.SET_ASIDE: "refused by the database, to be tried again",
            }.get(recorded, "changed by Node.js, left as it is")
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

    def _finish(self, action: Finish, now: datetime) -> None:
        """Try again to move the task of a run that has ended."""
        run = action.run
        try:
            recorded = runs.finish(self._database, self._tables, action)
        except RowRefused as error:
            until = self._until(run.task_id, run.refusals, "database", str(error), now)
            recorded = runs.finish(self._database, self._tables, action, until=until)
        if recorded in (Recorded.MOVED, Recorded.LEFT):
            status = str(action.task_to) if recorded is Recorded.MOVED else "left as it is"
            _LOG.info("a task is not set aside any more", task=run.task_id, task_status=status)

    def _clear_orphans(self, orphans: list[StopOrphan | DiscardOrphan]) -> None:
        """Stop or discard runs without an unfinished row of their claim.

        The database is asked once more: a run may have been claimed after the rows were read and
        before the observation.
        """
        if not orphans:
            return
        names = [orphan.observation.name for orphan in orphans]
        claims = runs.claims(self._database, names, installation=self._installation)
        finished = list[Observation]()
        for orphan in orphans:
            name = orphan.observation.name
            claim_id, has_ended = claims.get(name, ("", True))
            is_of_row = name in claims and orphan.observation.claim_id in (None, claim_id)
            if is_of_row and not has_ended:
                continue
            if isinstance(orphan, DiscardOrphan):
                finished.append(orphan.observation)
            elif not orphan.observation.is_ending:
                _LOG.warning("stopping a run that has no unfinished row of its claim", run=name)
                # The name of a run that is recorded as ended is never claimed again. Any other
                # must stay taken until the orphan's processes are gone.
                self._ask_to_stop(orphan.observation, keep_name=not is_of_row)
        self._discard(finished)
