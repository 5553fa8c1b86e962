"""A small world to test the reconciler in: Node.js's rows, a clock and a launcher in memory.

The database and the reconciler are the real ones. The test moves the clock. `MemoryLauncher`
implements the `Launcher` protocol, and the test decides how each run ends.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Barrier

from sqlalchemy import ColumnElement, Connection, bindparam, cast, make_url, text
from tests.databases.schema import create_tasks_table

from enrollgate.control.reconciler import PassSummary, Reconciler
from enrollgate.database import Database, Tables, migrate, open_database
from enrollgate.database.engine import Clock
from enrollgate.database.tables import INSTANT
from enrollgate.domain.observation import LaunchOutcome, LaunchResult, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.planner import Launch
from enrollgate.domain.policy import HoldPolicy, Policy
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.domain.run import RunPlace
from enrollgate.domain.run_event import HoldEvent, RunEvent
from enrollgate.domain.task import Statuses, TaskColumns
from enrollgate.launchers import Launcher, LauncherUnavailable

EPOCH = datetime(2026, 1, 1, 12, 0, 0)  # noqa: DTZ001 -- times in the database have no zone
PLACE = RunPlace("memory", "test")
COURSE = "https://courses.example.com/course/1"


class DrivenClock:
    """A clock that only the test moves.

    `advance` lets time pass; `step` sets the clock, and no time passes.
    """

    def __init__(self) -> None:
        self.now = EPOCH
        self._stepped = 0.0

    def __call__(self, *, is_sqlite: bool) -> ColumnElement[datetime]:
        now = bindparam("now", type_=INSTANT, unique=True, callable_=lambda: self.now)
        return now if is_sqlite else cast(now, INSTANT)  # a server would return it as text

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def step(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self._stepped += seconds

    @property
    def elapsed(self) -> float:
        return (self.now - EPOCH).total_seconds() - self._stepped


@dataclass
class MemoryLauncher:
    """Runs that are only data.

    A stopped run disappears at the next observation, as a real one does after its grace period.
    """

    runs: dict[str, Observation] = field(default_factory=dict)
    orders: list[RunOrder] = field(default_factory=list)
    stopping: set[str] = field(default_factory=set)
    available: bool = True
    taken: set[str] = field(default_factory=set)
    # Runs whose launch is refused, by task, with the reason; and those that raise an error.
    refused: dict[int, str] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    full: bool = False
    # Why no run can be launched now, if so.
    waits: str = ""
    events: list[tuple[str, RunEvent]] = field(default_factory=list)
    hold_events: list[HoldEvent] = field(default_factory=list)
    place: RunPlace = PLACE
    # What the workers of these runs say.
    progress: dict[str, RunProgress] = field(default_factory=dict)
    # Stopped runs stay live until this is switched off.
    lingering: bool = False
    # When runs are launched, as the launcher says.
    launched_at: datetime | None = None

    def observe(
        self, expected: Collection[str], *, only: bool = False
    ) -> Mapping[str, Observation]:
        if not self.available:
            raise LauncherUnavailable("the launcher is away")
        seen = {name: run for name, run in self.runs.items() if not only or name in expected}
        if not self.lingering:
            for name in self.stopping & set(self.runs):
                del self.runs[name]
                seen.pop(name, None)
            self.stopping.clear()
        return seen

    def launch(self, launches: Iterable[Launch]) -> Iterator[tuple[Launch, LaunchResult]]:
        if not self.available:
            raise LauncherUnavailable("the launcher is away")
        if not self.full:
            for launch in launches:
                task = launch.order.task_id
                if task in self.broken:
                    raise TypeError("an error that nobody foresaw")
                if self.waits:
                    yield launch, LaunchResult(LaunchOutcome.WAITS, refusal=self.waits)
                    continue
                if task in self.refused:
                    yield launch, LaunchResult(LaunchOutcome.REFUSED, refusal=self.refused[task])
                    continue
                outcome = self._launch(launch.order)
                if outcome is not None:
                    yield launch, LaunchResult(outcome, launched_at=self.launched_at)

    def _launch(self, order: RunOrder) -> LaunchOutcome | None:
        if order.name in self.taken:
            return LaunchOutcome.NAME_TAKEN
        existing = self.runs.get(order.name)
        if existing is not None:
            if existing.claim_id in (None, order.claim_id):
                return LaunchOutcome.ADOPTED
            self.stop(order.name, None)
            self.discard([existing])
            return None
        self.orders.append(order)
        self.runs[order.name] = Observation(order.name, Phase.LIVE, claim_id=order.claim_id)
        return LaunchOutcome.LAUNCHED

    def stop(self, name: str, uid: str | None, *, keep_name: bool = False) -> None:
        if not self.available:
            raise LauncherUnavailable("the launcher is away")
        if name in self.runs and self.runs[name].is_live:
            self.stopping.add(name)

    def read_progress(
        self, names: Sequence[str], wait_for_turn: Callable[[], bool]
    ) -> Iterator[tuple[str, RunProgress]]:
        for name in names:
            if not wait_for_turn():
                return
            if name in self.progress:
                yield name, self.progress[name]

    def record_event(self, name: str, uid: str | None, event: RunEvent) -> None:
        self.events.append((name, event))

    def record_hold(self, event: HoldEvent) -> None:
        self.hold_events.append(event)

    def discard(self, observations: Iterable[Observation]) -> None:
        for name in (observation.name for observation in observations):
            if name in self.runs and not self.runs[name].is_live:
                del self.runs[name]

    def close(self) -> None: ...

    # what a test does to the runs

    @property
    def live(self) -> list[str]:
        return [name for name, seen in self.runs.items() if seen.phase is Phase.LIVE]

    def succeed(self, name: str) -> None:
        report = Report(
            None,
            "the course is complete",
            items_delivered=3,
            bytes_delivered=300,
            destination_url="file:///x",
        )
        self.end(name, Phase.SUCCEEDED, report)

    def fail(self, name: str, reason: Reason = Reason.ACCESS_DENIED) -> None:
        self.end(name, Phase.FAILED, Report(reason, "the site said no"))

    def stick(self, name: str) -> None:
        self.end(name, Phase.STUCK, Report(Reason.IMAGE_PULL_BACK_OFF, "there is no such image"))

    def end(self, name: str, phase: Phase, report: Report) -> None:
        run = self.runs.get(name, Observation(name, phase))
        self.runs[name] = replace(run, phase=phase, report=report)

    def lose_node(self, name: str) -> None:
        """Let its node answer no more: nobody knows whether it still runs."""
        report = Report(Reason.NODE_LOST, f"pod {name}-0 may still run", remedy="bring node-1 back")
        self.end(name, Phase.LIVE, report)

    def lose(self, name: str) -> None:
        del self.runs[name]


@dataclass(frozen=True)
class RunRow:
    task_id: int
    run_number: int
    name: str
    state: str
    outcome: str | None
    reason: str | None
    message: str | None
    result: str | None


# For tests in which many runs fail at once.
WITHOUT_HOLDS = Policy(
    enrollment_timeout=300, max_concurrent_runs=10, holds=HoldPolicy(is_on=False)
)


class World:
    """One database, one clock, one launcher, and as many operators as a test wants."""

    def __init__(
        self,
        url: str,
        policy: Policy | None = None,
        *,
        create: bool = True,
        database_clock: Clock | None = None,
    ) -> None:
        self.url = url
        self.policy = policy or Policy(enrollment_timeout=300, max_concurrent_runs=10)
        self.clock = DrivenClock()
        self.database_clock = database_clock or self.clock
        self.launcher = MemoryLauncher()
        self.statuses = Statuses()
        self.tables = Tables.named(TaskColumns(), self.statuses)
        self.database = self.open()
        if create:
            self.sql(create_tasks_table(is_sqlite=self.database.is_sqlite))
            self.sql("CREATE INDEX ix_status ON download_tasks (status)")
            migrate(self.database)
        self.operator = self.new_operator()

    def open(self) -> Database:
        return open_database(make_url(self.url), clock=self.database_clock)

    def new_operator(
        self,
        database: Database | None = None,
        launcher: Launcher | None = None,
        *,
        progress: Callable[[], None] = lambda: None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> Reconciler:
        """Return an operator that has just started and remembers nothing."""
        return Reconciler(
            database or self.database,
            self.tables,
            launcher or self.launcher,
            self.policy,
            installation="test",
            progress=progress,
            is_stopping=is_stopping,
            monotonic=self.monotonic,
        )

    def monotonic(self) -> float:
        """Return the seconds that passed, by the clock that belongs to the database's."""
        return self.clock.elapsed if self.database_clock is self.clock else time.monotonic()

    def restart(self) -> None:
        self.operator = self.new_operator()

    def reconcile(self, changed: Collection[str] | None = None) -> PassSummary:
        """Run a pass, as the loop does: after a focused one, it looks at the gate."""
        summary = self.operator.reconcile(changed)
        if changed is None or not (summary.finished and summary.free):
            return summary
        filled = self.operator.look()
        return replace(
            filled,
            launched=summary.launched + filled.launched,
            finished=summary.finished + filled.finished,
            statements=summary.statements + filled.statements,
            ending=summary.ending,
        )

    def look(self) -> PassSummary:
        return self.operator.look()

    def check_work(self, database: Database) -> None:
        """Check that an operator on this database completes a task, and fails another one."""
        operator = self.new_operator(database)
        good, late = self.add("enrolled"), self.add("processing")
        operator.reconcile()
        self.launcher.succeed(f"test-{good}-1")
        self.clock.advance(300)
        operator.reconcile()
        assert (self.status(good), self.status(late)) == ("completed", "failed")

    def close(self) -> None:
        self.database.close()

    # what Node.js does

    def sql(self, statement: str, **values: object) -> None:
        self.database.run_in_transaction(
            lambda connection: connection.execute(text(statement), values)
        )

    def add(
        self,
        status: str | None = "processing",
        email: str | None = "ada@example.com",
        url: str | None = COURSE,
    ) -> int:
        def insert(connection: Connection) -> int:
            result = connection.execute(
                text(
                    "INSERT INTO download_tasks (status, email, course_url) "
                    "VALUES (:status, :email, :url)"
                ),
                {"status": status, "email": email, "url": url},
            )
            return int(result.lastrowid)

        return self.database.run_in_transaction(insert)

    def set(self, task_id: int, status: str | None) -> None:
        self.sql(
            "UPDATE download_tasks SET status = :status WHERE id = :id", status=status, id=task_id
        )

    def delete(self, task_id: int) -> None:
        self.sql("DELETE FROM download_tasks WHERE id = :id", id=task_id)

    # what anybody can read

    def status(self, task_id: int) -> str | None:
        with self.database.read_transaction() as connection:
            found: str | None = connection.execute(
                text("SELECT status FROM download_tasks WHERE id = :id"), {"id": task_id}
            ).scalar()
        return found

    def runs(self, task_id: int | None = None) -> list[RunRow]:
        where = "" if task_id is None else "WHERE task_id = :id"
        with self.database.read_transaction() as connection:
            rows = connection.execute(
                text(
                    "SELECT task_id, run_number, name, state, outcome, reason, message, result "
                    f"FROM enrollgate_runs {where} ORDER BY task_id, run_number"
                ),
                {} if task_id is None else {"id": task_id},
            )
            return [RunRow(*row) for row in rows]

    def scalar(self, statement: str) -> int:
        with self.database.read_transaction() as connection:
            return int(connection.execute(text(statement)).scalar_one())


def at_once(*functions: Callable[[], object]) -> None:
    """Call the functions at the same moment, each in a thread. Raises what one of them raises."""
    ready = Barrier(len(functions))

    def call(function: Callable[[], object]) -> None:
        ready.wait()
        function()

    with ThreadPoolExecutor(len(functions)) as threads:
        list(threads.map(call, functions))
