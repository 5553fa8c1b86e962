"""Launches claimed runs, and records that they exist.

A run exists in the database before it exists at the launcher, and its name follows from its task
and run number, so creating it again creates nothing new.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice

import structlog

from enrollgate.control.confinement import Confinement
from enrollgate.database import (
    Database,
    RowHeld,
    RowRefused,
    Tables,
    claims,
    runs,
    set_aside,
)
from enrollgate.domain.observation import LaunchOutcome, LaunchResult
from enrollgate.domain.planner import Launch
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.run import UnfinishedRun
from enrollgate.launchers import Launcher, RunEvent, RunEventType
from enrollgate.telemetry import metrics

_LOG = structlog.get_logger(__name__)
# Runs launched between two checks of whether their tasks are still enrolled.
CHECK_BATCH = 50
# Launched runs that are recorded in one statement, while others are launched.
RECORD_BATCH = 100
UNFORESEEN = (
    "an unexpected error of Enrollgate: report it, with the traceback in the operator's log"
)


@dataclass(frozen=True, slots=True)
class Launched:
    """How many runs were launched and given up, and those that can never be launched, with why."""

    launched: int
    given_up: int
    failed: list[tuple[UnfinishedRun, Failure]]

    def __add__(self, other: "Launched") -> "Launched":
        return Launched(
            self.launched + other.launched,
            self.given_up + other.given_up,
            self.failed + other.failed,
        )


class RunLauncher:
    """Launches runs whose tasks are enrolled at that moment.

    A launch that is refused is tried again for `timeout` seconds.
    """

    def __init__(
        self,
        database: Database,
        tables: Tables,
        launcher: Launcher,
        confinement: Confinement,
        *,
        timeout: float,
    ) -> None:
        self._timeout = timeout
        self._database = database
        self._tables = tables
        self._launcher = launcher
        self._confinement = confinement

    def launch(self, launches: Iterable[Launch], now: datetime) -> Launched:
        """Launch these runs, which were claimed for tasks that are enrolled at this moment.

        They are taken one by one: the next ones may be claimed, and the first ones recorded, while
        others are launched.
        """
        results, done = self._ask_to_launch(launches), Launched(0, 0, [])
        while batch := list(islice(results, RECORD_BATCH)):
            done += self._record_results(batch, now)
        return done

    def _record_results(
        self, results: list[tuple[Launch, LaunchResult]], now: datetime
    ) -> Launched:
        """Record what has become of some launches."""
        failed = [
            (
                launch.run,
                Failure(
                    Reason.NAME_TAKEN,
                    f"an object that is not ours is already called {launch.run.name}",
                ),
            )
            for launch, result in results
            if result.outcome is LaunchOutcome.NAME_TAKEN
        ]
        refused = [
            (launch.run, result.refusal)
            for launch, result in results
            if result.outcome is LaunchOutcome.REFUSED
        ]
        exists = (LaunchOutcome.LAUNCHED, LaunchOutcome.ADOPTED)
        outcomes = [result.outcome for _, result in results]
        metrics.RUNS_ADOPTED.inc(outcomes.count(LaunchOutcome.ADOPTED))
        launched = self.mark_launched(
            [
                (launch.run, result.uid, result.launched_at)
                for launch, result in results
                if result.outcome in exists
            ]
        )
        waits = {
            launch.run.run_id: result.refusal
            for launch, result in results
            if result.outcome is LaunchOutcome.WAITS and result.refusal != launch.run.stop_message
        }
        if waits:
            with self._confinement.confined(None):
                runs.note_waits(self._database, waits)
        given_up = 0
        for run, why in refused:
            tried = sum(map(self._confinement.pause, range(run.launch_refusals)))
            if tried >= self._timeout:
                message = f"the launch was refused {run.launch_refusals + 1} times: {why}"
                failed.append((run, Failure(Reason.LAUNCH_REFUSED, message)))
                continue
            with self._confinement.confined(run.task_id):
                given_up += self.release(run, why, now)
        return Launched(launched, given_up, failed)

    def _ask_to_launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        """Ask the launcher for all at once; after an unforeseen error, for each alone."""
        pending, rest = dict[int, Launch](), iter(launches)

        def note() -> Iterator[Launch]:
            for launch in rest:
                pending[launch.run.run_id] = launch
                yield launch

        is_foreseen, answered = False, 0
        with self._confinement.confined(None):
            for launch, result in self._launcher.launch(note()):
                del pending[launch.run.run_id]
                answered += 1
                yield launch, result
            is_foreseen = True
        if is_foreseen:
            return
        # Of several, each is asked for alone: so the log names the one that fails.
        culprit = next(iter(pending.values())) if len(pending) + answered == 1 else None
        for launch in chain(tuple(pending.values()), note()):
            alone = [(launch, LaunchResult(LaunchOutcome.REFUSED, refusal=UNFORESEEN))]
            if launch is not culprit:
                with self._confinement.confined(launch.run.task_id):
                    alone = list(self._launcher.launch(self.still_enrolled([launch])))
            yield from alone

    def still_enrolled(self, launches: list[Launch]) -> Iterator[Launch]:
        """Yield the launches whose tasks are enrolled at the moment when they are asked for."""
        for start in range(0, len(launches), CHECK_BATCH):
            if self._confinement.is_stopping():
                return
            batch = launches[start : start + CHECK_BATCH]
            enrolled = runs.still_enrolled(
                self._database, self._tables, [launch.run.run_id for launch in batch]
            )
            yield from (launch for launch in batch if launch.run.run_id in enrolled)

    def mark_launched(
        self, existing: list[tuple[UnfinishedRun, str | None, datetime | None]]
    ) -> int:
        """Record that these runs (with their Jobs' UIDs) exist, and since when.

        Announce and count those not recorded before.
        """
        if not existing:
            return 0
        instants = {run.run_id: launched_at for run, _, launched_at in existing}
        try:
            new = runs.mark_launched(self._database, instants)
        except (RowHeld, RowRefused):
            new = set[int]()
            for run, _, launched_at in existing:
                with self._confinement.confined(run.task_id):
                    new |= runs.mark_launched(self._database, {run.run_id: launched_at})
        metrics.RUNS_LAUNCHED.inc(len(new))
        for run, uid, launched_at in existing:
            if run.run_id in new:
                if run.enrolled_since is not None and launched_at is not None:
                    waited = launched_at.astimezone(UTC).replace(tzinfo=None) - run.enrolled_since
                    metrics.LAUNCH_WAIT.observe(max(0.0, waited.total_seconds()))
                _LOG.info("run launched", run=run.name, task=run.task_id, run_number=run.run_number)
                message = f"task {run.task_id} is enrolled: run {run.run_number} was launched"
                event = RunEvent(RunEventType.LAUNCHED, message)
                self._launcher.record_event(run.name, uid, event)
        if refused := [run.task_id for run, *_ in existing if run.launch_refusals]:
            set_aside.end_set_aside(self._database, refused)
        return len(new)

    def release(self, run: UnfinishedRun, why: str, now: datetime) -> bool:
        """Give up a claimed run that cannot be launched now, and set its task aside.

        Return False if another operator has changed the run.
        """
        until = self._confinement.set_aside_until(
            run.task_id, run.launch_refusals, "launcher", why, now
        )
        return claims.release(self._database, self._tables, run, now, until)
