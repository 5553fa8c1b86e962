"""The order of launches: accounts take turns, limits hold back nobody, priority comes first."""

from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import text
from tests.world import World

from enrollgate.database.tables import Tables
from enrollgate.database.task_details import load_task_details
from enrollgate.domain.policy import Policy
from enrollgate.domain.task import TaskColumns

POLICY = Policy(max_concurrent_runs=4)
ELSEWHERE = "https://other.example.com/course"


def live_tasks(world: World) -> list[int]:
    return sorted(int(name.split("-")[1]) for name in world.launcher.live)


def complete(world: World, task: int) -> None:
    world.launcher.succeed(f"test-{task}-1")
    world.reconcile([f"test-{task}-1"])


def accounts(world: World) -> Counter[str]:
    with world.database.autocommit() as connection:
        rows = connection.execute(
            text(
                "SELECT t.email FROM download_tasks t JOIN enrollgate_runs r ON r.task_id = t.id "
                "WHERE r.active = 1"
            )
        ).all()
    return Counter(row[0].strip().lower() for row in rows)


def test_accounts_take_turns_however_many_tasks_one_of_them_has(database_url: str) -> None:
    with closing(World(database_url, POLICY)) as world:
        many = [world.add("enrolled", "ada@example.com") for _ in range(30)]
        few = [world.add("enrolled", f"{name}@example.com") for name in ("bob", "eve", "joe")]
        world.reconcile()
        assert live_tasks(world) == [many[0], *few]
        complete(world, few[0])
        assert live_tasks(world) == [*many[:2], *few[1:]]
        late = world.add("enrolled", "mia@example.com")
        world.reconcile()
        complete(world, many[0])
        assert late in live_tasks(world), "an account that comes late waits for one slot only"


def test_all_are_launched_if_there_are_slots_for_all(database_url: str) -> None:
    with closing(World(database_url, replace(POLICY, max_concurrent_runs=200))) as world:
        tasks = [world.add("enrolled", f"a{index % 7}@example.com") for index in range(120)]
        world.reconcile()
        assert live_tasks(world) == tasks


@pytest.mark.parametrize("count", [3, 60])
def test_limit_per_account_starves_nobody(database_url: str, count: int) -> None:
    policy = replace(POLICY, max_runs_per_account=2, max_concurrent_runs=10)
    with closing(World(database_url, policy)) as world:
        many = [world.add("enrolled", " Ada@Example.com") for _ in range(count)]
        other = [world.add("enrolled", "bob@example.com") for _ in range(3)]
        for _ in range(4):
            world.reconcile()
        assert live_tasks(world) == [*many[:2], *other[:2]]
        complete(world, many[0])
        assert live_tasks(world) == [*many[1:3], *other[:2]]
        for _ in range(200):
            assert max(accounts(world).values(), default=0) <= 2
            for task in live_tasks(world):
                complete(world, task)
            world.reconcile()
        assert world.scalar("SELECT count(*) FROM download_tasks WHERE status='enrolled'") == 0


def test_limit_per_host_starves_no_other_host(database_url: str) -> None:
    policy = replace(POLICY, max_runs_per_host=1, max_concurrent_runs=3)
    with closing(World(database_url, policy)) as world:
        first = [world.add("enrolled", f"a{index}@example.com") for index in range(1200)]
        last = world.add("enrolled", "a0@example.com", ELSEWHERE)
        for _ in range(3):
            world.reconcile()
        assert live_tasks(world) == [first[0], last]


def test_priority_comes_before_turns_and_null_last(database_url: str) -> None:
    with closing(World(database_url, replace(POLICY, max_concurrent_runs=1))) as world:
        world.sql("ALTER TABLE download_tasks ADD COLUMN urgency INTEGER")
        world.tables = Tables.named(TaskColumns(priority="urgency"), world.statuses)
        world.restart()
        tasks = [world.add("enrolled", f"{name}@example.com") for name in "aabbcc"]
        for task, urgency in zip(tasks, [None, 1, 5, -3, 0, 7], strict=True):
            world.sql(
                "UPDATE download_tasks SET urgency = :urgency WHERE id = :id",
                urgency=urgency,
                id=task,
            )
        world.reconcile()
        order = list[int]()
        for _ in tasks:
            (task,) = live_tasks(world)
            order.append(task)
            complete(world, task)
        assert order == [tasks[index] for index in (5, 2, 1, 4, 3, 0)]


@pytest.mark.parametrize("has_priorities", [False, True])
def test_shown_places_are_the_order_of_the_launches(
    database_url: str, has_priorities: bool
) -> None:
    with closing(World(database_url, replace(POLICY, max_concurrent_runs=2))) as world:
        world.sql("ALTER TABLE download_tasks ADD COLUMN urgency INTEGER")
        if has_priorities:
            world.tables = Tables.named(TaskColumns(priority="urgency"), world.statuses)
            world.restart()
        live = [world.add("enrolled", f"{name}@example.com") for name in ("ada", "zoe")]
        world.reconcile()
        names = ("ada", "bob", "ada", "eve", " ADA", "bob")
        tasks = [world.add("enrolled", f"{name}@example.com") for name in names]
        world.sql(f"UPDATE download_tasks SET urgency = 7 WHERE id = {tasks[4]}")
        world.reconcile()
        ahead = {
            task: load_task_details(world.database, world.tables, task, installation="test").ahead
            for task in (*live, *tasks)
        }
        assert [ahead[task] for task in live] == [None, None]
        order = list[int]()
        for _ in tasks:
            complete(world, live[1])
            (live[1],) = (task for task in live_tasks(world) if task != live[0])
            order.append(live[1])
        assert [ahead[task] for task in order] == list(range(len(tasks)))


def test_two_operators_keep_to_the_limits_together(database_url: str) -> None:
    policy = replace(POLICY, max_runs_per_account=1, max_concurrent_runs=10)
    with closing(World(database_url, policy)) as world:
        for _ in range(5):
            world.add("enrolled", "ada@example.com")
        world.add("enrolled", "bob@example.com")
        operators = [world.new_operator() for _ in range(2)]
        for _ in range(3):
            for operator in operators:
                operator.reconcile()
                operator.look()
                assert accounts(world)["ada@example.com"] == 1
        assert accounts(world) == Counter({"ada@example.com": 1, "bob@example.com": 1})
