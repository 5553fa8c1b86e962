"""Two clusters on one database, with one installation and one name of the namespace.

The launchers are real. Each has its own API server, which keeps Jobs in memory.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
import structlog
from kubernetes import client
from structlog.testing import capture_logs
from tests.job_settings import job_settings
from tests.world import World

from enrollgate.commands.mark_lost import mark_lost
from enrollgate.database import runs
from enrollgate.domain.policy import Policy
from enrollgate.domain.run import RunPlace
from enrollgate.launchers import LauncherRefused
from enrollgate.launchers.kubernetes import Api, KubernetesLauncher

NAMESPACE = "/api/v1/namespaces/courses"
FORBIDDEN = (
    'namespaces "courses" is forbidden: User "operator" cannot get resource "namespaces" '
    'in API group "" in the namespace "courses"'
)


class ClusterApi(Api):
    """An API server that keeps Jobs. Nothing runs them."""

    def __init__(self, uid: str) -> None:
        super().__init__(client.Configuration(), random=Random(1), sleep=lambda _seconds: True)
        self.uid = uid
        self.may_read_namespace = True
        self.jobs: dict[str, dict[str, Any]] = {}

    def _send(self, method: str, path: str, _query: object, body: Any, *_more: object) -> Any:
        status, answer = self._answer(method, path, body)
        return status, {}, json.dumps(answer).encode()

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        name = path.rpartition("/")[2]
        if path == NAMESPACE:
            if not self.may_read_namespace:
                return 403, {"reason": "Forbidden", "message": FORBIDDEN}
            return 200, {"metadata": {"name": "courses", "uid": self.uid}}
        if method == "POST" and name == "jobs":
            about = {"uid": f"{self.uid}-1", "creationTimestamp": "2026-01-01T12:00:00Z"}
            job = {**body, "metadata": {**body["metadata"], **about}}
            self.jobs[job["metadata"]["name"]] = job
            return 201, job
        if name in {"jobs", "pods", "events"}:
            return 200, {"items": list(self.jobs.values()) if name == "jobs" else []}
        if name in self.jobs:
            return 200, self.jobs.pop(name) if method == "DELETE" else self.jobs[name]
        return 404, {"reason": "NotFound", "message": f"no {name}"}


MakeLauncher = Callable[[ClusterApi], KubernetesLauncher]


@pytest.fixture
def make_launcher() -> Iterator[MakeLauncher]:
    with ExitStack() as opened:

        def make(api: ClusterApi) -> KubernetesLauncher:
            launcher = KubernetesLauncher(
                api,
                job_settings(installation="test"),
                start_timeout=900,
                concurrency=1,
                clock=lambda: datetime(2026, 1, 1, 12, tzinfo=UTC),
            )
            return opened.enter_context(closing(launcher))

        yield make


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with closing(World(database_url, Policy(max_concurrent_runs=3))) as world:
        yield world


def test_cluster_with_the_same_names_waits_for_the_runs_of_the_other(
    world: World, make_launcher: MakeLauncher
) -> None:
    west, east = ClusterApi("uid-west"), ClusterApi("uid-east")
    in_west = world.new_operator(launcher=make_launcher(west))
    in_east = world.new_operator(launcher=make_launcher(east))
    world.add("enrolled")
    in_west.reconcile()
    structlog.reset_defaults()
    with capture_logs() as lines:
        for _ in range(3):
            in_east.reconcile()
            in_east.reconcile(["test-1-1"])
    (line,) = [line for line in lines if "elsewhere" in line["event"]]
    assert "another cluster" in line["place"] and line["runs"] == 1
    assert "enrollgate mark-lost uid-west" in line["remedy"]
    assert list(west.jobs) == ["test-1-1"] and east.jobs == {}
    world.add("enrolled")
    in_east.reconcile()
    in_west.reconcile()
    assert list(west.jobs) == ["test-1-1"] and list(east.jobs) == ["test-2-1"]
    assert [run.state for run in world.runs()] == ["launched", "launched"]


def test_new_operator_of_the_same_cluster_goes_on_with_its_runs(
    world: World, make_launcher: MakeLauncher
) -> None:
    api = ClusterApi("uid-west")
    task = world.add("enrolled")
    world.new_operator(launcher=make_launcher(api)).reconcile()
    again = world.new_operator(launcher=make_launcher(api))
    again.reconcile()
    assert [run.state for run in world.runs()] == ["launched"]
    api.jobs.clear()
    again.reconcile()
    assert [run.outcome for run in world.runs(task)] == ["lost", None], "a Job that is deleted here"


@pytest.mark.parametrize("changed", [None, ["test-1-1"]], ids=["full pass", "focused pass"])
def test_run_is_not_lost_when_another_namespace_answers_under_the_name(
    world: World, make_launcher: MakeLauncher, changed: list[str] | None
) -> None:
    """The namespace was deleted and created again, or the address leads to another cluster."""
    api = ClusterApi("uid-1")
    task = world.add("enrolled")
    operator = world.new_operator(launcher=make_launcher(api))
    operator.reconcile()
    api.uid = "uid-2"
    api.jobs.clear()
    for _ in range(2):
        operator.reconcile(changed)
    assert [(run.state, run.outcome) for run in world.runs(task)] == [("launched", None)]
    world.add("enrolled")
    operator.reconcile()
    assert list(api.jobs) == ["test-2-1"]
    here = RunPlace("kubernetes", "courses", machine_id="uid-2")
    (elsewhere,) = runs.unfinished_elsewhere(world.database, installation="test", here=here)
    assert elsewhere.id == "uid-1", "and the new run is at the new place"


def test_without_the_permission_no_run_is_lost_and_the_remedy_is_named(
    world: World, make_launcher: MakeLauncher
) -> None:
    api = ClusterApi("uid-west")
    task = world.add("enrolled")
    world.new_operator(launcher=make_launcher(api)).reconcile()
    api.may_read_namespace = False
    api.jobs.clear()
    operator = world.new_operator(launcher=make_launcher(api))
    with pytest.raises(
        LauncherRefused, match='cannot get resource "namespaces".*Role in the chart'
    ):
        operator.reconcile()
    assert [run.state for run in world.runs(task)] == ["launched"] and api.jobs == {}
    api.may_read_namespace = True
    operator.reconcile()
    assert [run.outcome for run in world.runs(task)] == ["lost", None]


def test_mark_lost_takes_the_uid_and_leaves_the_other_cluster_alone(
    world: World,
    make_launcher: MakeLauncher,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    west, east = ClusterApi("uid-west"), ClusterApi("uid-east")
    for api in (west, east):
        world.add("enrolled")
        world.new_operator(launcher=make_launcher(api)).reconcile()
    monkeypatch.setenv("ENROLLGATE_DATABASE_URL", world.url)
    monkeypatch.setenv("ENROLLGATE_INSTALLATION", "test")
    monkeypatch.setenv("ENROLLGATE_DESTINATION", "directory:/courses")
    mark_lost(None)
    shown = capsys.readouterr().out
    assert "uid-west  kubernetes namespace courses: 1 unfinished (test-1-1)" in shown
    assert "uid-east  kubernetes namespace courses: 1 unfinished (test-2-1)" in shown
    mark_lost("uid-west")
    assert [run.outcome for run in world.runs()] == ["lost", None]
    world.new_operator(launcher=make_launcher(east)).reconcile()
    assert sorted(east.jobs) == ["test-1-2", "test-2-1"]
    world.new_operator(launcher=make_launcher(west)).reconcile()
    assert west.jobs == {}, "the cluster is back: it stops what it has no unfinished run for"
