"""One pass: observe, plan, apply. Every pass starts from the rows and the runs as they are.

    gate      backlog -> track new tasks, record status changes, untrack finished tasks
    runs      unfinished rows -> the launcher's observations -> plan -> apply
    launches  as below
    failures  fail the tasks whose enrollment timed out or whose status became unknown

That is a *full* pass. Reading the backlog changes nothing and takes the longest; it may be done in
another thread. When the launcher names the runs that have changed, a *focused* pass looks at those
alone: its cost follows the change, however many runs there are. Between passes, a *look* asks only
what the gate is open for, by one statement, and launches that:

    launches  look -> claim runs for the free slots -> read them -> plan -> launch

Each part handles a limited number of tasks, so that a flood at the gate delays no run; the next
pass follows at once. What goes wrong with one task is confined to it (`_confined`): if the database
or the launcher refuses it, it is set aside and tried again after a growing pause.

A pass may be interrupted anywhere, at any time, by anything: the next one continues from what it
finds. A run exists in the database before it exists at the launcher, and its name follows from its
task and run number, so creating it again creates nothing new. Between passes only hints are kept:
which unknown statuses, errors and other places were warned about, and whose rows were held.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import chain, islice

import structlog

from enrollgate.control.claiming import LAUNCH_BATCH, Claimer
from enrollgate.control.confinement import HELD_LIMIT, Confinement
from enrollgate.control.gate import Gate
from enrollgate.control.holding import Holding
from enrollgate.control.launching import UNFORESEEN, RunLauncher
from enrollgate.control.task_log import TaskLog
from enrollgate.database import Database, RowRefused, Tables, runs, set_aside, tasks
from enrollgate.database.backlog import Backlog, load_backlog, queued_since
from enrollgate.database.runs import Recorded
from enrollgate.domain.observation import Observation, Phase
from enrollgate.domain.planner import (
    Action,
    Adopt,
    DiscardOrphan,
    Explain,
    Finish,
    Launch,
    Record,
    Stop,
    StopOrphan,
    is_settled,
    plan,
)
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import START_FAILURES, explain
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


@dataclass(frozen=True, slots=True)
class PassSummary:
    """What one pass saw and did, for logs and metrics.

    `unfinished` is the number of unfinished runs at the end, `statements` the number of SQL
    statements sent. `refused` runs were claimed in this pass and given up without being launched:
    their slots are free again. `free` slots are left for further runs. `cost` is the seconds that
    a look at the gate took in the database, `seconds` those that a pass took. `is_limited` says
    that a part of the pass reached its limit.
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
    free: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    is_limited: bool = False
    ending: frozenset[str] = frozenset()

    @property
    def more(self) -> bool:
        """Return whether the next pass should follow at once: tasks or free slots are left."""
        return self.is_limited or self.expired >= tasks.EXPIRY_LIMIT or self.refused > 0


@dataclass(frozen=True, slots=True)
class _Applied:
    """How many runs were finished and launched.

    `refused` counts the finished ones that were to be launched.
    """

    finished: int
    refused: int
    launched: int

    def __add__(self, other: "_Applied") -> "_Applied":
        return _Applied(
            self.finished + other.finished,
            self.refused + other.refused,
            self.launched + other.launched,
        )


_NOTHING = _Applied(0, 0, 0)


