"""What the supervisor does with a worker: attempts, results, deadlines, stops."""

import json
import os
from datetime import timedelta

import pytest
from tests.integration.launchers.harness import (
    LocalLauncherHarness,
    is_gone,
    start,
    wait_for,
    wait_until_finished,
)

from enrollgate.common.backoff import Backoff
from enrollgate.domain.observation import Phase
from enrollgate.domain.reasons import Reason

STUBBORN_TREE = '''
grandchild = subprocess.Popen(
    [sys.executable, "-c", """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""],
    process_group=0,
)
daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("grandchild", grandchild.pid)
note("daemon", daemon.pid)
note("worker", os.getpid())
time.sleep(600)
'''


def test_successful_run_is_observed_with_its_report(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher('report(None, "all there", items_delivered=3); print("hello")')
    seen = wait_until_finished(launcher, start(launcher))
    assert seen.phase is Phase.SUCCEEDED
    assert seen.report is not None
    assert (seen.report.message, seen.report.items_delivered) == ("all there", 3)
    assert "hello" in harness.run(seen.name).log.read_text()


def test_finished_run_is_observed_with_its_own_instants(harness: LocalLauncherHarness) -> None:
    """A later operator, perhaps hours later, observes the same."""
    launcher = harness.launcher("report(None)")
    name = start(launcher)
    live = launcher.observe([name])[name]
    seen = wait_until_finished(launcher, name)
    assert seen.launched_at and seen.started_at and seen.finished_at
    assert seen.launched_at == live.launched_at
    # The clock of files is some milliseconds late.
    assert seen.launched_at - timedelta(seconds=1) <= seen.started_at < seen.finished_at
    assert harness.launcher("").observe([name]) == {name: seen}


def test_worker_gets_its_order_and_settings_but_no_secrets(
    harness: LocalLauncherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENROLLGATE_DATABASE_URL", "mysql://root:secret@localhost/x")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    launcher = harness.launcher('note("env", json.dumps(dict(os.environ))); report(None)')
    name = start(launcher)
    assert wait_until_finished(launcher, name).phase is Phase.SUCCEEDED
    run = harness.run(name)
    environment = json.loads((harness.notes / "env").read_text())
    ours = {key: value for key, value in environment.items() if key.startswith("ENROLLGATE_")}
    assert ours == {
        "ENROLLGATE_TASK_ID": "1",
        "ENROLLGATE_RUN_NUMBER": "1",
        "ENROLLGATE_COURSE_URL": "https://courses.example/1",
        "ENROLLGATE_COOKIES_NAME": "cookies-1.txt",
        "ENROLLGATE_ATTEMPT": "1",
        "ENROLLGATE_MAX_ATTEMPTS": "3",
        "ENROLLGATE_SCRATCH_DIR": str(run.scratch),
        "ENROLLGATE_REPORT_PATH": str(run.report),
        "ENROLLGATE_PROGRESS_PATH": str(run.progress),
    }
    assert environment["NOTES"] == str(harness.notes)
    assert environment["https_proxy"] == "http://proxy.example:3128"
    assert "secret" not in json.dumps(environment)


def test_run_that_fails_twice_succeeds_at_its_third_attempt(harness: LocalLauncherHarness) -> None:
    script = """
scratch = pathlib.Path(os.environ["ENROLLGATE_SCRATCH_DIR"])
note(f"attempt-{attempt}", sorted(path.name for path in scratch.iterdir()))
(scratch / f"part-{attempt}").touch()
report("NetworkError" if attempt < 3 else None, f"at attempt {attempt}")
sys.exit(75 if attempt < 3 else 0)
"""
    launcher = harness.launcher(script)
    seen = wait_until_finished(launcher, start(launcher))
    assert seen.phase is Phase.SUCCEEDED
    assert harness.note_names() == {"attempt-1", "attempt-2", "attempt-3"}
    assert (harness.notes / "attempt-3").read_text() == "['part-1', 'part-2']"
    result = harness.run(seen.name).read_result()
    assert result is not None
    assert result.attempts == 3
    assert "[ATTEMPT 3/3]" in harness.run(seen.name).log.read_text()


def test_run_fails_with_the_last_report_after_its_last_attempt(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(
        'note(f"attempt-{attempt}"); report("SiteError", f"at attempt {attempt}"); sys.exit(75)'
    )
    seen = wait_until_finished(launcher, start(launcher))
    assert seen.phase is Phase.FAILED
    assert seen.report is not None
    assert (seen.report.reason, seen.report.message) == (Reason.SITE_ERROR, "at attempt 3")
    assert len(harness.note_names()) == 3


def test_report_of_an_earlier_attempt_does_not_explain_a_crash(
    harness: LocalLauncherHarness,
) -> None:
    script = """
if attempt == 1:
    report("SiteError", "at attempt 1")
    sys.exit(75)
raise RuntimeError("nobody foresaw this")
"""
    launcher = harness.launcher(script, max_attempts=2)
    seen = wait_until_finished(launcher, start(launcher))
    assert seen.report is not None
    assert seen.report.reason is Reason.WORKER_CRASHED
    assert "exit code 1" in seen.report.message
    assert "RuntimeError: nobody foresaw this" in seen.report.message


@pytest.mark.parametrize("code", [2, 69])
def test_permanent_failure_is_not_retried(harness: LocalLauncherHarness, code: int) -> None:
    launcher = harness.launcher(
        f'note(f"attempt-{{attempt}}"); report("AccessDenied", "no"); sys.exit({code})'
    )
    seen = wait_until_finished(launcher, start(launcher))
    assert seen.report is not None
    assert seen.report.reason is Reason.ACCESS_DENIED
    assert harness.note_names() == {"attempt-1"}


def test_killed_worker_is_retried(harness: LocalLauncherHarness) -> None:
    script = """
if attempt == 1:
    note("victim", os.getpid())
    time.sleep(600)
report(None, "second time lucky")
"""
    launcher = harness.launcher(script)
    name = start(launcher)
    os.kill(harness.wait_for_pid("victim"), 9)
    seen = wait_until_finished(launcher, name)
    assert seen.phase is Phase.SUCCEEDED
    assert "killed by SIGKILL" not in (seen.report.message if seen.report else "")


def test_processes_of_a_dead_worker_are_killed_before_the_next(
    harness: LocalLauncherHarness,
) -> None:
    script = """
if attempt == 1:
    child = subprocess.Popen(["sleep", "600"], process_group=0)
    note("child", child.pid)
    os.kill(os.getpid(), signal.SIGKILL)
child = int((notes / "child").read_text())
note("child-alive" if pathlib.Path(f"/proc/{child}/cmdline").exists() and
     pathlib.Path(f"/proc/{child}/cmdline").read_bytes() else "child-dead")
report(None)
"""
    launcher = harness.launcher(script)
    assert wait_until_finished(launcher, start(launcher)).phase is Phase.SUCCEEDED
    assert "child-dead" in harness.note_names()


def test_worker_that_cannot_start_fails_with_an_explanation(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(worker_argv=["/no/such/worker"])
    seen = wait_until_finished(launcher, start(launcher))
    assert seen.report is not None
    assert seen.report.reason is Reason.WORKER_CRASHED
    assert "could not be started" in seen.report.message
    assert "/no/such/worker" in seen.report.message


def test_invalid_report_counts_as_a_crash(harness: LocalLauncherHarness) -> None:
    script = 'pathlib.Path(os.environ["ENROLLGATE_REPORT_PATH"]).write_text("{"); sys.exit(69)'
    launcher = harness.launcher(script)
    seen = wait_until_finished(launcher, start(launcher))
    assert seen.report is not None
    assert seen.report.reason is Reason.WORKER_CRASHED


def test_run_past_its_deadline_is_ended_and_keeps_its_counts(
    harness: LocalLauncherHarness,
) -> None:
    script = """
def end(*_):
    report("Stopped", "asked to end", items_delivered=2)
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
time.sleep(600)
"""
    launcher = harness.launcher(script, run_timeout=1.0)
    seen = wait_until_finished(launcher, start(launcher))
    assert seen.phase is Phase.FAILED
    assert seen.report is not None
    assert (seen.report.reason, seen.report.items_delivered) == (Reason.DEADLINE_EXCEEDED, 2)
    assert "time limit of 1 s" in seen.report.message


def test_deadline_covers_the_wait_between_two_attempts(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher(
        'report("RateLimited", "slow down", retry_after=500.0); sys.exit(75)',
        run_timeout=1.0,
        backoff=Backoff(base=0, cap=600),
    )
    name = start(launcher)
    seen = wait_until_finished(launcher, name)
    assert seen.report is not None
    assert seen.report.reason is Reason.DEADLINE_EXCEEDED
    assert "next attempt in 500.0 s" in harness.run(name).log.read_text()


def test_processes_that_ignore_sigterm_are_killed_at_the_deadline(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(STUBBORN_TREE, run_timeout=1.5, stop_grace=0.1)
    name = start(launcher)
    pids = [harness.wait_for_pid(who) for who in ("grandchild", "daemon", "worker")]
    seen = wait_until_finished(launcher, name)
    assert seen.report is not None
    assert seen.report.reason is Reason.DEADLINE_EXCEEDED
    assert all(is_gone(pid) for pid in pids)


def test_stopped_run_ends_with_its_own_report(harness: LocalLauncherHarness) -> None:
    script = """
def end(*_):
    report("Stopped", "asked to end", items_delivered=1)
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
note("ready")
time.sleep(600)
"""
    launcher = harness.launcher(script)
    name = start(launcher)
    wait_for(lambda: "ready" in harness.note_names())
    for _ in range(3):
        launcher.stop(name)
    seen = wait_until_finished(launcher, name)
    assert seen.phase is Phase.FAILED
    assert seen.report is not None
    assert (seen.report.reason, seen.report.items_delivered) == (Reason.STOPPED, 1)
    launcher.stop(name)
    assert wait_until_finished(launcher, name) == seen


def test_stopped_run_that_ignores_sigterm_is_killed_after_the_grace(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher(STUBBORN_TREE, stop_grace=0.1)
    name = start(launcher)
    pids = [harness.wait_for_pid(who) for who in ("grandchild", "daemon", "worker")]
    launcher.stop(name)
    seen = wait_until_finished(launcher, name)
    assert seen.report is not None
    assert seen.report.reason is Reason.STOPPED
    assert all(is_gone(pid) for pid in pids)


def test_run_that_waits_for_its_next_attempt_can_be_stopped(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher(
        'report("SiteError", "down"); note("attempted"); sys.exit(75)',
        backoff=Backoff(base=600, cap=600),
    )
    name = start(launcher)
    wait_for(lambda: "next attempt in" in harness.run(name).log.read_text())
    launcher.stop(name)
    assert wait_until_finished(launcher, name).phase is Phase.FAILED
    assert harness.note_names() == {"attempted"}


def test_run_stopped_right_after_its_launch_ends_soon(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher("time.sleep(600)", stop_grace=0.1)
    name = start(launcher)
    launcher.stop(name)
    assert wait_until_finished(launcher, name).phase is Phase.FAILED


def test_stop_request_without_its_signal_is_still_noticed(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher('note("ready"); time.sleep(600)')
    name = start(launcher)
    wait_for(lambda: "ready" in harness.note_names())
    harness.run(name).stop.touch()
    assert wait_until_finished(launcher, name).phase is Phase.FAILED


def test_supervisor_ended_by_a_shutdown_leaves_no_result(
    harness: LocalLauncherHarness,
) -> None:
    launcher = harness.launcher('note(f"ready-{os.getpid()}"); time.sleep(600)')
    name = start(launcher)
    wait_for(harness.note_names)
    supervisor = harness.supervisor_pid(name)
    os.kill(supervisor, 15)
    wait_for(lambda: is_gone(supervisor))
    assert launcher.observe() == {}
    worker = int(next(iter(harness.note_names())).removeprefix("ready-"))
    assert is_gone(worker)
