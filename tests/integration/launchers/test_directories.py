"""Directories that are damaged, half made, full, unreadable, finished or too old."""

import contextlib
import errno
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.launchers.harness import (
    LocalLauncherHarness,
    build_order,
    start,
    wait_for,
    wait_until_finished,
)
from tests.launching import discard, launch
from tests.unprivileged import modes_apply

from enrollgate.domain.observation import LaunchOutcome, Phase
from enrollgate.domain.order import RunOrder
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.reasons import Reason
from enrollgate.domain.run import is_run_of
from enrollgate.domain.run_event import RunEvent, RunEventType
from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.local.launcher import SWEEP_INTERVAL, LocalLauncher
from enrollgate.launchers.local.run_directory import read_progress

SUCCEED = "report(None)"
# The user `nobody` of most systems.
OTHER_USER = 65534


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


def test_damaged_result_is_a_crash_and_can_be_launched_again(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(SUCCEED)
    whole, damaged = start(launcher, 1), start(launcher, 2)
    for name in (whole, damaged):
        wait_until_finished(launcher, name)
    harness.run(damaged).result.write_text("\0" * 40)
    seen = wait_until_finished(launcher, damaged)
    assert seen.report is not None and seen.report.reason is Reason.WORKER_CRASHED
    assert "its result.json is damaged" in seen.report.message
    outcomes = launch(launcher, [build_order(1), build_order(2)])
    assert list(outcomes.values()) == [LaunchOutcome.ADOPTED, LaunchOutcome.LAUNCHED]
    assert wait_until_finished(launcher, damaged).phase is Phase.SUCCEEDED


ODD = {
    "a directory": "(pathlib.Path({name!r}) / 'in it').mkdir(parents=True)",
    "a named pipe": "os.mkfifo({name!r})",
    "a symbolic link": "os.symlink('/dev/zero', {name!r})",
    "an endless link": "os.symlink({name!r}, {name!r})",
    "a huge file": "open({name!r}, 'wb').truncate(2**31)",
    "an unreadable file": "os.close(os.open({name!r}, os.O_CREAT | os.O_WRONLY, 0))",
}


@pytest.fixture
def unprivileged(harness: LocalLauncherHarness) -> Iterator[LocalLauncherHarness]:
    """A harness to which modes apply, whoever runs the test."""
    with modes_apply():
        yield harness


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    "name",
    [
        *("result.json", "report.json", "log", "stop", "lock", "scratch", "ballast"),
        *("spec.json", "supervisor.json", "progress.json"),
    ],
)
def test_odd_entry_that_a_worker_leaves_ends_its_own_run_only(
    unprivileged: LocalLauncherHarness, name: str, kind: str
) -> None:
    """The worker's folder is the run's directory: a download command may leave anything there."""
    script = (
        "import shutil\n"
        "if os.environ['ENROLLGATE_TASK_ID'] == '1':\n"
        f"    shutil.rmtree({name!r}, True)\n"
        f"    pathlib.Path({name!r}).unlink(True)\n"
        f"    {ODD[kind].format(name=name)}\n"
        "    sys.exit(0)\n"
        "report(None)\n"
    )
    launcher = unprivileged.launcher(script, max_attempts=2)
    bad, good = start(launcher, 1), start(launcher, 2)
    assert wait_until_finished(launcher, good).phase is Phase.SUCCEEDED
    seen = wait_until_finished(launcher, bad)
    assert seen.report is not None
    launcher.record_event(bad, None, RunEvent(RunEventType.LAUNCHED, "never waits"))
    discard(launcher, [bad, good])
    assert launcher.observe([bad, good]) == {}
    assert launcher.count_live() == 0


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "a huge file"])
def test_odd_result_is_a_crash_in_true_words_and_costs_no_descriptor(
    unprivileged: LocalLauncherHarness, kind: str
) -> None:
    launcher = unprivileged.launcher(SUCCEED)
    bad, good = start(launcher, 1), start(launcher, 2)
    for name in (bad, good):
        wait_until_finished(launcher, name)
    result = unprivileged.run(bad).result
    whole = result.read_text()
    result.unlink()
    exec(ODD[kind].format(name=str(result)), {"os": os, "pathlib": pathlib})
    wait_until_finished(launcher, bad)  # its supervisor may hold the lock for a moment
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        seen = launcher.observe([bad, good])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    report = seen[bad].report
    assert report is not None and report.reason is Reason.WORKER_CRASHED
    words = {"an endless link": "a symbolic link", "an unreadable file": "damaged"}.get(kind, kind)
    assert f"its result.json is {words}" in report.message
    assert seen[good].phase is Phase.SUCCEEDED and whole
    discard(launcher, [bad, good])
    assert launcher.observe() == {}


