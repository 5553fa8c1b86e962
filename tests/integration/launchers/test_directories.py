"""Directories that are damaged, half made, full, unreadable, finished or too old."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.launchers.harness import (
    LocalLauncherHarness,
    finished,
    order,
    start,
    wait_for,
)
from tests.launching import discard, launch

from enrollgate.domain.observation import LaunchOutcome, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.reasons import Reason
from enrollgate.domain.run import is_run_of
from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.local.launcher import SWEEP_INTERVAL
from enrollgate.launchers.local.run_directory import read_progress

PROMPT = "report(None)"


def test_an_empty_work_directory_shows_no_runs(workshop: LocalLauncherHarness) -> None:
    assert workshop.launcher().observe() == {}


def test_a_directory_without_a_spec_is_not_there_and_launching_completes_it(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(PROMPT)
    name = order().name
    workshop.run(name).path.mkdir()
    assert launcher.observe() == {}
    assert launch(launcher, [order()]) == {name: LaunchOutcome.LAUNCHED}
    assert finished(launcher, name).phase is Phase.SUCCEEDED


def test_a_spec_without_a_supervisor_is_not_there_and_launching_completes_it(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(PROMPT)
    name = order().name
    workshop.run(name).path.mkdir()
    workshop.run(name).spec.write_text("{")
    workshop.run(name).lock.touch()
    assert launcher.observe() == {}
    assert launch(launcher, [order()]) == {name: LaunchOutcome.LAUNCHED}
    assert finished(launcher, name).phase is Phase.SUCCEEDED


def test_a_damaged_verdict_is_no_verdict_and_harms_no_other_run(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(PROMPT)
    whole, damaged, strange = (start(launcher, task_id) for task_id in (1, 2, 3))
    for name in (whole, damaged, strange):
        finished(launcher, name)
    workshop.run(damaged).result.write_text("\0" * 40)
    workshop.run(strange).result.unlink()
    workshop.run(strange).result.mkdir()
    wait_for(lambda: set(launcher.observe()) == {whole})
    outcomes = launch(launcher, [order(1), order(2), order(3)])
    assert list(outcomes.values()) == [
        LaunchOutcome.ADOPTED,
        LaunchOutcome.LAUNCHED,
        LaunchOutcome.LAUNCHED,
    ]
    for name in (damaged, strange):
        assert finished(launcher, name).phase is Phase.SUCCEEDED


def test_a_supervisor_that_finds_a_damaged_spec_says_so(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher(PROMPT)
    run = workshop.run(order().name)
    run.path.mkdir()
    run.spec.write_text("{")
    lock = run.acquire()
    assert lock is not None
    command = [sys.executable, "-m", "enrollgate.launchers.local.supervisor", str(run.path)]
    assert subprocess.run(command, stdin=lock, start_new_session=True, check=False).returncode == 0
    os.close(lock)
    seen = launcher.observe()[run.name]
    assert seen.report is not None
    assert seen.report.reason is Reason.WORKER_CRASHED
    assert "spec.json of the run is damaged" in seen.report.message


def test_a_supervisor_without_the_runs_lock_does_nothing(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher(PROMPT)
    name = start(launcher)
    before = finished(launcher, name)
    command = [
        sys.executable,
        "-m",
        "enrollgate.launchers.local.supervisor",
        str(workshop.run(name).path),
    ]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "only the local launcher starts a supervisor" in done.stderr
    assert launcher.observe()[name] == before


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_that_is_not_ours_keeps_its_name(
    workshop: LocalLauncherHarness, kind: str
) -> None:
    launcher = workshop.launcher(PROMPT)
    path = workshop.run(order().name).path
    path.touch() if kind == "file" else path.symlink_to(workshop.notes)
    outcomes = launch(launcher, [order(), order(2)])
    assert list(outcomes.values()) == [LaunchOutcome.NAME_TAKEN, LaunchOutcome.LAUNCHED]
    assert set(launcher.observe()) == {order(2).name}


@pytest.mark.parametrize("name", ["../escape", "", "UPPER", "a/b", "."])
def test_a_name_that_is_none_is_refused_before_anything_is_touched(
    workshop: LocalLauncherHarness, name: str
) -> None:
    launcher = workshop.launcher(PROMPT)
    bad = type(order())(name, 1, 1, "https://courses.example/1", "cookies.txt")
    for run_number in (
        lambda: launch(launcher, [bad, order()]),
        lambda: launcher.stop(name),
        lambda: discard(launcher, [name]),
    ):
        with pytest.raises(ValueError, match="a run's name is"):
            run_number()
    assert launcher.observe() == {}


def test_a_listing_that_fails_is_never_taken_for_an_empty_one(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(PROMPT)
    runs = workshop.work_dir / "runs"
    runs.rename(workshop.work_dir / "gone")
    with pytest.raises(
        LauncherUnavailable, match="runs: No such file or directory; see that ENROLLGATE_WORK_DIR"
    ):
        launcher.observe()
    with pytest.raises(LauncherUnavailable, match="runs"):
        launch(launcher, [order()])
    runs.touch()
    with pytest.raises(LauncherUnavailable, match="Not a directory"):
        launcher.observe()


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="needs a file whose reading is an I/O error"
)
def test_a_run_that_cannot_be_read_gives_up_the_whole_look(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher(PROMPT)
    name = start(launcher)
    finished(launcher, name)
    workshop.run(name).result.unlink()
    workshop.run(name).result.symlink_to("/proc/self/mem")
    with pytest.raises(
        LauncherUnavailable, match=rf"{name}: Input/output error; see what the kernel says"
    ):
        launcher.observe()


def test_a_work_directory_that_cannot_be_made_is_named(workshop: LocalLauncherHarness) -> None:
    workshop.work_dir.touch()
    with pytest.raises(LauncherUnavailable, match=str(workshop.work_dir)):
        workshop.launcher()


def test_a_full_disk_is_named_with_its_remedy_and_launching_works_once_there_is_room(
    workshop: LocalLauncherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = workshop.launcher(PROMPT)
    run = workshop.run(order().name)
    real = os.open

    def open_on_a_full_disk(path: Path, flags: int, mode: int = 0o777) -> int:
        return (
            real("/dev/full", os.O_WRONLY)
            if path.name.startswith(".spec.json")
            else real(path, flags, mode)
        )

    with (
        monkeypatch.context() as full,
        pytest.raises(LauncherUnavailable, match="No space left on device; free some"),
    ):
        full.setattr("enrollgate.common.files.os.open", open_on_a_full_disk)
        launch(launcher, [order()])
    assert launcher.observe() == {}
    assert launch(launcher, [order()]) == {run.name: LaunchOutcome.LAUNCHED}
    assert finished(launcher, run.name).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_what_a_full_machine_cannot_start_is_missing_from_the_answer(
    workshop: LocalLauncherHarness, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    launcher = workshop.launcher(PROMPT)
    real = subprocess.Popen
    started = list[object]()

    def fails_the_second_time(*args: object, **kwargs: object) -> object:
        if started:
            raise OSError(code, os.strerror(code))
        started.append(args)
        return real(*args, **kwargs)  # type: ignore[call-overload]  # passed on as it came

    monkeypatch.setattr(subprocess, "Popen", fails_the_second_time)
    assert launch(launcher, [order(1), order(2), order(3)]) == {
        order(1).name: LaunchOutcome.LAUNCHED
    }
    monkeypatch.undo()
    assert order(2).name not in launcher.observe()


def test_a_supervisor_that_cannot_start_leaves_a_run_that_is_not_there(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(PROMPT)
    launcher._environment["PYTHONHOME"] = "/nowhere"
    name = start(launcher)
    assert workshop.changed.wait(60)
    wait_for(lambda: launcher.observe() == {})
    assert workshop.run(name).log.read_text()


def test_a_discarded_run_keeps_its_log_and_report_and_loses_its_scratch(
    workshop: LocalLauncherHarness,
) -> None:
    script = '(pathlib.Path(os.environ["ENROLLGATE_SCRATCH_DIR"]) / "part").touch(); print("hello"); report(None)'
    launcher = workshop.launcher(script)
    name = start(launcher)
    finished(launcher, name)
    discard(launcher, [name, name, "never-seen"])
    assert launcher.observe() == {}
    kept = {path.name for path in (workshop.work_dir / "finished" / name).iterdir()}
    assert {"log", "report.json", "result.json", "spec.json"} <= kept
    assert "scratch" not in kept
    assert "ballast" not in kept


def test_a_live_run_is_not_discarded(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher('note("ready"); time.sleep(600)')
    name = start(launcher)
    wait_for(lambda: "ready" in workshop.noted())
    discard(launcher, [name])
    assert launcher.observe()[name].phase is Phase.LIVE


def test_a_name_can_be_used_again_after_the_database_was_started_afresh(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher('note(f"run-{os.getpid()}"); report(None)')
    for _ in range(2):
        name = start(launcher)
        finished(launcher, name)
        discard(launcher, [name])
    assert len(workshop.noted()) == 2
    assert [path.name for path in (workshop.work_dir / "finished").iterdir()] == [name]


def test_discarded_runs_are_deleted_when_their_time_is_over(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher(PROMPT, run_ttl=3600.0)
    name = start(launcher)
    finished(launcher, name)
    discard(launcher, [name])
    kept = workshop.work_dir / "finished" / name
    workshop.now += SWEEP_INTERVAL
    discard(launcher, [])
    assert kept.exists()
    workshop.now += 3600.0
    discard(launcher, [])
    assert not kept.exists()


def test_a_dead_run_that_nobody_asks_for_is_cleared_away_when_its_time_is_over(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher('note("ready"); time.sleep(600)', run_ttl=3600.0)
    name = start(launcher)
    live = start(launcher, 2)
    wait_for(lambda: "ready" in workshop.noted())
    os.kill(workshop.supervisor_pid(name), 9)
    wait_for(lambda: name not in launcher.observe())
    workshop.now += 2 * 3600.0
    discard(launcher, [])
    assert not workshop.run(name).path.exists()
    assert launcher.observe()[live].phase is Phase.LIVE


def test_the_progress_of_a_live_run_can_be_read(workshop: LocalLauncherHarness) -> None:
    script = """
