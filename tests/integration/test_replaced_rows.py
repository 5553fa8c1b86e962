"""A row that is replaced at each point of a pass: its run is never taken for the new row's."""

from contextlib import closing

import pytest
from tests.interruptions import Interruption, interrupted_operator
from tests.world import COURSE, World

from enrollgate.domain.order import RunOrder

# More than the points of a pass here.
POINTS = 40


@pytest.mark.parametrize("point", range(POINTS))
@pytest.mark.parametrize("when", ["launch", "left claim", "result", "results", "live"])
def test_row_replaced_at_a_point_of_a_pass_gets_its_own_course(
    sqlite_url: str, when: str, point: int
) -> None:
    with closing(World(sqlite_url)) as world:
        interruption, moved, before = Interruption(), set[int](), dict[int, str | None]()
        tasks = [world.add("enrolled") for _ in range(3 if when == "results" else 1)]

        def replace() -> None:
            for task in tasks:
                moved.add(task)
                before[task] = world.status(task)
                world.sql(
                    "UPDATE download_tasks SET course_url = :url WHERE id = :id",
                    url=f"{COURSE}/new",
                    id=task,
                )

        def check(order: RunOrder) -> None:
            row = f"FROM download_tasks WHERE id = {order.task_id}"
            is_same = world.scalar(f"SELECT course_url = '{order.course_url}' {row}")
            assert is_same or order.task_id in moved, "launched what the last check did not find"

        operator = interrupted_operator(world, interruption, check, moved.clear)
        if when != "launch":
            world.reconcile()
        if when == "left claim":
            world.sql("UPDATE enrollgate_runs SET state = 'claimed', launched_at = NULL")
            world.launcher.runs.clear()
            world.launcher.orders.clear()
        for task in tasks if when.startswith("result") else ():
            world.launcher.succeed(f"test-{task}-1")
        with interruption.after(point, replace):
            operator.reconcile()
        if not before:
            return  # the pass has fewer points
        orders = {order.name: order.course_url for order in world.launcher.orders}
        completed = {task for task in tasks if world.status(task) == "completed"}
        assert completed == {task for task in tasks if before[task] == "completed"}
        operator.reconcile()
        live = set(world.launcher.live) - world.launcher.stopping
        assert {orders.get(name, f"{COURSE}/new") for name in live} <= {f"{COURSE}/new"}
