"""What every `Launcher` promises, as one list of test cases.

`LauncherConformance` is inherited by a test class wherever a launcher can run: in memory and with
local processes (tests/integration/launchers), on a real API server (tests/cluster). Each of them
has a fixture `backend`.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import pytest
from tests.launching import build_launch, launch

from enrollgate.domain.observation import LaunchOutcome, Observation, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import Report
from enrollgate.domain.run_event import RunEvent, RunEventType
from enrollgate.launchers import Launcher, LauncherUnavailable

INSTALLATION = "school"
DELIVERED = Report(None, "3 items delivered")
DENIED = Report(Reason.ACCESS_DENIED, "the site answered 403")
# Seconds for a run to change; generous, since machines are slow at times.
TIMEOUT = 120.0


class LauncherBackend(Protocol):
    """A launcher, and what a test does to its runs."""

    @property
    def launcher(self) -> Launcher: ...

    def restart(self) -> None:
        """Replace the launcher by a new one, as after a restart of the operator."""

    def finish(self, name: str, report: Report) -> None:
        """Let the worker of a run end with this report."""

    def take_name(self, name: str) -> None:
        """Create an object of this name that is not ours."""

    def make_unavailable(self) -> None:
        """Make all runs impossible to observe."""


def build_order(task_id: int = 1) -> RunOrder:
    """Build the first run of a task."""
    name = f"{INSTALLATION}-{task_id}-1"
    return RunOrder(name, task_id, 1, "https://courses.example.com/1", "cookies.txt", "first")


def wait_for_observation(
    launcher: Launcher, name: str, condition: Callable[[Observation | None], bool]
) -> Observation | None:
    """Observe one run until the condition holds, and return what was observed last."""
    deadline = time.monotonic() + TIMEOUT
    while not condition(observation := launcher.observe([name]).get(name)):
        if time.monotonic() > deadline:
            pytest.fail(f"after {TIMEOUT:g} s, {name} is still {observation}")
        time.sleep(0.05)
    return observation


def start(launcher: Launcher, task_id: int = 1) -> str:
    """Launch one run. Returns its name."""
    order = build_order(task_id)
    assert launch(launcher, [order]) == {order.name: LaunchOutcome.LAUNCHED}
    return order.name


def finish(backend: LauncherBackend, report: Report, task_id: int = 1) -> Observation:
    """Launch a run and let it end with this report. Returns its observation."""
    name = start(backend.launcher, task_id)
    backend.finish(name, report)
    finished = wait_for_observation(
        backend.launcher, name, lambda seen: seen is None or not seen.is_live
    )
    assert finished is not None, "a finished run is observed until it is discarded"
    return finished


class LauncherConformance:
    """The cases. A subclass has a fixture `backend`."""

    def test_nothing_is_observed_before_the_first_launch(self, backend: LauncherBackend) -> None:
        assert backend.launcher.observe([]) == {}
        assert backend.launcher.observe([build_order().name], only=True) == {}

    def test_a_launched_run_is_observed_as_live(self, backend: LauncherBackend) -> None:
        name = start(backend.launcher)
        for observed in (
            backend.launcher.observe([name]),
            backend.launcher.observe([name], only=True),
            backend.launcher.observe([]),
        ):
            assert [(seen.name, seen.phase) for seen in observed.values()] == [(name, Phase.LIVE)]

    def test_each_launch_is_yielded_with_the_observed_uid(self, backend: LauncherBackend) -> None:
        launches = [build_launch(build_order(task)) for task in (1, 2, 3)]
        results = list(backend.launcher.launch(launches))
        assert [launched for launched, _ in results] == launches
        observed = backend.launcher.observe([])
        assert {launched.run.name: result.uid for launched, result in results} == {
            name: seen.uid for name, seen in observed.items()
        }

    def test_nothing_is_launched_before_a_result_is_asked_for(
        self, backend: LauncherBackend
    ) -> None:
        results = backend.launcher.launch([build_launch(build_order())])
        assert backend.launcher.observe([]) == {}
        assert [result.outcome for _, result in results] == [LaunchOutcome.LAUNCHED]

    def test_a_second_launch_of_a_live_run_adopts_it(self, backend: LauncherBackend) -> None:
        name = start(backend.launcher)
        before = backend.launcher.observe([name])[name]
        assert launch(backend.launcher, [build_order()]) == {name: LaunchOutcome.ADOPTED}
        assert backend.launcher.observe([name])[name] == before

    def test_a_second_launch_of_a_finished_run_adopts_it(self, backend: LauncherBackend) -> None:
        finished = finish(backend, DELIVERED)
        assert launch(backend.launcher, [build_order()]) == {finished.name: LaunchOutcome.ADOPTED}
        assert backend.launcher.observe([finished.name])[finished.name] == finished

    def test_an_observation_names_the_claim_and_the_launch(self, backend: LauncherBackend) -> None:
        name = start(backend.launcher)
        assert backend.launcher.observe([name])[name].claim_id == build_order().claim_id
        backend.finish(name, DELIVERED)
        finished = wait_for_observation(
            backend.launcher, name, lambda seen: seen is None or not seen.is_live
        )
        assert finished is not None and finished.claim_id == build_order().claim_id

    def test_a_live_run_of_another_claim_ends_before_its_name_is_used(
        self, backend: LauncherBackend
    ) -> None:
        """The database was restored: the same name is claimed again."""
        name = start(backend.launcher)
        again = replace(build_order(), claim_id="another")
        deadline = time.monotonic() + TIMEOUT
        while not (results := launch(backend.launcher, [again])):
            seen = backend.launcher.observe([name]).get(name)
            assert seen is None or seen.claim_id == build_order().claim_id
            assert time.monotonic() < deadline, f"the name is not free: {seen}"
            time.sleep(0.05)
        assert results == {name: LaunchOutcome.LAUNCHED}
        assert backend.launcher.observe([name])[name].claim_id == "another"

    def test_a_finished_run_of_another_claim_leaves_its_name(
        self, backend: LauncherBackend
    ) -> None:
        finished = finish(backend, DENIED)
        again = replace(build_order(), claim_id="another")
        deadline = time.monotonic() + TIMEOUT
        while not (results := launch(backend.launcher, [again])):
            assert time.monotonic() < deadline, "the name is not free"
            time.sleep(0.05)
        assert results == {finished.name: LaunchOutcome.LAUNCHED}

    def test_a_restarted_launcher_observes_and_adopts_the_runs(
        self, backend: LauncherBackend
    ) -> None:
        name = start(backend.launcher)
        before = backend.launcher.observe([name])
        backend.restart()
        assert backend.launcher.observe([name]) == before
        assert launch(backend.launcher, [build_order()]) == {name: LaunchOutcome.ADOPTED}

    def test_a_taken_name_is_reported_and_the_other_launches_go_on(
        self, backend: LauncherBackend
    ) -> None:
        taken, free = build_order(1), build_order(2)
        backend.take_name(taken.name)
        assert launch(backend.launcher, [taken, free]) == {
            taken.name: LaunchOutcome.NAME_TAKEN,
            free.name: LaunchOutcome.LAUNCHED,
        }
        assert list(backend.launcher.observe([free.name])) == [free.name]

    @pytest.mark.parametrize(
        ("report", "phase"), [(DELIVERED, Phase.SUCCEEDED), (DENIED, Phase.FAILED)]
    )
    def test_a_finished_run_is_observed_with_the_worker_s_report(
        self, backend: LauncherBackend, report: Report, phase: Phase
    ) -> None:
        finished = finish(backend, report)
        assert finished.phase is phase and finished.report is not None
        assert (finished.report.reason, finished.report.message) == (report.reason, report.message)

    def test_only_the_expected_runs_are_observed_on_request(self, backend: LauncherBackend) -> None:
        first, second = start(backend.launcher, 1), start(backend.launcher, 2)
        assert set(backend.launcher.observe([first])) == {first, second}
        assert set(backend.launcher.observe([first], only=True)) == {first}

    def test_a_discarded_run_is_not_observed_again(self, backend: LauncherBackend) -> None:
        finished = finish(backend, DELIVERED)
        for _ in range(2):
            backend.launcher.discard([finished])
            assert backend.launcher.observe([]) == {}
        assert backend.launcher.observe([finished.name], only=True) == {}

    def test_a_live_run_is_not_discarded(self, backend: LauncherBackend) -> None:
        name = start(backend.launcher)
        backend.launcher.discard([backend.launcher.observe([name])[name]])
        assert backend.launcher.observe([name])[name].is_live

    def test_a_stopped_run_ends_and_the_others_go_on(self, backend: LauncherBackend) -> None:
        name, other = start(backend.launcher, 1), start(backend.launcher, 2)
        uid = backend.launcher.observe([name])[name].uid
        for _ in range(2):
            backend.launcher.stop(name, uid)
        wait_for_observation(backend.launcher, name, lambda seen: seen is None or not seen.is_live)
        backend.launcher.stop(name, uid)
        assert backend.launcher.observe([other])[other].is_live

    def test_stopping_an_unknown_run_does_nothing(self, backend: LauncherBackend) -> None:
        backend.launcher.stop(build_order().name, None)
        assert backend.launcher.observe([]) == {}

    def test_stopping_a_finished_run_changes_nothing(self, backend: LauncherBackend) -> None:
        finished = finish(backend, DENIED)
        backend.launcher.stop(finished.name, finished.uid)
        assert backend.launcher.observe([finished.name]) == {finished.name: finished}

    def test_an_event_is_recorded_for_any_run_without_an_error(
        self, backend: LauncherBackend
    ) -> None:
        name = start(backend.launcher)
        event = RunEvent(RunEventType.LAUNCHED, "launched")
        backend.launcher.record_event(name, backend.launcher.observe([name])[name].uid, event)
        backend.launcher.record_event(build_order(2).name, None, event)
        assert list(backend.launcher.observe([])) == [name]

    def test_an_unavailable_launcher_raises_and_concludes_nothing(
        self, backend: LauncherBackend
    ) -> None:
        name = start(backend.launcher)
        backend.make_unavailable()
        with pytest.raises(LauncherUnavailable):
            backend.launcher.observe([name])
        with pytest.raises(LauncherUnavailable):
            backend.launcher.observe([name], only=True)
        with pytest.raises(LauncherUnavailable):
            launch(backend.launcher, [build_order(2)])
        with pytest.raises(LauncherUnavailable):
            backend.launcher.stop(name, None)