pathlib.Path(os.environ["ENROLLGATE_PROGRESS_PATH"]).write_text(json.dumps({"items_done": 2}))
note("ready")
time.sleep(600)
"""
    launcher = workshop.launcher(script)
    name = start(launcher)
    wait_for(lambda: "ready" in workshop.noted())
    assert read_progress(workshop.work_dir, name) == {"items_done": 2}


def test_the_files_of_a_run_are_for_their_owner_alone(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher("print('x'); report(None)")
    name = start(launcher)
    finished(launcher, name)
    run = workshop.run(name)
    ours = [run.spec, run.log, run.lock, run.supervisor, run.result]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in ours} == {
        path.name: "0o600" for path in ours
    }
    folders: list[Path] = [run.path, run.scratch, run.path.parent]
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in folders)


def test_two_installations_in_one_folder_leave_each_other_s_runs_alone(
    workshop: LocalLauncherHarness,
) -> None:
    """`a` and `a-1`: the names of the one's runs begin like the other's."""
    script = 'note("ready-" + os.environ["ENROLLGATE_RUN_NUMBER"]); time.sleep(600)'
    short, long = (
        workshop.launcher(script, installation="a"),
        workshop.launcher(script, installation="a-1"),
    )
    orders = {
        short: RunOrder("a-1-1", 1, 1, "https://courses.example/1", "cookies.txt"),
        long: RunOrder("a-1-1-2", 1, 2, "https://courses.example/1", "cookies.txt"),
    }
    for launcher, one in orders.items():
        assert launch(launcher, [one]) == {one.name: LaunchOutcome.LAUNCHED}
        wait_for(lambda one=one: f"ready-{one.run_number}" in workshop.noted())
    for launcher, one in orders.items():
        assert set(launcher.observe()) == set(launcher.observe([one.name], only=True)) == {one.name}
    with pytest.raises(ValueError, match="'a-1-1-2' is no name of a run of a"):
        launch(short, [orders[long]])

    os.kill(workshop.supervisor_pid("a-1-1-2"), 9)
    wait_for(lambda: long.observe() == {})
    workshop.now += 2 * 3600.0
    discard(short, [])
    assert workshop.run("a-1-1-2").path.exists(), (
        "what another installation has left is not ours to clear away"
    )
    discard(long, [])
    assert not workshop.run("a-1-1-2").path.exists()
    assert short.observe()["a-1-1"].phase is Phase.LIVE


@pytest.mark.parametrize(
    ("name", "installations"),
    [
        ("a-1-2", {"a"}),
        ("a-1-2-3", {"a-1"}),
        ("a--5-1", {"a"}),
        ("a-1-0", set()),
        ("a-01-1", set()),
        ("a-x-1", set()),
        ("ab-1-1", {"ab"}),
        ("a.-1-1", set()),
    ],
)
def test_a_run_s_name_belongs_to_one_installation(name: str, installations: set[str]) -> None:
    assert {
        one for one in ("a", "a-1", "a-1-2", "ab", "b") if is_run_of(one, name)
    } == installations
