"""What happens when operators and supervisors die, and when there are two of them."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.integration.launchers.harness import (
    LocalLauncherHarness,
    build_order,
    is_gone,
    start,
    wait_for,
    wait_until_finished,
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


def test_restarted_operator_adopts_a_live_run_and_sees_its_end(
    harness: LocalLauncherHarness,
) -> None:
    first = harness.launcher(GATED, on_change=lambda _name: None)
    name = start(first)
    wait_for(lambda: "ready" in harness.note_names())
    first.close()
    second = harness.launcher(GATED)
    assert second.observe()[name].phase is Phase.LIVE
    assert launch(second, [build_order()]) == {name: LaunchOutcome.ADOPTED}
    assert not harness.changed.is_set()
    (harness.notes / "go").touch()
    assert harness.changed.wait(60)
    assert harness.ended == [name]
    assert second.observe()[name].phase is Phase.SUCCEEDED


def test_run_that_ended_without_an_operator_is_observed_later(
    harness: LocalLauncherHarness,
) -> None:
    first = harness.launcher(GATED)
    name = start(first)
    wait_for(lambda: "ready" in harness.note_names())
    first.close()
    (harness.notes / "go").touch()
    wait_for(harness.run(name).result.exists)
    second = harness.launcher(GATED)
    assert second.observe()[name].phase is Phase.SUCCEEDED
    assert launch(second, [build_order()]) == {name: LaunchOutcome.ADOPTED}


def test_run_outlives_a_killed_operator(harness: LocalLauncherHarness) -> None:
    operator = f"""
import sys, time
from pathlib import Path
from tests.integration.launchers.harness import LocalLauncherHarness, start
harness = LocalLauncherHarness(Path({str(harness.notes.parent / "other")!r}))
harness.work_dir, harness.notes = Path({str(harness.work_dir)!r}), Path({str(harness.notes)!r})
start(harness.launcher({GATED!r}))
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
    launcher = harness.launcher(GATED)
    name = build_order().name
    worker = harness.wait_for_pid("ready")
    assert launcher.observe()[name].phase is Phase.LIVE
    (harness.notes / "go").touch()
    assert wait_until_finished(launcher, name).phase is Phase.SUCCEEDED
    assert is_gone(worker)


def _python_path() -> str:
    return os.pathsep.join([os.environ["PYTHONPATH"], str(Path.cwd())])


def test_run_of_a_killed_supervisor_is_lost_and_its_worker_killed(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(GATED)
    name = start(launcher)
    worker = harness.wait_for_pid("ready")
    assert launcher.observe()[name].phase is Phase.LIVE
    (harness.run(name).scratch / "part").touch()
    os.kill(harness.supervisor_pid(name), signal.SIGKILL)
    assert harness.changed.wait(60)
    assert launcher.observe() == {}
    wait_for(lambda: is_gone(worker))
    (harness.notes / "go").touch()
    assert launch(launcher, [build_order()]) == {name: LaunchOutcome.LAUNCHED}
    assert wait_until_finished(launcher, name).phase is Phase.SUCCEEDED
    assert (harness.run(name).scratch / "part").exists()


def test_orphans_are_killed_before_their_run_counts_as_gone(
    harness: LocalLauncherHarness,
) -> None:
    script = """
child = subprocess.Popen(["sleep", "600"], process_group=0)
note("worker", os.getpid())
note("child", child.pid)
time.sleep(600)
"""
    launcher = harness.launcher(script)
    name = start(launcher)
    child = harness.wait_for_pid("child")
    supervisor = harness.supervisor_pid(name)
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: is_gone(supervisor) and is_gone(harness.wait_for_pid("worker")))
    assert not is_gone(child)
    assert launcher.observe() == {}
    assert is_gone(child)