class Reconciler:
    """Brings runs and tasks in line with each other, one `reconcile` at a time.

    `progress` is called after each task, so that a long pass is not mistaken for a dead one.
    `new_claim_id` returns at most 32 letters and digits, other ones each time.
    `monotonic` returns seconds of a clock that nobody sets: with it, a step of the database's clock
    is noticed, and the waiting tasks wait as long as they would have without.
    `is_stopping` returns whether the operator is about to end: then a pass begins no further task.
    `is_woken` returns whether another pass is due at once: then recorded runs are discarded later.
    `cookies_sha256` is as in `Holding`.
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
        cookies_sha256: Callable[[str], str | None] = lambda _account: None,
    ) -> None:
        self._database = database
        self._tables = tables
        self._launcher = launcher
        self._policy = policy
        self._installation = installation
        self._monotonic = monotonic
        timeout, enrolled = policy.enrollment_timeout, tables.statuses.enrolled
        self._log = TaskLog(enrolled=enrolled, timeout=timeout)
        self._confinement = Confinement(self._log, progress=progress, is_stopping=is_stopping)
        parts = (database, tables, policy, self._confinement, self._log)
        self._gate = Gate(*parts, installation=installation, monotonic=monotonic)
        self._holding = Holding(
            *parts,
            installation=installation,
            cookies_sha256=cookies_sha256,
            announce=launcher.record_hold,
        )
        self._claimer = Claimer(
            *parts,
            gate=self._gate,
            holding=self._holding,
            installation=installation,
            place=lambda: launcher.place,
            new_claim_id=new_claim_id,
        )
        metrics.CAPACITY.set(policy.max_concurrent_runs)
        self._run_launcher = RunLauncher(
            database, tables, launcher, self._confinement, timeout=policy.launch_timeout
        )
        # The other places with runs, as they were logged.
        self._elsewhere = frozenset[RunPlace]()
        self._is_woken = is_woken
        # What is left at the launcher of runs that are recorded, by name. If this is lost, a full
        # pass finds it again.
        self._left = dict[str, Observation]()
        # Whether this pass has reached a limit of its runs.
        self._is_limited = False
        # The version of SQLite's data when the gate was last looked at.
        self._looked_at: int | None = None

    def reconcile(self, changed: Collection[str] | None = None) -> PassSummary:
        """Run one pass: a full one, or one focused on the runs that are named as changed.

        Raises DatabaseUnavailable, DatabaseMisconfigured or LauncherUnavailable: then the pass is
        aborted, and the next one does what it did not get to.
        """
        if changed is None:
            return self.begin_full_pass()()
        return self._timed("focused", partial(self._focused_pass, changed))

    def begin_full_pass(self) -> Callable[[], PassSummary]:
        """Read the backlog, in any thread. Return the rest of a full pass, to be made once.

        Both raise as `reconcile` does.
        """
        begin = time.monotonic()
        before = self._monotonic() if self._monotonic else 0.0
        seen = load_backlog(self._database, self._tables, installation=self._installation)
        after = self._monotonic() if self._monotonic else 0.0
        rest = partial(self._full_pass, seen, before, after)
        return partial(self._timed, "full", rest, time.monotonic() - begin)

    def _timed(
        self, kind: str, make_pass: Callable[[], PassSummary], seconds: float = 0.0
    ) -> PassSummary:
        """Make a pass that has taken so long already, and measure it. An aborted one does not
        count: it mostly waited.
        """
        begin = time.monotonic()
        self._is_limited = False
        with self._log.one_pass():
            summary = make_pass()
            self._discard_left()
        seconds += time.monotonic() - begin
        metrics.RECONCILE_DURATION.labels(kind).observe(seconds)
        return replace(summary, seconds=seconds)

    def _full_pass(self, seen: Backlog, before: float, after: float) -> PassSummary:
        sent_before = self._database.statements - 1  # by which the backlog was read
        self._gate.begin_pass()
        now = seen.now
        self._gate.follow_clock(seen, before, after)
        rejected = self._gate.tend(seen)
        self._is_limited |= self._holding.tend(seen, now)
        self._claimer.drop_shortlist()
        unfinished = runs.unfinished(
            self._database, self._tables, now, installation=self._installation
        )
        self._warn_of_runs_elsewhere(unfinished)
        observed = self._observe(unfinished, only=False)
        applied = self._apply(self._plan(unfinished, observed, now), now)
        with_run = sum(run.task is TaskState.ENROLLED for run in unfinished)
        is_work_left = self._gate.enrolled > with_run or applied.finished > 0
        remaining = sum(run.state is not RunState.ENDED for run in unfinished) - applied.finished
        self._claimer.unfinished = remaining
        filled = _NOTHING
        while is_work_left and not filled.refused:
            before_batch = filled
            filled += self._fill_slots()
            is_work_left = filled.launched - before_batch.launched >= LAUNCH_BATCH
        is_due = seen.is_timeout_over(self._policy.enrollment_timeout)
        expired = self._gate.expire(now) if is_due else 0
        self._gate.reject(rejected, now)
        claimed = (self._claimer.unfinished or 0) + filled.finished - remaining
        queued = max(0, self._gate.enrolled - with_run - claimed - seen.held)
        since = queued_since(self._database, self._tables) if queued else None
        metrics.QUEUED.set(queued)
        metrics.HELD.set(seen.held)
        metrics.OLDEST_QUEUED.set(max(0.0, (now - since).total_seconds()) if since else 0.0)
        self._is_limited |= self._gate.is_limited
        return self._summarize(
            sent_before, applied, filled, observed=observed.values(), expired=expired
        )

    def _focused_pass(self, changed: Collection[str]) -> PassSummary:
        sent_before = self._database.statements
        now = self._database.now(on_primary=True)
        unfinished = runs.unfinished(
            self._database, self._tables, now, installation=self._installation, names=changed
        )
        observed = self._observe(unfinished, only=True)
        applied = self._apply(self._plan(unfinished, observed, now), now)
        if applied.finished or self._claimer.unfinished is None:
            self._claimer.unfinished = runs.count_unfinished(
                self._database, installation=self._installation
            )
        return self._summarize(sent_before, applied, observed=observed.values())

    def look(self) -> PassSummary:
        """Look at the gate, and launch what it is open for, LAUNCH_BATCH runs at most.

        If no slot is free, nothing is looked at. SQLite is looked at only after a commit. Raises
        as `reconcile` does.
        """
        sent_before = self._database.statements
        self._is_limited = False
        if self._claimer.free <= 0:
            return self._summarize(sent_before)
        version = self._database.data_version()
        if version is not None and version == self._looked_at and not self._claimer.has_shortlist:
            return self._summarize(sent_before)
        with self._log.one_pass():
            filled = self._fill_slots(is_likely=False)
        metrics.LOOK_DURATION.observe(self._claimer.cost)
        self._looked_at = version
        return self._summarize(sent_before, filled=filled, cost=self._claimer.cost)

    def _fill_slots(self, *, is_likely: bool = True) -> _Applied:
        """Claim and launch runs for the free slots, LAUNCH_BATCH at most.

        The first ones are launched while the next ones are claimed.
        """
        batches = self._claimer.claim(is_likely=is_likely)
        first = next(batches, None)
        if first is None:
            return _NOTHING
        rejected = list[Action]()

        def launches() -> Iterator[Launch]:
            for batch in chain([first], batches):
                for run in self._claimer.read(batch):
                    with self._confinement.confined(run.task_id):
                        # It is created, or adopted if another operator has created it meanwhile:
                        # the plan needs no observation of it.
                        for action in plan([run], {}, self._policy, self._launcher.place):
                            if isinstance(action, Launch):
                                yield action
                            else:
                                rejected.append(action)

        launched = self._launch(launches(), first.now)
        applied = launched + self._apply(rejected, first.now)
        self._claimer.unfinished = (self._claimer.unfinished or 0) - applied.finished
        self._is_limited |= self._claimer.is_limited
        return applied

    def _launch(self, launches: Iterable[Launch], now: datetime) -> _Applied:
        done = self._run_launcher.launch(launches, now)
        given_up = done.given_up
        for run, why in done.failed:
            action = Record(
                run, None, Outcome.FAILED, why.reason, why.message, why.remedy, move_task=True
            )
            with self._confinement.confined(run.task_id):
                given_up += self._record(action, now)
        return _Applied(given_up, given_up, done.launched)

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
            if is_settled(run, seen):
                continue
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
                "runs elsewhere are waited for, since only an operator there can observe them",
                place=place.seen_from(here),
                runs=elsewhere[place],
                remedy=f"if that place is gone for good: `enrollgate mark-lost {place.id}`",
            )
        self._elsewhere = frozenset(elsewhere)

    def _summarize(
        self,
        sent_before: int,
        applied: _Applied = _NOTHING,
        filled: _Applied = _NOTHING,
        *,
        observed: Iterable[Observation] = (),
        expired: int = 0,
        cost: float = 0.0,
    ) -> PassSummary:
        unfinished = self._claimer.unfinished or 0
        done = applied + filled
        return PassSummary(
            waiting=self._gate.waiting,
            enrolled=self._gate.enrolled,
            unfinished=unfinished,
            launched=done.launched,
            finished=done.finished,
            expired=expired,
            statements=self._database.statements - sent_before,
            refused=filled.finished,
            free=self._claimer.free,
            cost=cost,
            is_limited=self._is_limited,
            # The end of a pod whose node is lost may be far away: full passes look for it.
            ending=frozenset(
                each.name for each in observed if each.is_ending and each.report is None
            ),
        )

    def _apply(self, actions: Collection[Action], now: datetime) -> _Applied:
        """Apply the actions: ends first, launches last and in batches."""
        recorded = list[Observation]()
        actions = self._holding.assess(actions, now)
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
                    recorded.append(_leftover(end))
        if adopted := [action for action in actions if isinstance(action, Adopt)]:
            metrics.RUNS_ADOPTED.inc(len(adopted))
            self._run_launcher.mark_launched(
                [(each.run, each.observation.uid, each.observation.launched_at) for each in adopted]
            )
        for action in actions:
            if isinstance(action, Explain):
                with self._confinement.confined(action.run.task_id):
                    self._explain(action)
        self._clear_orphans(
            [action for action in actions if isinstance(action, StopOrphan | DiscardOrphan)]
        )
        self._left |= {seen.name: seen for seen in recorded}
        launches = [action for action in actions if isinstance(action, Launch)]
        applied = _Applied(len(recorded), 0, 0)
        for start in range(0, len(launches), LAUNCH_BATCH):
            batch = launches[start : start + LAUNCH_BATCH]
            applied += self._launch(self._run_launcher.still_enrolled(batch), now)
        return applied

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

    def _explain(self, action: Explain) -> None:
        """Show why a live run cannot go on now, or that it goes on again."""
        run, report = action.run, action.observation.report
        runs.explain_live(self._database, run.run_id, report)
        if report is None:
            _LOG.info("the run goes on again", run=run.name, after=run.stop_message)
            return
        _LOG.warning(
            "a run cannot go on", run=run.name, detail=report.message, remedy=report.remedy
        )
        event = RunEvent(RunEventType.NODE_LOST, f"{report.message}. {report.remedy}")
        self._launcher.record_event(run.name, action.observation.uid, event)

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
                done[action.run.run_id] = _leftover(action)
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
        known = action.report.attempt if action.report else 0
        has_begun = seen is not None and seen.started_at is not None
        metrics.ATTEMPTS.inc(max(0, known - run.attempt, has_begun - run.attempt))
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


def _leftover(action: Record) -> Observation:
    """Return what is left of a recorded run at the launcher.

    A lost run may have left files behind, though nothing of it was observed.
    """
    return action.observation or Observation(action.run.name, Phase.FAILED)
