"""Races: enrollment at the moment of the timeout, and two operators on one database."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Connection, text
from tests.interruptions import Interruption, interrupted_operator
from tests.launching import launch
from tests.world import COURSE, EPOCH, PLACE, World, at_once

from enrollgate.control.confinement import SET_ASIDE
from enrollgate.database import Database, Tables, claims, tasks
from enrollgate.database.engine import T
from enrollgate.domain.observation import LaunchOutcome
from enrollgate.domain.order import RunOrder
from enrollgate.domain.policy import Policy
from enrollgate.domain.run import UnfinishedRun
from enrollgate.launchers import RunEventType

FLIPS = 10_000


def test_row_enrolled_before_the_deadline_is_never_failed_in_10000_tries(
    mariadb_url: str,
) -> None:
    """Node.js changes rows to `enrolled` by compare-and-set while they time out.

    If Node.js's update succeeded, we must never fail the task. If ours succeeded, Node.js's
    update must change nothing.
    """
    world = World(mariadb_url, Policy(enrollment_timeout=300, max_concurrent_runs=FLIPS))
    with closing(world):
        hit = set[int]()
        per_round = 500
        for start in range(0, FLIPS, per_round):
            values = ",".join(
                f"({start + n + 1}, 'processing', 'a@example.com', 'https://courses.example.com/')"
                for n in range(per_round)
            )
            world.sql(f"INSERT INTO download_tasks (id, status, email, course_url) VALUES {values}")
            world.reconcile()
            world.clock.advance(300)
            ready = threading.Barrier(2)

            def write(first: int = start + 1, go: threading.Barrier = ready) -> None:
                ids = list(range(first, first + per_round))
                Random(first).shuffle(ids)
                with world.database.engine.connect().execution_options(
                    isolation_level="AUTOCOMMIT"
                ) as connection:
                    go.wait()
                    for task_id in ids:
                        moved = connection.execute(
                            text(
                                "UPDATE download_tasks SET status='enrolled' "
                                "WHERE id=:id AND status='processing'"
                            ),
                            {"id": task_id},
                        ).rowcount
                        if moved:
                            hit.add(task_id)

            writer = threading.Thread(target=write)
            writer.start()
            ready.wait()
            while writer.is_alive():
                world.reconcile()
            writer.join()
            world.reconcile()
        with world.database.read_transaction() as connection:
            rows = connection.execute(text("SELECT id, status FROM download_tasks"))
            status: dict[int, str] = {row.id: row.status for row in rows}
        timed_out = {run.task_id for run in world.runs() if run.reason == "EnrollmentTimeout"}
        launched = {order.task_id for order in world.launcher.orders}
        assert len(status) == FLIPS
        assert timed_out.isdisjoint(hit), "failed by us although enrolled before"
        assert launched == hit, "every enrolled task was launched, and no other"
        assert all(status[task] == "enrolled" for task in hit)
        assert all(status[task] == "failed" for task in set(status) - hit)
        assert hit and timed_out, "the race was a race: both sides won some"


@pytest.mark.parametrize("held", ["late", "unknown", "running", "done"])
def test_row_held_by_an_open_transaction_delays_no_other_task(
    server_database_url: str, held: str
) -> None:
    """Node.js forgot to commit: only that task waits for a later pass."""
    with (
        closing(World(server_database_url)) as world,
        closing(World(server_database_url, create=False)) as node,
    ):
        tasks = {
            kind: [world.add("enrolled"), world.add("enrolled")] for kind in ("running", "done")
        }
        tasks |= {
            kind: [world.add("processing"), world.add("processing")] for kind in ("late", "unknown")
        }
        world.reconcile()
        world.clock.advance(300)
        for done in tasks["done"]:
            world.launcher.succeed(f"test-{done}-1")
        for odd in (*tasks["unknown"], *tasks["running"]):
            world.set(odd, "odd")
        first, *_ = tasks[held]
        with node.database.engine.begin() as connection:
            connection.execute(
                text("UPDATE download_tasks SET note = 'not committed' WHERE id = :id"),
                {"id": first},
            )
            for _ in range(2):
                world.reconcile()
            statuses = {task: world.status(task) for each in tasks.values() for task in each}
            assert statuses.pop(first) in ("processing", "odd", "enrolled")
            assert statuses == {
                task: "completed" if kind == "done" else "failed"
                for kind, each in tasks.items()
                for task in each
                if task != first
            }
        world.clock.advance(SET_ASIDE)
        world.reconcile()
        world.reconcile()
        assert world.status(first) == ("completed" if held == "done" else "failed")
        # A run is stopped although its row is held; then the gate fails the task.
        assert len(world.runs(first)) == (2 if held == "running" else 1)


@pytest.fixture
def two_operators(database_url: str) -> Iterator[tuple[World, World]]:
    first = World(database_url, Policy(max_concurrent_runs=1000))
    second = World(database_url, first.policy, create=False)
    yield first, second
    first.close()
    second.close()


def test_two_operators_that_claim_at_once_keep_to_the_limit(database_url: str) -> None:
    """Both operators have counted free slots before either claims, again and again."""
    policy = Policy(max_concurrent_runs=5)
    with (
        closing(World(database_url, policy)) as first,
        closing(World(database_url, policy, create=False)) as second,
    ):
        for _ in range(20):
            first.add("enrolled")
        claimed: list[str] = []

        def claim(world: World) -> None:
            mine = claim_runs(world.database, world.tables, limit=5, unfinished=0)
            claimed.extend(run.name for run in mine)

        for _ in range(10):
            first.sql("DELETE FROM enrollgate_runs")
            claimed.clear()
            at_once(partial(claim, first), partial(claim, second))
            assert (
                first.scalar("SELECT COUNT(*) FROM enrollgate_runs")
                == len(claimed)
                == len(set(claimed))
                == 5
            )


def claim_runs(
    database: Database, tables: Tables, *, limit: int, unfinished: int
) -> list[UnfinishedRun]:
    claimed = claims.claim(
        database,
        tables,
        claims.look(database, tables, installation="test", limit=50).found,
        claim_id=uuid.uuid4().hex,
        installation="test",
        place=PLACE,
        limit=limit,
        unfinished=unfinished,
    )
    return claims.read_claim(database, tables, claimed)


class HeldBeforeCommit(Database):
    """The real database, whose writing transactions wait for the test before they commit."""

    def __init__(self, real: Database) -> None:
        super().__init__(real.engine, real.autocommit_engine, real.clock)
        self.has_written, self.may_commit = threading.Event(), threading.Event()

    def run_in_transaction(
        self, change: Callable[[Connection], T], *, of_one_row: bool = False
    ) -> T:
        def change_and_wait(connection: Connection) -> T:
            result = change(connection)
            self.has_written.set()
            assert self.may_commit.wait(60)
            return result

        return super().run_in_transaction(change_and_wait, of_one_row=of_one_row)


@pytest.mark.parametrize("is_refused", [False, True], ids=["claims only", "and a refusal"])
def test_claim_counts_the_runs_of_a_claim_that_is_not_committed(
    database_url: str, is_refused: bool
) -> None:
    """Two operators choose different tasks at the same time: no key of the tasks keeps them apart.

    A refusal by a third operator takes an id, too, while the first claim is not committed.
    """
    policy = Policy(max_concurrent_runs=2)
    with (
        closing(World(database_url, policy)) as first,
        closing(World(database_url, policy, create=False)) as second,
        closing(World(database_url, policy, create=False)) as third,
        ThreadPoolExecutor() as pool,
    ):
        early = [first.add("processing") for _ in range(2)]
        late = first.add("pending")
        first.reconcile()
        for _ in range(2):
            first.add("enrolled")
        held = HeldBeforeCommit(first.database)

        def claim(database: Database) -> list[UnfinishedRun]:
            return claim_runs(database, first.tables, limit=2, unfinished=0)

        def refuse() -> None:
            task = tasks.TrackedTask(late, "pending", EPOCH)
            assert tasks.expire(
                third.database, third.tables, task, EPOCH, installation="test", message="late"
            )

        submitted = [pool.submit(claim, held)]
        assert held.has_written.wait(60)
        if not first.database.is_sqlite:  # it has one writer at a time
            for task in early:
                second.set(task, "enrolled")
        refusal = pool.submit(refuse if is_refused else lambda: None)
        wait([refusal], 0.5)
        submitted.append(pool.submit(claim, second.database))
        wait(submitted, 0.5)
        held.may_commit.set()
        refusal.result()
        assert [len(each.result()) for each in submitted] == [2, 0]
        assert first.scalar("SELECT COUNT(*) FROM enrollgate_runs WHERE active = 1") == 2
        assert first.status(late) == ("failed" if is_refused else "pending")


def test_operators_that_claim_and_refuse_all_the_time_keep_to_the_limit(
    server_database_url: str,
) -> None:
    """Three operators pass without a pause while Node.js enrolls tasks and others time out."""
    policy = Policy(enrollment_timeout=300, max_concurrent_runs=4)
    rows = 90
    with closing(World(server_database_url, policy)) as first, ExitStack() as stack:
        operators = [first] + [
            stack.enter_context(closing(World(server_database_url, policy, create=False)))
            for _ in range(2)
        ]
        values = ",".join(f"('processing', 'a@example.com', '{COURSE}')" for _ in range(rows))
        first.sql(f"INSERT INTO download_tasks (status, email, course_url) VALUES {values}")
        first.reconcile()
        for each in operators:
            each.clock.advance(300)
        is_over, most, claimed = threading.Event(), [0], list[str]()

        def watch() -> None:
            with first.database.engine.connect().execution_options(
                isolation_level="AUTOCOMMIT"
            ) as connection:
                while not is_over.is_set():
                    count = text("SELECT COUNT(*) FROM enrollgate_runs WHERE active = 1")
                    most.append(connection.execute(count).scalar_one())

        def operate(world: World, seed: int) -> None:
            random = Random(seed)
            for _ in range(40):
                task = random.randint(1, rows)
                world.sql(
                    "UPDATE download_tasks SET status = 'enrolled' "
                    "WHERE id = :id AND status = 'processing'",
                    id=task,
                )
                mine = claim_runs(world.database, world.tables, limit=4, unfinished=0)
                claimed.extend(run.name for run in mine)
                for late in tasks.due(world.database, world.tables, world.clock.now, 300)[:2]:
                    tasks.expire(
                        world.database, world.tables, late, EPOCH, installation="test", message=""
                    )
                if mine:
                    world.sql(
                        "UPDATE enrollgate_runs SET state = 'finished' WHERE name = :name",
                        name=mine[0].name,
                    )

        with ThreadPoolExecutor() as pool:
            watcher = pool.submit(watch)
            working = [pool.submit(operate, each, seed) for seed, each in enumerate(operators)]
            wait(working)
            is_over.set()
            watcher.result()
            for work in working:
                work.result()
        assert len(claimed) == len(set(claimed)) > 4
        assert max(most) == 4


def test_focused_pass_leaves_runs_that_another_operator_claimed(
    database_url: str,
) -> None:
    """The other operator has created the run but not recorded that it was launched.

    The task fails and is enrolled again: two runs must never be live at once.
    """
    with closing(World(database_url)) as world:
        done, task, other = world.add("enrolled"), world.add("processing"), world.add("processing")
        world.reconcile()
        first = f"test-{task}-1"
        world.set(task, "enrolled")
        claimed = claim_runs(world.database, world.tables, limit=10, unfinished=1)
        assert [run.name for run in claimed] == [first]
        launch(world.launcher, [RunOrder(first, task, 1, COURSE, "cookies.txt", "c")])
        world.set(task, "failed")
        world.set(other, "enrolled")
        world.launcher.succeed(f"test-{done}-1")
        world.reconcile([f"test-{done}-1"])
        world.set(task, "enrolled")
        assert [run.outcome for run in world.runs(task)] == [None], (
            "it is live, and nobody has observed it"
        )
        for _ in range(5):
            world.reconcile()
            assert sum(name.startswith(f"test-{task}-") for name in world.launcher.live) <= 1
        assert world.status(other) == "enrolled" and f"test-{other}-1" in world.launcher.live


def test_two_operators_launch_1000_tasks_exactly_once(
    two_operators: tuple[World, World],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two operators with their own connections share one launcher, as replicas share a cluster."""
    first, second = two_operators
    second.launcher = first.launcher
    second.restart()
    values = ",".join(
        "('enrolled', 'a@example.com', 'https://courses.example.com/')" for _ in range(1000)
    )
    first.sql(f"INSERT INTO download_tasks (status, email, course_url) VALUES {values}")
    launched: list[int] = []
    lock = threading.Lock()
    original = first.launcher._launch

    def launch_alone(order: RunOrder) -> LaunchOutcome | None:
        with lock:  # the launcher in memory is not thread-safe
            return original(order)

    monkeypatch.setattr(first.launcher, "_launch", launch_alone)
    errors: list[BaseException] = []

    def operate(world: World) -> None:
        try:
            for _ in range(5):
                world.reconcile()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=operate, args=(world,)) for world in two_operators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    launched = [order.task_id for order in first.launcher.orders]
    assert len(launched) == 1000 and max(Counter(launched).values()) == 1
    runs = first.runs()
    assert len(runs) == 1000 and {run.run_number for run in runs} == {1}