def test_modes_that_a_worker_takes_away_are_restored(unprivileged: LocalLauncherHarness) -> None:
    launcher = unprivileged.launcher("report(None)\nos.chmod('.', 0)")
    name = start(launcher)
    assert wait_until_finished(launcher, name).phase is Phase.SUCCEEDED
    unprivileged.run(name).result.chmod(0)
    unprivileged.run(name).path.chmod(0)
    assert launcher.observe()[name].phase is Phase.SUCCEEDED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_somebody_else_ends_its_own_run_only(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(SUCCEED)
    bad, good = start(launcher, 1), start(launcher, 2)
    for name in (bad, good):
        wait_until_finished(launcher, name)
    os.chown(harness.run(bad).path, OTHER_USER, OTHER_USER)
    with modes_apply():
        _check_foreign_directory(harness, launcher, bad, good)


def _check_foreign_directory(
    harness: LocalLauncherHarness, launcher: LocalLauncher, bad: str, good: str
) -> None:
    seen = launcher.observe([bad, good])
    assert seen[good].phase is Phase.SUCCEEDED
    report = seen[bad].report
    assert report is not None and report.reason is Reason.WORKER_CRASHED
    assert "Permission denied; make the operator's user the owner" in report.message
    with capture_logs() as logs:
        for _ in range(2):
            discard(launcher, [bad, good])
    assert [entry["run"] for entry in logs] == [bad], "said once"
    assert set(launcher.observe()) == {bad} and launcher.count_live() == 0
    harness.now += SWEEP_INTERVAL + 10**7
    discard(launcher, [])


@pytest.mark.parametrize("kind", ["file", "link"])
def test_file_in_place_of_a_directory_ends_its_run_in_true_words(
    harness: LocalLauncherHarness, kind: str
) -> None:
    launcher = harness.launcher("note('started')\ntime.sleep(600)")
    name = start(launcher)
    wait_for(lambda: "started" in harness.note_names())
    run = harness.run(name)
    run.path.rename(harness.work_dir / "moved")
    if kind == "file":
        run.path.touch()
    else:
        run.path.symlink_to(harness.work_dir / "moved")
    assert launcher.observe([name])[name].phase is Phase.LIVE, "its processes are there"
    harness.clean()
    report = launcher.observe([name])[name].report
    assert report is not None and report.reason is Reason.WORKER_CRASHED
    assert "is no directory any more" in report.message


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
    progress = RunProgress(1, 1, items_done=2)
    assert read_progress(harness.work_dir, name) == progress
    unknown = f"{name}0"
    found = launcher.read_progress([name, unknown, "../x"], lambda: True)
    assert list(found) == [(name, progress)]


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
    # A relative name, since a socket's may have 107 bytes at most.
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(runs[2]):
        listener.bind(name)
        (runs[3] / name).write_bytes(b"\xff" * 2**21)
        assert launcher.observe() == {}
        assert read_progress(harness.work_dir, build_order().name) is None


@pytest.mark.parametrize("entry", ["log", "lock", "ballast", "scratch"])
def test_directory_in_place_of_a_file_is_replaced_at_the_launch(
    harness: LocalLauncherHarness, entry: str
) -> None:
    launcher = harness.launcher(SUCCEED)
    name = build_order().name
    (harness.run(name).path / entry / "in it").mkdir(parents=True)
    assert launch(launcher, [build_order()]) == {name: LaunchOutcome.LAUNCHED}
    assert wait_until_finished(launcher, name).phase is Phase.SUCCEEDED


def test_pipe_in_place_of_the_log_holds_up_no_launch(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher(SUCCEED)
    name = build_order().name
    harness.run(name).path.mkdir()
    os.mkfifo(harness.run(name).log)
    assert launch(launcher, [build_order()]) == {name: LaunchOutcome.LAUNCHED}
    assert wait_until_finished(launcher, name).phase is Phase.SUCCEEDED
