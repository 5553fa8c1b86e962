"""What happens when operators and supervisors die, and when there are two of them."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.launchers.harness import (
    LocalLauncherHarness,
    finished,
    gone,
    order,
    start,
    wait_for,
)
from tests.launching import discard, launch

from enrollgate.domain.observation import LaunchOutcome, Phase

GATED = """
note("ready", os.getpid())
while not (notes / "go").exists():
    time.sleep(0.01)
note("done")
report(None, "went on")
"""


def test_a_restarted_operator_adopts_a_live_run_and_hears_of_its_end(
    workshop: LocalLauncherHarness,
) -> None:
    first = workshop.launcher(GATED, on_change=lambda: None)
    name = start(first)
    wait_for(lambda: "ready" in workshop.noted())
    first.close()
    second = workshop.launcher(GATED)
    assert second.observe()[name].phase is Phase.LIVE
    assert launch(second, [order()]) == {name: LaunchOutcome.ADOPTED}
    assert not workshop.changed.is_set()
    (workshop.notes / "go").touch()
    assert workshop.changed.wait(60)
    assert second.observe()[name].phase is Phase.SUCCEEDED


def test_a_run_that_ended_while_there_was_no_operator_is_seen_by_the_next(
    workshop: LocalLauncherHarness,
) -> None:
    first = workshop.launcher(GATED)
    name = start(first)
    wait_for(lambda: "ready" in workshop.noted())
    first.close()
    (workshop.notes / "go").touch()
    wait_for(workshop.run(name).result.exists)
    second = workshop.launcher(GATED)
    assert second.observe()[name].phase is Phase.SUCCEEDED
    assert launch(second, [order()]) == {name: LaunchOutcome.ADOPTED}


def test_a_run_outlives_an_operator_that_is_killed(workshop: LocalLauncherHarness) -> None:
    operator = f"""
import sys, time
from pathlib import Path
from tests.integration.launchers.harness import LocalLauncherHarness, start
workshop = LocalLauncherHarness(Path({str(workshop.notes.parent / "other")!r}))
workshop.work_dir, workshop.notes = Path({str(workshop.work_dir)!r}), Path({str(workshop.notes)!r})
start(workshop.launcher({GATED!r}))
print("launched", flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", operator],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": _python_path()},
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"launched\n"
        killed.kill()
    launcher = workshop.launcher(GATED)
    name = order().name
    worker = workshop.noted_pid("ready")
    assert launcher.observe()[name].phase is Phase.LIVE
    (workshop.notes / "go").touch()
    assert finished(launcher, name).phase is Phase.SUCCEEDED
    assert gone(worker)


def _python_path() -> str:
    return os.pathsep.join([os.environ["PYTHONPATH"], str(Path.cwd())])


def test_a_run_whose_supervisor_is_killed_is_not_seen_and_its_worker_is_gone(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(GATED)
    name = start(launcher)
    worker = workshop.noted_pid("ready")
    assert launcher.observe()[name].phase is Phase.LIVE
    (workshop.run(name).scratch / "part").touch()
    os.kill(workshop.supervisor_pid(name), signal.SIGKILL)
    assert workshop.changed.wait(60)
    assert launcher.observe() == {}
    wait_for(lambda: gone(worker))
    (workshop.notes / "go").touch()
    assert launch(launcher, [order()]) == {name: LaunchOutcome.LAUNCHED}
    assert finished(launcher, name).phase is Phase.SUCCEEDED
    assert (workshop.run(name).scratch / "part").exists()


def test_what_outlives_a_killed_supervisor_is_killed_before_its_run_counts_as_gone(
    workshop: LocalLauncherHarness,
) -> None:
    script = """
child = subprocess.Popen(["sleep", "600"], process_group=0)
note("worker", os.getpid())
note("child", child.pid)
time.sleep(600)
"""
    launcher = workshop.launcher(script)
    name = start(launcher)
    child = workshop.noted_pid("child")
    supervisor = workshop.supervisor_pid(name)
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: gone(supervisor) and gone(workshop.noted_pid("worker")))
    assert not gone(child)
    assert launcher.observe() == {}
    assert gone(child)