def test_live_run_with_a_deleted_lock_is_live_and_can_be_stopped(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(GATED)
    name = start(launcher)
    worker = harness.wait_for_pid("ready")
    harness.run(name).lock.unlink()
    assert launcher.observe()[name].phase is Phase.LIVE
    assert launch(launcher, [build_order()]) == {}
    discard(launcher, [name])
    assert not is_gone(worker)
    launcher.stop(name)
    assert wait_until_finished(launcher, name).phase is Phase.FAILED
    assert is_gone(worker)


def test_stop_launch_and_discard_kill_the_orphans_of_a_supervisor(
    harness: LocalLauncherHarness,
) -> None:
    script = """
child = subprocess.Popen(["sleep", "600"], process_group=0)
note("child-" + os.environ["ENROLLGATE_TASK_ID"], child.pid)
time.sleep(600)
"""
    launcher = harness.launcher(script)
    names = [start(launcher, task_id) for task_id in (1, 2, 3)]
    children = [harness.wait_for_pid(f"child-{task_id}") for task_id in (1, 2, 3)]
    for name in names:
        supervisor = harness.supervisor_pid(name)
        os.kill(supervisor, signal.SIGKILL)
        wait_for(partial(is_gone, supervisor))
    launcher.stop(names[0])
    discard(launcher, [names[1]])
    assert launch(launcher, [build_order(3)]) == {names[2]: LaunchOutcome.LAUNCHED}
    assert all(is_gone(child) for child in children)
    assert set(launcher.observe()) == {names[2]}


def test_reused_pid_is_never_killed(harness: LocalLauncherHarness) -> None:
    """The supervisor's file names a pid that another process has now."""
    launcher = harness.launcher(GATED)
    name = start(launcher)
    worker = harness.wait_for_pid("ready")
    run = harness.run(name)
    supervisor = harness.supervisor_pid(name)
    other = subprocess.Popen(["sleep", "600"], start_new_session=True, cwd=run.path)
    try:
        run.supervisor.write_text(
            run.supervisor.read_text().replace(f'"pid": {supervisor}', f'"pid": {other.pid}')
        )
        launcher.stop(name)  # live: its supervisor sees the stop file, not the signal
        assert wait_until_finished(launcher, name).phase is Phase.FAILED
        assert is_gone(worker)
        wait_for(lambda: is_gone(supervisor))
        run.result.unlink()  # dead without a result: now orphans are looked for
        launcher.stop(name)
        assert launcher.observe() == {}
        discard(launcher, [name])
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_two_operators_launching_the_same_runs_start_each_once(
    harness: LocalLauncherHarness,
) -> None:
    script = 'note(os.environ["ENROLLGATE_TASK_ID"] + "-" + str(os.getpid())); report(None)'
    launchers = [harness.launcher(script), harness.launcher(script)]
    orders = [build_order(task_id) for task_id in range(1, 21)]
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda launcher: launch(launcher, orders), launchers))
        launched = [
            name
            for each in outcomes
            for name, outcome in each.items()
            if outcome is LaunchOutcome.LAUNCHED
        ]
        assert sorted(launched) == sorted(one.name for one in orders)
        # One that another operator launches at this very moment is left to the next pass.
        assert all(set(each) <= {one.name for one in orders} for each in outcomes)
        for one in orders:
            assert wait_until_finished(launchers[0], one.name).phase is Phase.SUCCEEDED
    assert sorted(int(note.split("-")[0]) for note in harness.note_names()) == list(range(1, 21))


def test_observing_all_the_time_disturbs_no_launch(harness: LocalLauncherHarness) -> None:
    script = 'note(os.environ["ENROLLGATE_TASK_ID"]); report(None)'
    launching, observing = harness.launcher(script), harness.launcher(script)
    orders = [build_order(task_id) for task_id in range(1, 11)]
    with ThreadPoolExecutor(1) as pool:
        looks = pool.submit(lambda: [observing.observe() for _ in range(300)])
        outcomes = launch(launching, orders)
        looks.result()
    assert set(outcomes.values()) == {LaunchOutcome.LAUNCHED}
    for one in orders:
        assert wait_until_finished(observing, one.name).phase is Phase.SUCCEEDED


def test_finished_supervisors_leave_no_zombies(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher("report(None)")
    names = [start(launcher, task_id) for task_id in (1, 2, 3)]
    supervisors = [harness.supervisor_pid(name) for name in names]
    for name in names:
        wait_until_finished(launcher, name)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in supervisors))


def test_every_run_that_ends_calls_on_change_with_its_name(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher("report(None)")
    for task_id in (1, 2, 3):
        harness.changed.clear()
        name = start(launcher, task_id)
        assert harness.changed.wait(60)
        assert harness.ended[-1] == name
        assert launcher.observe([name], only=True)[name].phase is Phase.SUCCEEDED


def test_close_leaves_live_runs_alone(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher(GATED)
    start(launcher)
    worker = harness.wait_for_pid("ready")
    launcher.close()
    launcher.close()
    assert not is_gone(worker)
