"""Directories that are damaged, half made, full, unreadable, finished or too old."""

import errno
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from tests.integration.launchers.harness import (
    LocalLauncherHarness,
    build_order,
    start,
    wait_for,
    wait_until_finished,
)
from tests.launching import build_launch, discard, launch

from enrollgate.domain.observation import LaunchOutcome, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.reasons import Reason
from enrollgate.domain.run import is_run_of
from enrollgate.domain.run_event import RunEvent, RunEventType
from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.local.launcher import SWEEP_INTERVAL
from enrollgate.launchers.local.run_directory import read_progress

SUCCEED = "report(None)"


def test_observe_empty_work_directory_returns_no_runs(harness: LocalLauncherHarness) -> None:
    assert harness.launcher().observe() == {}


def test_launch_into_a_directory_without_a_spec_completes_it(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(SUCCEED)
    name = build_order().name
    harness.run(name).path.mkdir()
    assert launcher.observe() == {}
    assert launch(launcher, [build_order()]) == {name: LaunchOutcome.LAUNCHED}
    assert wait_until_finished(launcher, name).phase is Phase.SUCCEEDED


def test_launch_when_only_a_spec_exists_completes_it(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(SUCCEED)
    name = build_order().name
    harness.run(name).path.mkdir()
    harness.run(name).spec.write_text("{")
    harness.run(name).lock.touch()
    assert launcher.observe() == {}
    assert launch(launcher, [build_order()]) == {name: LaunchOutcome.LAUNCHED}
    assert wait_until_finished(launcher, name).phase is Phase.SUCCEEDED


def test_damaged_result_counts_as_none_and_harms_no_other_run(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(SUCCEED)
    whole, damaged, folder = (start(launcher, task_id) for task_id in (1, 2, 3))
    for name in (whole, damaged, folder):
        wait_until_finished(launcher, name)
    harness.run(damaged).result.write_text("\0" * 40)
    harness.run(folder).result.unlink()
    harness.run(folder).result.mkdir()
    wait_for(lambda: set(launcher.observe()) == {whole})
    outcomes = launch(launcher, [build_order(1), build_order(2), build_order(3)])
    assert list(outcomes.values()) == [
        LaunchOutcome.ADOPTED,
        LaunchOutcome.LAUNCHED,
        LaunchOutcome.LAUNCHED,
    ]
    for name in (damaged, folder):
        assert wait_until_finished(launcher, name).phase is Phase.SUCCEEDED


def test_supervisor_with_a_damaged_spec_reports_it(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher(SUCCEED)
    run = harness.run(build_order().name)
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


def test_supervisor_without_the_lock_does_nothing(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher(SUCCEED)
    name = start(launcher)
    before = wait_until_finished(launcher, name)
    command = [
        sys.executable,
        "-m",
        "enrollgate.launchers.local.supervisor",
        str(harness.run(name).path),
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
def test_launch_when_the_name_is_taken_leaves_it_alone(
    harness: LocalLauncherHarness, kind: str
) -> None:
    launcher = harness.launcher(SUCCEED)
    path = harness.run(build_order().name).path
    path.touch() if kind == "file" else path.symlink_to(harness.notes)
    outcomes = launch(launcher, [build_order(), build_order(2)])
    assert list(outcomes.values()) == [LaunchOutcome.NAME_TAKEN, LaunchOutcome.LAUNCHED]
    assert set(launcher.observe()) == {build_order(2).name}


@pytest.mark.parametrize("name", ["../escape", "", "UPPER", "a/b", "."])
def test_invalid_run_name_is_refused_before_anything_changes(
    harness: LocalLauncherHarness, name: str
) -> None:
    launcher = harness.launcher(SUCCEED)
    bad = type(build_order())(name, 1, 1, "https://courses.example/1", "cookies.txt")
    for call in (
        lambda: launch(launcher, [bad, build_order()]),
        lambda: launcher.stop(name),
        lambda: discard(launcher, [name]),
    ):
        with pytest.raises(ValueError, match="a run's name is"):
            call()
    assert launcher.observe() == {}


def test_observe_when_listing_fails_raises_not_empty(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(SUCCEED)
    runs = harness.work_dir / "runs"
    runs.rename(harness.work_dir / "gone")
    with pytest.raises(
        LauncherUnavailable, match="runs: No such file or directory; check that ENROLLGATE_WORK_DIR"
    ):
        launcher.observe()
    with pytest.raises(LauncherUnavailable, match="runs"):
        launch(launcher, [build_order()])
    runs.touch()
    with pytest.raises(LauncherUnavailable, match="Not a directory"):
        launcher.observe()


def test_observe_when_one_run_is_unreadable_raises(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher(SUCCEED)
    name = start(launcher)
    wait_until_finished(launcher, name)
    harness.run(name).result.unlink()
    harness.run(name).result.symlink_to("/proc/self/mem")
    with pytest.raises(
        LauncherUnavailable, match=rf"{name}: Input/output error; look in the kernel's log"
    ):
        launcher.observe()


def test_work_directory_that_cannot_be_made_is_named(harness: LocalLauncherHarness) -> None:
    harness.work_dir.touch()
    with pytest.raises(LauncherUnavailable, match=str(harness.work_dir)):
        harness.launcher()


def test_launch_on_a_full_disk_names_the_remedy_and_works_later(
    harness: LocalLauncherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = harness.launcher(SUCCEED)
    run = harness.run(build_order().name)
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
        launch(launcher, [build_order()])
    assert launcher.observe() == {}
    assert launch(launcher, [build_order()]) == {run.name: LaunchOutcome.LAUNCHED}
    assert wait_until_finished(launcher, run.name).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_launch_on_a_full_machine_yields_only_what_started(
    harness: LocalLauncherHarness, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    launcher = harness.launcher(SUCCEED)
    real = subprocess.Popen
    started = list[object]()

    def fails_the_second_time(*args: object, **kwargs: object) -> object:
        if started:
            raise OSError(code, os.strerror(code))
        started.append(args)
        return real(*args, **kwargs)  # type: ignore[call-overload]  # passed on as it came

    monkeypatch.setattr(subprocess, "Popen", fails_the_second_time)
    assert launch(launcher, [build_order(1), build_order(2), build_order(3)]) == {
        build_order(1).name: LaunchOutcome.LAUNCHED
    }
    monkeypatch.undo()
    assert build_order(2).name not in launcher.observe()


def test_supervisor_that_cannot_start_leaves_no_run(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(SUCCEED)
    launcher._environment["PYTHONHOME"] = "/nowhere"
    name = start(launcher)
    assert harness.changed.wait(60)
    wait_for(lambda: launcher.observe() == {})
    assert harness.run(name).log.read_text()


def test_discard_keeps_log_and_report_but_not_scratch(
    harness: LocalLauncherHarness,
) -> None:
    script = """
(pathlib.Path(os.environ["ENROLLGATE_SCRATCH_DIR"]) / "part").touch()
print("hello")
report(None)
"""
    launcher = harness.launcher(script)
    name = start(launcher)
    wait_until_finished(launcher, name)
    discard(launcher, [name, name, "never-seen"])
    assert launcher.observe() == {}
    kept = {path.name for path in (harness.work_dir / "finished" / name).iterdir()}
    assert {"log", "report.json", "result.json", "spec.json"} <= kept
    assert "scratch" not in kept
    assert "ballast" not in kept


def test_discard_live_run_leaves_it_alone(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher('note("ready"); time.sleep(600)')
    name = start(launcher)
    wait_for(lambda: "ready" in harness.note_names())
    discard(launcher, [name])
    assert launcher.observe()[name].phase is Phase.LIVE


def test_run_name_of_an_earlier_database_can_be_used_again(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher('note(f"run-{os.getpid()}"); report(None)')
    for _ in range(2):
        name = start(launcher)
        wait_until_finished(launcher, name)
        discard(launcher, [name])
    assert len(harness.note_names()) == 2
    assert [path.name for path in (harness.work_dir / "finished").iterdir()] == [name]


def test_discarded_run_is_deleted_after_run_ttl(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher(SUCCEED, run_ttl=3600.0)
    name = start(launcher)
    wait_until_finished(launcher, name)
    discard(launcher, [name])
    kept = harness.work_dir / "finished" / name
    harness.now += SWEEP_INTERVAL
    discard(launcher, [])
    assert kept.exists()
    harness.now += 3600.0
    discard(launcher, [])
    assert not kept.exists()


def test_dead_run_of_no_interest_is_discarded_after_run_ttl(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher('note("ready"); time.sleep(600)', run_ttl=3600.0)
    name = start(launcher)
    live = start(launcher, 2)
    wait_for(lambda: "ready" in harness.note_names())
    os.kill(harness.supervisor_pid(name), 9)
    wait_for(lambda: name not in launcher.observe())
    harness.now += 2 * 3600.0
    discard(launcher, [])
    assert not harness.run(name).path.exists()
    assert launcher.observe()[live].phase is Phase.LIVE


def test_read_progress_of_a_live_run_returns_it(harness: LocalLauncherHarness) -> None:
    script = """
pathlib.Path(os.environ["ENROLLGATE_PROGRESS_PATH"]).write_text(json.dumps({"items_done": 2}))
note("ready")
time.sleep(600)
"""
    launcher = harness.launcher(script)
    name = start(launcher)
    wait_for(lambda: "ready" in harness.note_names())
    assert read_progress(harness.work_dir, name) == {"items_done": 2}


def test_files_of_a_run_are_private_to_their_owner(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher("print('x'); report(None)")
    name = start(launcher)
    wait_until_finished(launcher, name)
    run = harness.run(name)
    ours = [run.spec, run.log, run.lock, run.supervisor, run.result]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in ours} == {
        path.name: "0o600" for path in ours
    }
    folders: list[Path] = [run.path, run.scratch, run.path.parent]
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in folders)


def test_two_installations_in_one_folder_keep_their_runs_apart(
    harness: LocalLauncherHarness,
) -> None:
    """The run names of `a` and of `a-1` begin alike."""
    script = 'note("ready-" + os.environ["ENROLLGATE_RUN_NUMBER"]); time.sleep(600)'
    short, long = (
        harness.launcher(script, installation="a"),
        harness.launcher(script, installation="a-1"),
    )
    orders = {
        short: RunOrder("a-1-1", 1, 1, "https://courses.example/1", "cookies.txt"),
        long: RunOrder("a-1-1-2", 1, 2, "https://courses.example/1", "cookies.txt"),
    }
    for launcher, one in orders.items():
        assert launch(launcher, [one]) == {one.name: LaunchOutcome.LAUNCHED}
        note = f"ready-{one.run_number}"
        wait_for(partial(lambda note: note in harness.note_names(), note))
    for launcher, one in orders.items():
        assert set(launcher.observe()) == set(launcher.observe([one.name], only=True)) == {one.name}
    with pytest.raises(ValueError, match="'a-1-1-2' is not a run of installation a"):
        launch(short, [orders[long]])

    os.kill(harness.supervisor_pid("a-1-1-2"), 9)
    wait_for(lambda: long.observe() == {})
    harness.now += 2 * 3600.0
    discard(short, [])
    assert harness.run("a-1-1-2").path.exists(), "another installation's leftovers are not ours"
    discard(long, [])
    assert not harness.run("a-1-1-2").path.exists()
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
def test_run_name_belongs_to_one_installation(name: str, installations: set[str]) -> None:
    assert {
        one for one in ("a", "a-1", "a-1-2", "ab", "b") if is_run_of(one, name)
    } == installations


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_run_directory_is_private_whatever_the_umask(
    harness: LocalLauncherHarness, umask: int
) -> None:
    before = os.umask(umask)
    try:
        launcher = harness.launcher("note('x')\n" + SUCCEED)
        name = build_order().name
        launch(launcher, [build_order()])
        launcher.record_event(name, None, RunEvent(RunEventType.LAUNCHED, "two\nlines \x1b"))
        wait_until_finished(launcher, name)
    finally:
        os.umask(before)
    run = harness.run(name)
    # The report is written by the worker: here, that is a script of the test.
    written = [path for path in run.path.iterdir() if path != run.report]
    folders = [run.path, run.path.parent, *filter(Path.is_dir, written)]
    assert {oct(path.stat().st_mode & 0o777) for path in folders} == {"0o700"}
    files = [path for path in written if path.is_file()]
    assert {run.result, run.spec, run.log, run.supervisor} <= set(files)
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
    assert r"two\nlines \x1b" in run.log.read_text()


@pytest.mark.parametrize("name", ["result.json", "supervisor.json", "spec.json", "progress.json"])
def test_odd_entries_in_a_run_directory_block_nothing(
    harness: LocalLauncherHarness, name: str
) -> None:
    """A pipe has no end, a socket cannot be opened, and a device never ends."""
    launcher = harness.launcher(SUCCEED)
    runs = [harness.run(build_order(number).name).path for number in range(1, 5)]
    for folder in runs:
        folder.mkdir()
    os.mkfifo(runs[0] / name)
    (runs[1] / name).symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runs[2] / name))
        (runs[3] / name).write_bytes(b"\xff" * 2**21)
        assert launcher.observe() == {}
        assert read_progress(harness.work_dir, build_order().name) is None


@pytest.mark.parametrize("entry", ["log", "lock"])
def test_directory_that_cannot_be_used_refuses_one_launch_only(
    harness: LocalLauncherHarness, entry: str
) -> None:
    launcher = harness.launcher(SUCCEED)
    bad, good = build_order(1), build_order(2)
    (harness.run(bad.name).path / getattr(harness.run(bad.name), entry).name).mkdir(parents=True)
    results = list(launcher.launch([build_launch(bad), build_launch(good)]))
    assert [result.outcome for _, result in results] == [
        LaunchOutcome.REFUSED,
        LaunchOutcome.LAUNCHED,
    ]
    assert entry in results[0][1].refusal and "Is a directory" in results[0][1].refusal
    assert wait_until_finished(launcher, good.name).phase is Phase.SUCCEEDED


def test_directory_that_cannot_be_read_counts_as_live_and_hides_no_other(
    harness: LocalLauncherHarness,
) -> None:
    """A second run must not start beside one that may still be there."""
    launcher = harness.launcher(SUCCEED)
    bad, good = start(launcher, 1), start(launcher, 2)
    wait_until_finished(launcher, bad)
    wait_until_finished(launcher, good)
    harness.run(bad).result.unlink()
    harness.run(bad).lock.unlink()
    harness.run(bad).lock.symlink_to(harness.run(bad).lock)
    seen = launcher.observe()
    assert (seen[bad].phase, seen[good].phase) == (Phase.LIVE, Phase.SUCCEEDED)
