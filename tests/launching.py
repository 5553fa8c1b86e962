"""Call a launcher as the reconciler does, from orders and names alone."""

from collections.abc import Iterable

from enrollgate.domain.observation import LaunchOutcome, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.planner import Launch
from enrollgate.domain.run import RunPlace, RunState, UnfinishedRun
from enrollgate.domain.task import TaskState
from enrollgate.launchers import Launcher


def build_launch(order: RunOrder) -> Launch:
    """Build the action that launches a claimed run of an enrolled task."""
    run = UnfinishedRun(
        run_id=order.task_id,
        task_id=order.task_id,
        run_number=order.run_number,
        name=order.name,
        state=RunState.CLAIMED,
        task=TaskState.ENROLLED,
        task_status="enrolled",
        email="ada@example.com",
        course_url=order.course_url,
        place=RunPlace("memory", "test"),
    )
    return Launch(run, order)


def launch(launcher: Launcher, orders: Iterable[RunOrder]) -> dict[str, LaunchOutcome]:
    """Launch these orders; return the outcomes by run name."""
    results = launcher.launch(build_launch(order) for order in orders)
    return {launched.run.name: result.outcome for launched, result in results}


def discard(launcher: Launcher, names: Iterable[str]) -> None:
    """Discard finished local runs by name."""
    launcher.discard(Observation(name, Phase.FAILED) for name in names)
