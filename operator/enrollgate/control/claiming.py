"""Claims runs for free slots: looks at the gate, chooses within the limits, and claims in batches.

If all that a look finds fits into the free slots, it is claimed in the order of its ids. Else the
tasks are ranked, so that the accounts take turns. The ranking reads the whole queue. So what is not
claimed now is kept as a shortlist: the next free slots are filled from it, without another look,
until the next full pass. The claim itself checks that a task is still enrolled.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from enrollgate.control.confinement import Confinement
from enrollgate.control.gate import Gate
from enrollgate.control.holding import Holding
from enrollgate.control.launching import CHECK_BATCH
from enrollgate.control.task_log import TaskLog
from enrollgate.database import Database, DatabaseError, Tables, claims, holds, set_aside
from enrollgate.domain.policy import Policy
from enrollgate.domain.queue import Blocked, LiveRuns, OpenTask, RunLimits, choose
from enrollgate.domain.run import RunPlace, UnfinishedRun
from enrollgate.telemetry import metrics

# Runs that are claimed and launched before that is recorded in the database.
LAUNCH_BATCH = 500
# Tasks that a ranking returns.
SHORTLIST = 1000


@dataclass(frozen=True, slots=True)
class Claimed:
    """A batch of claimed runs, the tasks that were chosen for them, and when."""

    claim: claims.Claim
    tasks: Sequence[OpenTask]
    now: datetime


@dataclass(frozen=True, slots=True)
class _Choice:
    """The tasks to claim, and when they were chosen.

    `last_run_id` is the last run's id then, if limits beside the slots were kept to.
    """

    tasks: list[OpenTask]
    now: datetime
    last_run_id: int | None


class Claimer:
    """Fills free slots.

    `unfinished` is how many slots the runs of this installation take; None before the first pass.
    `cost` is the seconds that the last look took in the database, and `is_limited` says that tasks
    may be left for free slots. `new_claim_id` returns at most 32 letters and digits, other ones
    each time.
    """

    def __init__(
        self,
        database: Database,
        tables: Tables,
        policy: Policy,
        confinement: Confinement,
        log: TaskLog,
        *,
        gate: Gate,
        holding: Holding,
        installation: str,
        place: Callable[[], RunPlace],
        new_claim_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._tables = tables
        self._policy = policy
        self._confinement = confinement
        self._log = log
        self._gate = gate
        self._holding = holding
        self._installation = installation
        self._place = place
        self._new_claim_id = new_claim_id
        self._shortlist = list[OpenTask]()
        self.unfinished: int | None = None
        self.cost = 0.0
        self.is_limited = False

    @property
    def free(self) -> int:
        """Return how many slots are free; none while a hold of everything allows no run."""
        held = (hold for hold in self._holding.open if hold.covers(None, None))
        if any(hold.live_limit(self._holding.now) == 0 for hold in held):
            return 0
        return max(0, self._policy.max_concurrent_runs - (self.unfinished or 0))

    @property
    def has_shortlist(self) -> bool:
        """Return whether tasks are left of a ranking."""
        return bool(self._shortlist)

    def drop_shortlist(self) -> None:
        """Rank the tasks again before the next one is claimed from a queue."""
        self._shortlist.clear()

    def claim(self, *, is_likely: bool = True) -> Iterator[Claimed]:
        """Claim runs for the free slots, LAUNCH_BATCH at most, and yield them batch by batch.

        Each batch is claimed when it is asked for, so that the one before is launched meanwhile.
        If it is not likely that there is one, the database is first asked for less than a look.
        """
        is_likely |= self.is_limited or self.has_shortlist
        self.cost, self.is_limited = 0.0, False
        slots = min(self.free, LAUNCH_BATCH)
        if slots <= 0:
            return
        if not is_likely:
            is_any, self.cost = claims.is_any_free(self._database, self._tables)
            if not is_any:
                return
        choice = self._choose(slots)
        if choice is None:
            return
        claimed = 0
        for start in range(0, len(choice.tasks), CHECK_BATCH):
            if start and self._confinement.is_stopping():
                return
            batch = choice.tasks[start : start + CHECK_BATCH]
            claim = self._claim(batch, choice, claimed)
            claimed += claim.count
            yield Claimed(claim, batch, choice.now)
            if claim.count < len(batch):  # others claim, too, or rows have changed
                self._shortlist.clear()
                return
        self.is_limited = claimed >= LAUNCH_BATCH or (
            choice.last_run_id is not None and claimed > 0
        )

    def _choose(self, slots: int) -> _Choice | None:
        """Choose tasks for these slots; None if there is none."""
        limits = RunLimits(
            self._policy.max_runs_per_account, self._policy.max_runs_per_host, self._holding.open
        )
        live, blocked = None, Blocked()
        if limits or self._shortlist:
            live = holds.read_live_runs(self._database, limits, self._installation)
            blocked = limits.blocked(live)
            if blocked.is_everything:
                return None
        if self._shortlist and live is not None:
            return self._take(slots, live, limits)
        seen = claims.look(
            self._database,
            self._tables,
            installation=self._installation,
            limit=slots + 1,
            blocked=blocked,
        )
        self.cost += seen.cost
        if self._holding.load_if_changed(seen.holds):
            return self._choose(slots)
        has_queue, is_short = len(seen.found) > slots, slots == self.free
        if not limits and not (has_queue and is_short):
            return _Choice(list(seen.found[:slots]), seen.now, None)
        live = live or holds.read_live_runs(self._database, limits, self._installation)
        self._shortlist = list(seen.found)
        if has_queue and not is_short:
            choice = self._take(slots, live, limits)
            if len(choice.tasks) == slots:
                self._shortlist.clear()
                return choice
        if has_queue:
            self._shortlist = claims.rank(
                self._database,
                self._tables,
                installation=self._installation,
                limit=SHORTLIST,
                blocked=blocked,
            )
        return self._take(slots, live, limits)

    def _take(self, slots: int, live: LiveRuns, limits: RunLimits) -> _Choice:
        """Take the tasks for these slots from the shortlist."""
        chosen = choose(self._shortlist, live, limits, slots)
        taken = {task.task_id for task in chosen}
        is_spent = len(chosen) < slots  # what is left is held back by a limit
        self._shortlist = (
            [] if is_spent else [each for each in self._shortlist if each.task_id not in taken]
        )
        return _Choice(chosen, live.now, live.last_run_id if limits else None)

    def _claim(self, batch: Sequence[OpenTask], choice: _Choice, claimed: int) -> claims.Claim:
        """Claim runs for these tasks; `claimed` were claimed of this choice before."""

        def set_claim_aside(task_id: int, refusals: int, error: DatabaseError) -> bool:
            """Set a task aside that cannot be claimed. The others are claimed."""
            self.is_limited = True
            with self._confinement.confined(task_id):
                until = self._confinement.set_aside_until(
                    task_id, refusals, "database", str(error), choice.now
                )
                set_aside.set_enrolled_aside(
                    self._database, self._tables, task_id, choice.now, until
                )
            return self._confinement.may_wait(error)

        last = choice.last_run_id
        claim = claims.claim(
            self._database,
            self._tables,
            batch,
            claim_id=self._new_claim_id(),
            installation=self._installation,
            place=self._place(),
            limit=self._policy.max_concurrent_runs,
            unfinished=self.unfinished or 0,
            last_run_id=None if last is None else last + claimed,
            clock_steps=self._gate.clock_steps,
            on_refusal=set_claim_aside,
        )
        self.unfinished = (self.unfinished or 0) + claim.count
        return claim

    def read(self, claimed: Claimed) -> list[UnfinishedRun]:
        """Read the claimed runs, and log that the gate is open for their tasks.

        This is the last check that they are enrolled: call it just before they are launched.
        """
        found = claims.read_claim(self._database, self._tables, claimed.claim)
        mine, enrolled = {run.task_id for run in found}, self._tables.statuses.enrolled
        for task in claimed.tasks:
            if task.task_id in mine and task.was != enrolled:
                elapsed = max(0.0, (claimed.now - (task.since or claimed.now)).total_seconds())
                self._log.log_decision(task.task_id, enrolled, elapsed)
                metrics.ENROLLMENT_WAIT.observe(elapsed)
        return found
