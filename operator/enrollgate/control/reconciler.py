"""One pass: observe, plan, apply. Every pass starts from the rows and the runs as they are; nothing is remembered between
passes but which strange statuses were warned about, and when the backlog was last surveyed exactly.

    gate      survey -> sight the new, note the changed, expire the late, let go of the departed      (the tasks)
    runs      unfinished rows -> the launcher's listing -> plan -> apply                              (what was claimed)
    launches  claim up to the free slots -> plan -> a last look -> create                             (what is enrolled)

That is a *full* pass. When the launcher says which runs have changed, a *focused* one looks at those alone and then fills the
slots they leave: its cost follows the change, however many runs there are.

A pass may be interrupted anywhere, at any time, by anything: the next one goes on from what it finds. A run exists in the
database before it exists at the launcher, and its name follows from its task and run_number, so creating it again creates
nothing new.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from enrollgate.common.redaction import redact
from enrollgate.database import Database, RowHeld, Tables, backlog, runs, tasks
from enrollgate.database.backlog import Backlog
from enrollgate.database.runs import Recorded
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
from enrollgate.domain.run import Outcome, RunState, UnfinishedRun
from enrollgate.domain.task import TaskState
from enrollgate.launchers import Launcher, LauncherRefused, RunEvent, RunEventType
from enrollgate.telemetry import metrics

_T = TypeVar("_T")
_LOG = structlog.get_logger(__name__)
EXACT_BACKLOG_INTERVAL = timedelta(minutes=1)
"""The longest time between two exact surveys of the backlog."""
HELD_LIMIT = 3
"""Rows held by other transactions that each part of a pass waits for, before it goes on without the rest."""
LAUNCH_BATCH = 500
"""Runs created between two notes of it in the database."""
LOOK_BATCH = 50
"""Runs created between two looks at whether their tasks are still enrolled."""


@dataclass(frozen=True, slots=True)
class PassSummary:
    """What one pass saw and did, for logs and metrics."""

    waiting: int
    enrolled: int
    unfinished: int
    """Runs not finished at the end of the pass."""
    launched: int
    finished: int
    expired: int
    statements: int
    """SQL statements that the pass sent."""
    refused: int = 0
    """Runs that were claimed in this pass, and finished without being launched: their slots are free again."""
    ending: frozenset[str] = frozenset()
    """Runs to look at again soon, since nobody will tell when they are gone."""

    @property
    def more(self) -> bool:
        """Whether the pass left late tasks or free slots to the next one, which should follow at once."""
        return self.expired >= tasks.EXPIRY_LIMIT or self.refused > 0


class Reconciler:
    """Brings runs and tasks in line with each other, one `reconcile` at a time. `progress` is told of each task dealt with."""

    def __init__(
        self,
        database: Database,
        tables: Tables,
        launcher: Launcher,
        policy: Policy,
        *,
        installation: str,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._tables = tables
        self._launcher = launcher
        self._policy = policy
        self._installation = installation
        self._progress = progress
        self._warned = set[str | None]()
        self._surveyed_at: datetime | None = None
        self._held = set[int]()
        """The tasks whose rows were held when they were last tried: the others come first."""
        self._waits = 0
        """Rows that this part of the pass waited for in vain."""
        self._backlog = Backlog((), seen=0, due=0)
        """Of the last full pass: for what is told, not for what is decided."""

    def reconcile(self, changed: Collection[str] | None = None) -> PassSummary:
        """One pass: a full one, or one focused on the runs that are named as changed.

        Raises DatabaseUnavailable, DatabaseMisconfigured or LauncherUnavailable: then it is given up, and whatever it did not
        get to is done by the next.
        """
        with metrics.timed_pass():
            return self._reconcile(changed)

    def _reconcile(self, changed: Collection[str] | None) -> PassSummary:
        before = self._database.statements
        now = self._database.now()
        if changed is None:
            backlog = self._backlog = self._look(now)
            expired = self._tend_gate(backlog, now)
        else:
            backlog, expired = self._backlog, 0
        enrolled = backlog.count(self._tables.statuses.enrolled)
        unfinished = runs.unfinished(
            self._database, self._tables, installation=self._installation, names=changed
        )
        observed = self._launcher.observe(
            [run.name for run in unfinished], only=changed is not None
        )
        finished, launched = self._apply(plan(unfinished, observed, self._policy), now)
        if changed is None:
            remaining = len(unfinished) - finished
            taken = sum(run.task is TaskState.ENROLLED for run in unfinished)
            is_backlog = enrolled > taken or finished > 0
        else:
            remaining = runs.count_unfinished(self._database, installation=self._installation)
            is_backlog = finished > 0
        claimed = (
            self._claim(now) if is_backlog and remaining < self._policy.max_concurrent_runs else []
        )
        # What is only claimed is created, or adopted if another operator has created it: nothing needs to be observed first.
        refused, created = self._apply(plan(claimed, {}, self._policy), now)
        return PassSummary(
            waiting=sum(backlog.count(word) for word in self._tables.statuses.waiting),
            enrolled=enrolled,
            unfinished=remaining + len(claimed) - refused,
            launched=launched + created,
            finished=finished + refused,
            expired=expired,
            statements=self._database.statements - before,
            refused=refused,
            ending=frozenset(name for name, seen in observed.items() if seen.is_ending),
        )

    # the gate

    def _look(self, now: datetime) -> Backlog:
        """A glance if one will do; the exact survey when the glance shows a change, and once in EXACT_BACKLOG_INTERVAL."""
        timeout = self._policy.enrollment_timeout
        if self._surveyed_at is not None and now - self._surveyed_at < EXACT_BACKLOG_INTERVAL:
            glance = backlog.backlog_if_unchanged(self._database, self._tables, now, timeout)
            if glance is not None:
                return glance
        self._surveyed_at = now
        exact = backlog.load_backlog(self._database, self._tables, now, timeout)
        self._warn_unknown_statuses(exact.unknown_statuses)
        metrics.TASKS.labels("unknown").set(exact.unknown)
        return exact

    def _tend_gate(self, backlog: Backlog, now: datetime) -> int:
        if backlog.new:
            for sighting in tasks.track_new(self._database, self._tables, now):
                self._log_decision(sighting.task_id, sighting.word, 0.0)
        if backlog.changed:
            for change in tasks.record_changes(self._database, self._tables, now):
                restarted = change.was not in self._tables.statuses.waiting
                elapsed = 0.0 if restarted else (now - change.since).total_seconds()
                self._log_decision(change.task_id, change.word, elapsed)
        expired = self._expire(now) if backlog.due else 0
        if backlog.departed:
            for departed in tasks.left_gate(self._database, self._tables):
                self._untrack(departed, now)
        return expired

    def _expire(self, now: datetime) -> int:
        limit = self._policy.enrollment_timeout
        message = timeout_message(limit)
        expired = 0
        for late in self._reachable(
            tasks.due(self._database, self._tables, now, limit), lambda late: late.task_id
        ):
            with self._unless_held(late.task_id):
                if tasks.expire(
                    self._database,
                    self._tables,
                    late,
                    now,
                    installation=self._installation,
                    message=message,
                ):
                    expired += 1
                    metrics.TASKS_EXPIRED.inc()
                    self._log_closed(
                        late.task_id,
                        late.word,
                        f"{message}, failed",
                        (now - late.since).total_seconds(),
                    )
        return expired

    @contextmanager
    def _unless_held(self, task_id: int) -> Iterator[None]:
        """A task whose row another transaction holds is left to the next pass, and the others go on."""
        try:
            yield
            self._held.discard(task_id)
        except RowHeld as error:
            self._held.add(task_id)
            self._waits += 1
            _LOG.warning("a task is left to the next pass", task=task_id, error=str(error))
        self._progress()

    def _reachable(self, each: Iterable[_T], task_of: Callable[[_T], int]) -> Iterator[_T]:
        """Those whose rows are to be had, in their order; none any more once HELD_LIMIT rows were waited for in vain."""
        self._waits = 0
        for one in sorted(each, key=lambda one: task_of(one) in self._held):
            if self._waits >= HELD_LIMIT:
                return
            yield one

    def _untrack(self, departed: list[tasks.Departure], now: datetime) -> None:
        tasks.untrack(
            self._database, [d.task_id for d in departed if d.state is not TaskState.UNKNOWN]
        )
        strange = [
            each for each in departed if each.state is TaskState.UNKNOWN and not each.has_run
        ]
        for each in self._reachable(strange, lambda each: each.task_id):
            self._reject(each, now)
        words = {
            TaskState.MISSING: "row deleted",
            TaskState.FAILED: "failed",
            TaskState.COMPLETED: "completed",
        }
        for each in departed:
            if each.state in words:
                elapsed = (now - each.since).total_seconds()
                self._log_closed(
                    each.task_id, each.status or each.was, f"over: {words[each.state]}", elapsed
                )

    def _reject(self, departed: tasks.Departure, now: datetime) -> None:
        with self._unless_held(departed.task_id):
            if tasks.reject(
                self._database, self._tables, departed, now, installation=self._installation
            ):
                status, why = str(departed.status), f"rejected, failed: {Reason.UNEXPECTED_STATUS}"
                self._log_closed(
                    departed.task_id, status, why, (now - departed.since).total_seconds()
                )

    def _warn_unknown_statuses(self, strange: Mapping[str | None, int]) -> None:
        for status, count in strange.items():
            if status in self._warned or len(self._warned) >= backlog.UNKNOWN_STATUS_LIMIT:
                continue
            self._warned.add(status)
            _LOG.warning(
                "rows with a status that has no meaning here are left alone; name it in ENROLLGATE_STATUS_* if it has",
                status="NULL" if status is None else redact(status),
                tasks=count,
            )
            if len(self._warned) == backlog.UNKNOWN_STATUS_LIMIT:
                _LOG.warning(
                    "there may be more statuses without a meaning; they are counted, and not named any more"
                )

    def _log_decision(self, task_id: int, word: str, elapsed: float) -> None:
        line = open_line if word == self._tables.statuses.enrolled else waiting_line
        _LOG.info(line(task_id, word, elapsed, self._policy.enrollment_timeout))

    def _log_closed(self, task_id: int, status: str, why: str, elapsed: float) -> None:
        _LOG.warning(closed_line(task_id, status, why, elapsed, self._policy.enrollment_timeout))

    # the runs

    def _claim(self, now: datetime) -> list[UnfinishedRun]:
        """Claims runs for the free slots and gives them as they are now."""
        limit = self._policy.max_concurrent_runs
        names = runs.claim(
            self._database, self._tables, now, installation=self._installation, limit=limit
        )
        if not names:
            return []
        rows = runs.unfinished(
            self._database, self._tables, installation=self._installation, names=names
        )
        return [
            run for run in rows if run.state is RunState.CLAIMED
        ]  # the others, another operator has taken further

    def _apply(self, actions: Iterable[Action], now: datetime) -> tuple[int, int]:
        """Applies the actions, launches last and in batches. Gives how many runs were finished and launched."""
        launches = list[Launch]()
        adopted = list[tuple[UnfinishedRun, str | None]]()
        ends = list[Stop | Record]()
        recorded = list[Observation]()
        strays = list[StopOrphan | DiscardOrphan]()
        for action in actions:
            match action:
                case Launch():
                    launches.append(action)
                case Adopt(run, observation):
                    adopted.append((run, observation.uid))
                case Stop() | Record():
                    ends.append(action)
                case StopOrphan() | DiscardOrphan():
                    strays.append(action)
        for end in self._reachable(ends, lambda end: end.run.task_id):
            with self._unless_held(end.run.task_id):
                if isinstance(end, Stop):
                    self._stop(end, now)
                elif self._record(end, now):
                    # Of a lost run there may be files left to clear away.
                    recorded.append(end.observation or Observation(end.run.name, Phase.FAILED))
        self._note_launched(adopted, now)
        if strays:
            self._clear(strays)
        self._discard(recorded)
        launched, refused = 0, 0
        for start in range(0, len(launches), LAUNCH_BATCH):
            created, taken = self._launch(launches[start : start + LAUNCH_BATCH], now)
            launched, refused = launched + created, refused + taken
        return len(recorded) + refused, launched

    def _launch(self, launches: Iterable[Launch], now: datetime) -> tuple[int, int]:
        """Creates those runs whose tasks are enrolled at this moment. Gives how many were created and refused."""
        results = list(self._launcher.launch(self._still_wanted(list(launches))))
        created = self._note_launched(
            [
                (launch.run, result.uid)
                for launch, result in results
                if result.outcome is not LaunchOutcome.NAME_TAKEN
            ],
            now,
        )
        refused = 0
        for launch, result in results:
            if result.outcome is LaunchOutcome.NAME_TAKEN:
                run = launch.run
                message = f"something that is not ours is already called {run.name}"
                with self._unless_held(run.task_id):
                    action = Record(
                        run,
                        None,
                        Outcome.FAILED,
                        Reason.NAME_TAKEN,
                        message,
                        task_to=TaskState.FAILED,
                    )
                    refused += self._record(action, now)
        return created, refused

    def _note_launched(
        self, there: Iterable[tuple[UnfinishedRun, str | None]], now: datetime
    ) -> int:
        """Notes that these runs exist, and tells of each that nobody has told of before. Gives their number."""
        there = list(there)
        names = [run.name for run, _ in there]
        new = set(runs.mark_launched(self._database, names, now) if names else ())
        metrics.RUNS_LAUNCHED.inc(len(new))
        for run, uid in there:
            if run.name not in new:
                continue
            _LOG.info("run launched", run=run.name, task=run.task_id, run_number=run.run_number)
            message = f"task {run.task_id} is enrolled: run_number {run.run_number} was launched"
            self._launcher.record_event(run.name, uid, RunEvent(RunEventType.LAUNCHED, message))
        return len(new)

    def _still_wanted(self, launches: list[Launch]) -> Iterator[Launch]:
        """Those whose tasks are enrolled when it is their turn."""
        for start in range(0, len(launches), LOOK_BATCH):
            batch = launches[start : start + LOOK_BATCH]
            wanted = runs.still_wanted(
                self._database, self._tables, [launch.run.name for launch in batch]
            )
            yield from (launch for launch in batch if launch.run.name in wanted)

    def _log_run_closed(self, run: UnfinishedRun, why: str, now: datetime) -> None:
        if run.since is not None:  # else the gate has said so already
            elapsed = (now - run.since).total_seconds()
            self._log_closed(run.task_id, run.task_status or run.task.value, why, elapsed)

    def _stop(self, stop: Stop, now: datetime) -> None:
        if stop.run.state is not RunState.STOPPING:
            if not runs.mark_stopping(
                self._database,
                self._tables,
                stop.run,
                stop.reason,
                stop.message,
                fail_task=stop.fail_task,
            ):
                return
            self._log_run_closed(stop.run, f"stopping its run: {stop.reason}", now)
            _LOG.warning(
                "stopping a run", run=stop.run.name, reason=stop.reason.value, detail=stop.message
            )
            kind = RunEventType.FAILED if stop.reason in START_FAILURES else RunEventType.REVOKED
            self._launcher.record_event(
                stop.run.name,
                stop.observation.uid,
                RunEvent(kind, f"stopping: {stop.reason}: {stop.message}"),
            )
        self._ask_to_stop(stop.observation)

    def _ask_to_stop(self, observation: Observation) -> None:
        name = observation.name
        try:
            self._launcher.stop(name, observation.uid)
        except (
            LauncherRefused
        ) as error:  # one run that cannot be stopped now must not hold up the others
            _LOG.warning(
                "a run could not be stopped; the next pass tries again", run=name, error=str(error)
            )

    def _discard(self, observations: list[Observation]) -> None:
        try:
            self._launcher.discard(observations)
        except (
            LauncherRefused
        ) as error:  # they are seen again, and discarded then: nothing waits for it
            _LOG.warning(
                "recorded runs could not be discarded; the next pass tries again", error=str(error)
            )

    def _record(self, verdict: Record, now: datetime) -> bool:
        """False if another operator has taken the run further meanwhile: then it is that one's to record and to clear away."""
        run = verdict.run
        recorded = runs.record(self._database, self._tables, verdict, now)
        if recorded is Recorded.OVERTAKEN:
            _LOG.debug("a run was left to the operator that has taken it further", run=run.name)
            return False
        details: dict[str, object] = {
            "run": run.name,
            "task": run.task_id,
            "outcome": verdict.outcome.value,
        }
        if verdict.task_to is not None:
            moved = recorded is Recorded.MOVED
            details["task_status"] = (
                verdict.task_to.value if moved else "moved on by Node.js, left as it is"
            )
        metrics.RUNS_FINISHED.labels(
            verdict.outcome.value, verdict.reason.value if verdict.reason else ""
        ).inc()
        uid = verdict.observation.uid if verdict.observation else None
        self._launcher.record_event(run.name, uid, _story(verdict))
        if verdict.reason is None:
            _LOG.info("run finished", **details)
            return True
        if run.state is RunState.CLAIMED and verdict.task_to is not None:
            self._log_run_closed(run, f"refused, {verdict.task_to}: {verdict.reason}", now)
        details |= {
            "reason": verdict.reason.value,
            "detail": verdict.message,
            "remedy": explain(verdict.reason).remedy,
        }
        _LOG.warning("run finished", **details)
        return True

    def _clear(self, strays: Iterable[StopOrphan | DiscardOrphan]) -> None:
        """Asks the database once more, since a listing may show a run claimed after the rows were read."""
        strays = list(strays)
        ours = runs.unfinished_names(self._database, [stray.observation.name for stray in strays])
        gone = list[Observation]()
        for stray in strays:
            if stray.observation.name in ours:
                continue
            if isinstance(stray, DiscardOrphan):
                gone.append(stray.observation)
            else:
                name = stray.observation.name
                _LOG.warning("stopping a run that no unfinished row accounts for", run=name)
                self._ask_to_stop(stray.observation)
        self._discard(gone)


_KINDS = {
    Outcome.SUCCEEDED: RunEventType.COMPLETED,
    Outcome.FAILED: RunEventType.FAILED,
    Outcome.REVOKED: RunEventType.REVOKED,
    Outcome.LOST: RunEventType.LOST,
}


def _story(verdict: Record) -> RunEvent:
    words = (
        [verdict.message] if verdict.reason is None else [f"{verdict.reason}: {verdict.message}"]
    )
    if verdict.task_to is not None:
        words.append(f"the task becomes {verdict.task_to.value}")
    return RunEvent(_KINDS[verdict.outcome], "; ".join(words))
