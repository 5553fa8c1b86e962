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
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import structlog

from enrollgate.control.confinement import HELD_LIMIT, Confinement
from enrollgate.control.gate import Gate
from enrollgate.control.launching import UNFORESEEN, RunLauncher
from enrollgate.control.task_log import TaskLog
from enrollgate.database import (
    Database,
    DatabaseError,
    RowRefused,
    Tables,
    backlog,
    claims,
    runs,
    set_aside,
    tasks,
)
from enrollgate.database.runs import Recorded
from enrollgate.domain.observation import Observation, Phase
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
from enrollgate.launchers import Launcher, LauncherRefused, RunEvent, RunEventType
from enrollgate.telemetry import metrics

_LOG = structlog.get_logger(__name__)
# Runs that one pass records or stops, at most.
END_LIMIT = 1000
# Runs recorded in one transaction, at most: their rows stay locked until it commits.
RECORD_BATCH = 100
# Recorded runs discarded between two looks at whether another pass is due.
DISCARD_BATCH = 50
# Runs launched before that is recorded in the database.
LAUNCH_BATCH = 500


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
    `is_woken` returns whether another pass is due at once: then recorded runs are discarded later.
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
        is_woken: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._tables = tables
        self._launcher = launcher
        self._policy = policy
        self._installation = installation
        self._new_claim_id = new_claim_id
        self._monotonic = monotonic
        timeout, enrolled = policy.enrollment_timeout, tables.statuses.enrolled
        self._log = TaskLog(enrolled=enrolled, timeout=timeout)
        self._confinement = Confinement(self._log, progress=progress, is_stopping=is_stopping)
        self._gate = Gate(
            database,
            tables,
            policy,
            self._confinement,
            self._log,
            installation=installation,
            monotonic=monotonic,
        )
        metrics.CAPACITY.set(policy.max_concurrent_runs)
        self._run_launcher = RunLauncher(database, tables, launcher, self._confinement)
        # The other places with runs, as they were logged.
        self._elsewhere = frozenset[RunPlace]()
        self._is_woken = is_woken
        # What is left at the launcher of runs that are recorded, by name. If this is lost, a full
        # pass finds it again.
        self._left = dict[str, Observation]()
        # Whether this pass has reached its limit of ended runs.
        self._is_limited = False

    def reconcile(self, changed: Collection[str] | None = None) -> PassSummary:
        """Run one pass: a full one, or one focused on the runs that are named as changed.

        Raises DatabaseUnavailable, DatabaseMisconfigured or LauncherUnavailable: then the pass is
        aborted, and the next one does what it did not get to.
        """
        self._is_limited = False
        self._gate.begin_pass()
        with metrics.timed_pass("full" if changed is None else "focused"), self._log.one_pass():
            summary = self._full_pass() if changed is None else self._focused_pass(changed)
            self._discard_left()
            return summary

    def _full_pass(self) -> PassSummary:
        sent_before = self._database.statements
        before = self._monotonic() if self._monotonic else 0.0
        seen = backlog.load_backlog(self._database, self._tables)
        now = seen.now
        rejected = self._gate.tend(seen, self._gate.follow_clock(seen, before))
        unfinished = runs.unfinished(
            self._database, self._tables, now, installation=self._installation
        )
        self._warn_of_runs_elsewhere(unfinished)
        observed = self._observe(unfinished, only=False)
        applied = self._apply(self._plan(unfinished, observed, now), now)
        with_run = sum(run.task is TaskState.ENROLLED for run in unfinished)
        is_work_left = self._gate.enrolled > with_run or applied.finished > 0
        remaining = sum(run.state is not RunState.ENDED for run in unfinished) - applied.finished
        claimed = self._launch_claimed(now, remaining, is_work_left=is_work_left)
        is_due = seen.is_timeout_over(self._policy.enrollment_timeout)
        expired = self._gate.expire(now) if is_due else 0
        self._gate.reject(rejected, now)
        queued = max(0, self._gate.enrolled - with_run - claimed[0])
        since = backlog.queued_since(self._database, self._tables) if queued else None
        metrics.QUEUED.set(queued)
        metrics.OLDEST_QUEUED.set(max(0.0, (now - since).total_seconds()) if since else 0.0)
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

        def set_claim_aside(task_id: int, refusals: int, error: DatabaseError) -> bool:
            """Set a task aside that cannot be claimed. The others are claimed."""
            self._is_limited = True
            with self._confinement.confined(task_id):
                until = self._confinement.set_aside_until(
                    task_id, refusals, "database", str(error), now
                )
                set_aside.set_enrolled_aside(self._database, self._tables, task_id, now, until)
            return self._confinement.may_wait(error)

        claimed = claims.claim(
            self._database,
            self._tables,
            claim_id=self._new_claim_id(),
            installation=self._installation,
            place=self._launcher.place,
            limit=limit,
            unfinished=remaining,
            on_refusal=set_claim_aside,
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
            is_planned = list[bool]()
            with self._confinement.confined(run.task_id):
                found = {} if seen is None else {run.name: seen}
                actions += plan([run], found, self._policy, here)
                is_planned.append(True)
            if not is_planned and seen is None and run.state is RunState.CLAIMED:
                with self._confinement.confined(run.task_id):
                    self._run_launcher.release(run, UNFORESEEN, now)
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
            waiting=self._gate.waiting,
            enrolled=self._gate.enrolled,
            unfinished=remaining + count - launched.finished,
            launched=applied.launched + launched.launched,
            finished=applied.finished + launched.finished,
            expired=expired,
            statements=self._database.statements - sent_before,
            refused=launched.finished,
            is_limited=self._is_limited or self._gate.is_limited,
            ending=frozenset(each.name for each in observed if each.is_ending),
        )

    def _apply(self, actions: Collection[Action], now: datetime) -> _Applied:
        """Apply the actions: ends first, launches last and in batches."""
        recorded = list[Observation]()
        ends = [action for action in actions if isinstance(action, Stop | Record | Finish)]
        ends.sort(key=lambda end: isinstance(end, Finish))  # their slots are free already
        self._is_limited |= len(ends) > END_LIMIT
        together = self._record_many([end for end in ends if isinstance(end, Record)], now)
        recorded += together.values()
        alone = [end for end in ends if end.run.run_id not in together]
        left = END_LIMIT - len(together)
        for end in islice(self._confinement.reachable(alone, lambda end: end.run.task_id), left):
            with self._confinement.confined(end.run.task_id):
                if isinstance(end, Stop):
                    self._stop(end, now)
                elif isinstance(end, Finish):
                    self._finish(end, now)
                elif self._record(end, now):
                    recorded.append(_left_of(end))
        adopted = [action for action in actions if isinstance(action, Adopt)]
        metrics.RUNS_ADOPTED.inc(len(adopted))
        self._run_launcher.mark_launched(
            [(each.run, each.observation.uid, each.observation.launched_at) for each in adopted]
        )
        self._clear_orphans(
            [action for action in actions if isinstance(action, StopOrphan | DiscardOrphan)]
        )
        self._left |= {seen.name: seen for seen in recorded}
        launches = [action for action in actions if isinstance(action, Launch)]
        launched = refused = 0
        for start in range(0, len(launches), LAUNCH_BATCH):
            done = self._run_launcher.launch(launches[start : start + LAUNCH_BATCH], now)
            launched, refused = launched + done.launched, refused + done.given_up
            for run in done.taken:
                message = f"an object that is not ours is already called {run.name}"
                action = Record(
                    run, None, Outcome.FAILED, Reason.NAME_TAKEN, message, move_task=True
                )
                with self._confinement.confined(run.task_id):
                    refused += self._record(action, now)
        return _Applied(len(recorded) + refused, refused, launched)

    def _stop(self, stop: Stop, now: datetime) -> None:
        name, uid = stop.run.name, stop.observation.uid
        if stop.run.state is not RunState.STOPPING:
            try:
                with self._confinement.written(stop.run.task_id):
                    is_ours = runs.mark_stopping(self._database, self._tables, stop)
            except RowRefused as error:
                if not stop.fail_task:
                    raise
                until = self._confinement.set_aside_until(
                    stop.run.task_id, 0, "database", str(error), now
                )
                is_ours = runs.mark_stopping(self._database, self._tables, stop, until=until)
            if not is_ours:
                return
            self._log.log_run_closed(stop.run, f"stopping its run: {stop.reason}", now)
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

    def _discard_left(self) -> None:
        """Discard what is left of recorded runs, and stop if another pass is due.

        Rows and launches come first: nothing waits for this.
        """
        while batch := [self._left[name] for name in islice(self._left, DISCARD_BATCH)]:
            for each in batch:
                del self._left[each.name]
            try:
                self._launcher.discard(batch)
            except LauncherRefused as error:
                # They are observed again, and discarded then.
                _LOG.warning(
                    "recorded runs could not be discarded; the next pass tries again",
                    error=str(error),
                )
            if self._is_woken():
                return

    def _record_many(self, records: list[Record], now: datetime) -> dict[int, Observation]:
        """Finish runs in few transactions, and announce them.

        Return what is left of them at the launcher, by run id. A batch in which one run is held,
        refused or not as it was read is left out as a whole: its runs are recorded one by one. So
        are those that were never launched, and those whose rows were held last time.
        """
        done = dict[int, Observation]()
        plain = [
            each
            for each in records
            if each.run.state is not RunState.CLAIMED
            and not self._confinement.is_held(each.run.task_id)
        ][:END_LIMIT]
        failed = 0
        for start in range(0, len(plain), RECORD_BATCH):
            batch = plain[start : start + RECORD_BATCH]
            if len(batch) < 2 or failed == HELD_LIMIT or self._confinement.is_stopping():
                break
            results = list[Recorded]()
            with self._confinement.confined(None):
                results = runs.record_all(self._database, self._tables, batch) or results
            failed += not results
            for action, recorded in zip(batch, results, strict=False):
                done[action.run.run_id] = _left_of(action)
                with self._confinement.confined(action.run.task_id):
                    self._announce(action, recorded, now)
        return done

    def _record(self, action: Record, now: datetime) -> bool:
        """Finish a run and announce it.

        Return False if another operator has changed the run: it is that one's to record.
        """
        run = action.run
        try:
            with self._confinement.written(run.task_id):
                recorded = runs.record(self._database, self._tables, action)
        except RowRefused as error:
            if action.task_to is None:
                raise
            until = self._confinement.set_aside_until(
                run.task_id, run.refusals or run.launch_refusals, "database", str(error), now
            )
            try:
                recorded = runs.record(self._database, self._tables, action, until=until)
            except RowRefused:
                # Our own row of the run cannot be written. What the launcher has stays there, and
                # the slot is free until it is tried again.
                set_aside.set_enrolled_aside(self._database, self._tables, run.task_id, now, until)
                return False
        if recorded is Recorded.OVERTAKEN:
            _LOG.debug("a run is left to the operator that has changed it", run=run.name)
            return False
        self._announce(action, recorded, now)
        return True

    def _announce(self, action: Record, recorded: Recorded, now: datetime) -> None:
        """Count a finished run, and show its end in the log and at the launcher."""
        run, reason = action.run, action.reason
        metrics.RUNS_FINISHED.labels(action.outcome.value, reason.value if reason else "none").inc()
        seen = action.observation
        if seen is not None and seen.started_at is not None and seen.finished_at is not None:
            duration = (seen.finished_at - seen.started_at).total_seconds()
            metrics.RUN_DURATION.labels(action.outcome.value).observe(max(0.0, duration))
        if action.report is not None:
            metrics.DELIVERED_BYTES.inc(action.report.bytes_delivered)
            metrics.DELIVERED_ITEMS.inc(action.report.items_delivered)
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
            return
        if run.state is RunState.CLAIMED and action.task_to is not None:
            self._log.log_run_closed(run, f"refused, {action.task_to}: {reason}", now)
        remedy = action.remedy or explain(reason).remedy
        _LOG.warning(
            "run finished", **details, reason=reason.value, detail=action.message, remedy=remedy
        )

    def _finish(self, action: Finish, now: datetime) -> None:
        """Try again to move the task of a run that has ended."""
        run = action.run
        try:
            with self._confinement.written(run.task_id):
                recorded = runs.finish(self._database, self._tables, action)
        except RowRefused as error:
            until = self._confinement.set_aside_until(
                run.task_id, run.refusals, "database", str(error), now
            )
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
        for orphan in orphans:
            name = orphan.observation.name
            claim_id, has_ended = claims.get(name, ("", True))
            is_of_row = name in claims and orphan.observation.claim_id in (None, claim_id)
            if is_of_row and not has_ended:
                continue
            if isinstance(orphan, DiscardOrphan):
                self._left[name] = orphan.observation
            elif not orphan.observation.is_ending:
                _LOG.warning("stopping a run that has no unfinished row of its claim", run=name)
                # The name of a run that is recorded as ended is never claimed again. Any other
                # must stay taken until the orphan's processes are gone.
                self._ask_to_stop(orphan.observation, keep_name=not is_of_row)


def _left_of(action: Record) -> Observation:
    """Return what is left of a recorded run at the launcher.

    A lost run may have left files behind, though nothing of it was observed.
    """
    return action.observation or Observation(action.run.name, Phase.FAILED)