def test_a_live_run_whose_lock_was_deleted_is_still_live_and_can_be_stopped(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(GATED)
    name = start(launcher)
    worker = workshop.noted_pid("ready")
    workshop.run(name).lock.unlink()
    assert launcher.observe()[name].phase is Phase.LIVE
    assert launch(launcher, [order()]) == {}
    discard(launcher, [name])
    assert not gone(worker)
    launcher.stop(name)
    assert finished(launcher, name).phase is Phase.FAILED
    assert gone(worker)


def test_stop_launch_and_discard_clear_away_what_outlives_a_killed_supervisor(
    workshop: LocalLauncherHarness,
) -> None:
    script = """
child = subprocess.Popen(["sleep", "600"], process_group=0)
note("child-" + os.environ["ENROLLGATE_TASK_ID"], child.pid)
time.sleep(600)
"""
    launcher = workshop.launcher(script)
    names = [start(launcher, task_id) for task_id in (1, 2, 3)]
    children = [workshop.noted_pid(f"child-{task_id}") for task_id in (1, 2, 3)]
    for name in names:
        supervisor = workshop.supervisor_pid(name)
        os.kill(supervisor, signal.SIGKILL)
        wait_for(lambda supervisor=supervisor: gone(supervisor))
    launcher.stop(names[0])
    discard(launcher, [names[1]])
    assert launch(launcher, [order(3)]) == {names[2]: LaunchOutcome.LAUNCHED}
    assert all(gone(child) for child in children)
    assert set(launcher.observe()) == {names[2]}


def test_a_recycled_pid_is_never_killed(workshop: LocalLauncherHarness) -> None:
    """The supervisor's file names a pid that has gone to a stranger, who is left alone whatever is asked for."""
    launcher = workshop.launcher(GATED)
    name = start(launcher)
    worker = workshop.noted_pid("ready")
    run = workshop.run(name)
    supervisor = workshop.supervisor_pid(name)
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True, cwd=run.path)
    try:
        run.supervisor.write_text(
            run.supervisor.read_text().replace(f'"pid": {supervisor}', f'"pid": {stranger.pid}')
        )
        launcher.stop(name)  # live: its supervisor hears of it by the note alone
        assert finished(launcher, name).phase is Phase.FAILED
        assert gone(worker)
        wait_for(lambda: gone(supervisor))
        run.result.unlink()  # dead without a verdict: now the orphans would be sought
        launcher.stop(name)
        assert launcher.observe() == {}
        discard(launcher, [name])
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_two_operators_launching_the_same_runs_start_each_exactly_once(
    workshop: LocalLauncherHarness,
) -> None:
    script = 'note(os.environ["ENROLLGATE_TASK_ID"] + "-" + str(os.getpid())); report(None)'
    launchers = [workshop.launcher(script), workshop.launcher(script)]
    orders = [order(task_id) for task_id in range(1, 21)]
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda launcher: launch(launcher, orders), launchers))
        launched = [
            name
            for each in outcomes
            for name, outcome in each.items()
            if outcome is LaunchOutcome.LAUNCHED
        ]
        assert sorted(launched) == sorted(one.name for one in orders)
        assert all(set(each) == {one.name for one in orders} for each in outcomes)
        for one in orders:
            assert finished(launchers[0], one.name).phase is Phase.SUCCEEDED
    assert sorted(int(note.split("-")[0]) for note in workshop.noted()) == list(range(1, 21))


def test_observing_all_the_time_disturbs_no_launch(workshop: LocalLauncherHarness) -> None:
    script = 'note(os.environ["ENROLLGATE_TASK_ID"]); report(None)'
    launching, observing = workshop.launcher(script), workshop.launcher(script)
    orders = [order(task_id) for task_id in range(1, 11)]
    with ThreadPoolExecutor(1) as pool:
        looks = pool.submit(lambda: [observing.observe() for _ in range(300)])
        outcomes = launch(launching, orders)
        looks.result()
    assert set(outcomes.values()) == {LaunchOutcome.LAUNCHED}
    for one in orders:
        assert finished(observing, one.name).phase is Phase.SUCCEEDED


def test_no_zombies_are_left(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher("report(None)")
    names = [start(launcher, task_id) for task_id in (1, 2, 3)]
    supervisors = [workshop.supervisor_pid(name) for name in names]
    for name in names:
        finished(launcher, name)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in supervisors))


def test_every_run_that_ends_is_announced(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher("report(None)")
    for task_id in (1, 2, 3):
        workshop.changed.clear()
        name = start(launcher, task_id)
        assert workshop.changed.wait(60)
        assert launcher.observe()[name].phase is Phase.SUCCEEDED


def test_a_closed_launcher_leaves_its_runs_alone(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher(GATED)
    start(launcher)
    worker = workshop.noted_pid("ready")
    launcher.close()
    launcher.close()
    assert not gone(worker)