def test_second_operators_pass_at_any_point_launches_nothing_twice(
    tmp_path: Path,
) -> None:
    """The tasks: enrolled, with a finished run, with a run to stop, enrolled again after a
    failure.
    """
    points = 0
    while _a_pass_within_a_pass(f"sqlite:///{tmp_path / str(points)}.db", points):
        points += 1
    assert points > 20, "the second pass ran at every point of the first"


def test_run_created_before_a_crash_gets_one_launched_event(
    tmp_path: Path,
) -> None:
    with closing(World(f"sqlite:///{tmp_path}/dead.db")) as world:
        task = world.add("enrolled")
        world.reconcile()
        world.sql("UPDATE enrollgate_runs SET state = 'claimed', launched_at = NULL")
        world.launcher.events.clear()
        world.restart()
        for _ in range(2):
            world.reconcile()
        assert [(name, event.kind) for name, event in world.launcher.events] == [
            (f"test-{task}-1", RunEventType.LAUNCHED)
        ]


def _a_pass_within_a_pass(url: str, points: int) -> bool:
    """Run a pass of the second operator after `points` points. Return False if there are fewer."""
    interruption = Interruption()
    with closing(World(url)) as world:
        ended, stopped, again, fresh = (world.add("enrolled") for _ in range(4))
        world.set(fresh, "processing")
        world.reconcile()
        world.launcher.fail(f"test-{again}-1")
        world.reconcile()
        world.launcher.succeed(f"test-{ended}-1")
        world.set(stopped, "failed")
        world.set(again, "enrolled")
        world.set(fresh, "enrolled")
        first, second = interrupted_operator(world, interruption), world.new_operator()
        with interruption.after(points, lambda: second.reconcile() and None):
            first.reconcile()
            is_reached = interruption.countdown is None
        for _ in range(3):
            for operator in (first, second):
                operator.reconcile()
                tasks = [
                    name.split("-")[1]
                    for name in world.launcher.live
                    if name not in world.launcher.stopping
                ]
                assert len(tasks) == len(set(tasks)), (
                    f"after {points} points: {world.launcher.live}"
                )
        rows = [(run.task_id, run.run_number, run.state, run.outcome) for run in world.runs()]
        assert rows == [
            (ended, 1, "finished", "succeeded"),
            (stopped, 1, "finished", "revoked"),
            (again, 1, "finished", "failed"),
            (again, 2, "launched", None),
            (fresh, 1, "launched", None),
        ], f"after {points} points"
        assert sorted(world.launcher.live) == [f"test-{again}-2", f"test-{fresh}-1"]
        events = Counter((name, event.kind) for name, event in world.launcher.events)
        once = [
            count
            for (_, kind), count in events.items()
            if kind in (RunEventType.LAUNCHED, RunEventType.COMPLETED)
        ]
        assert once == [1] * (len(rows) + 1), f"after {points} points: {events}"
    return is_reached
