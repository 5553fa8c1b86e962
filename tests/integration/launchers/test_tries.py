"""What the supervisor makes of a worker: tries, verdicts, deadlines."""

import json
import os

import pytest
from tests.integration.launchers.harness import (
    LocalLauncherHarness,
    finished,
    gone,
    start,
    wait_for,
)

from enrollgate.common.backoff import Backoff
from enrollgate.domain.observation import Phase
from enrollgate.domain.reasons import Reason

STUBBORN_TREE = """
grandchild = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"],
    process_group=0,
)
daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("grandchild", grandchild.pid)
note("daemon", daemon.pid)
note("worker", os.getpid())
time.sleep(600)
"""


def test_a_run_succeeds_and_its_report_is_read(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher('report(None, "all there", items_delivered=3); print("hello")')
    seen = finished(launcher, start(launcher))
    assert seen.phase is Phase.SUCCEEDED
    assert seen.report is not None
    assert (seen.report.message, seen.report.items_delivered) == ("all there", 3)
    assert "hello" in workshop.run(seen.name).log.read_text()


def test_a_worker_is_told_its_order_and_its_settings_and_none_of_the_operators_secrets(
    workshop: LocalLauncherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENROLLGATE_DATABASE_URL", "mysql://root:secret@localhost/x")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    launcher = workshop.launcher('note("env", json.dumps(dict(os.environ))); report(None)')
    name = start(launcher)
    assert finished(launcher, name).phase is Phase.SUCCEEDED
    run = workshop.run(name)
    environment = json.loads((workshop.notes / "env").read_text())
    told = {key: value for key, value in environment.items() if key.startswith("ENROLLGATE_")}
    assert told == {
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
    assert environment["NOTES"] == str(workshop.notes)
    assert environment["https_proxy"] == "http://proxy.example:3128"
    assert "secret" not in json.dumps(environment)


def test_a_run_that_fails_twice_succeeds_at_its_third_try(workshop: LocalLauncherHarness) -> None:
    script = """
scratch = pathlib.Path(os.environ["ENROLLGATE_SCRATCH_DIR"])
note(f"try-{run_number}", sorted(path.name for path in scratch.iterdir()))
(scratch / f"part-{run_number}").touch()
report("NetworkError" if run_number < 3 else None, f"at try {run_number}")
sys.exit(75 if run_number < 3 else 0)
"""
    launcher = workshop.launcher(script)
    seen = finished(launcher, start(launcher))
    assert seen.phase is Phase.SUCCEEDED
    assert workshop.noted() == {"try-1", "try-2", "try-3"}
    assert (workshop.notes / "try-3").read_text() == "['part-1', 'part-2']"
    verdict = workshop.run(seen.name).read_result()
    assert verdict is not None
    assert verdict.attempts == 3
    assert "[ATTEMPT 3/3]" in workshop.run(seen.name).log.read_text()


def test_after_the_last_try_the_run_has_failed_with_the_last_report(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(
        'note(f"try-{run_number}"); report("SiteError", f"at try {run_number}"); sys.exit(75)'
    )
    seen = finished(launcher, start(launcher))
    assert seen.phase is Phase.FAILED
    assert seen.report is not None
    assert (seen.report.reason, seen.report.message) == (Reason.SITE_ERROR, "at try 3")
    assert len(workshop.noted()) == 3


def test_the_report_of_an_earlier_try_does_not_explain_a_later_crash(
    workshop: LocalLauncherHarness,
) -> None:
    script = """
if run_number == 1:
    report("SiteError", "at try 1")
    sys.exit(75)
raise RuntimeError("nobody foresaw this")
"""
    launcher = workshop.launcher(script, max_attempts=2)
    seen = finished(launcher, start(launcher))
    assert seen.report is not None
    assert seen.report.reason is Reason.WORKER_CRASHED
    assert "exit code 1" in seen.report.message
    assert "RuntimeError: nobody foresaw this" in seen.report.message


@pytest.mark.parametrize("code", [2, 69])
def test_a_permanent_failure_is_not_tried_again(workshop: LocalLauncherHarness, code: int) -> None:
    launcher = workshop.launcher(
        f'note(f"try-{{run_number}}"); report("AccessDenied", "no"); sys.exit({code})'
    )
    seen = finished(launcher, start(launcher))
    assert seen.report is not None
    assert seen.report.reason is Reason.ACCESS_DENIED
    assert workshop.noted() == {"try-1"}


def test_a_worker_that_is_killed_is_tried_again(workshop: LocalLauncherHarness) -> None:
    script = """
if run_number == 1:
    note("victim", os.getpid())
    time.sleep(600)
report(None, "second time lucky")
"""
    launcher = workshop.launcher(script)
    name = start(launcher)
    os.kill(workshop.noted_pid("victim"), 9)
    seen = finished(launcher, name)
    assert seen.phase is Phase.SUCCEEDED
    assert "killed by SIGKILL" not in (seen.report.message if seen.report else "")


def test_what_a_dead_worker_left_running_is_killed_before_the_next_try(
    workshop: LocalLauncherHarness,
) -> None:
    script = """
if run_number == 1:
    child = subprocess.Popen(["sleep", "600"], process_group=0)
    note("child", child.pid)
    os.kill(os.getpid(), signal.SIGKILL)
child = int((notes / "child").read_text())
note("child-alive" if pathlib.Path(f"/proc/{child}/cmdline").exists() and
     pathlib.Path(f"/proc/{child}/cmdline").read_bytes() else "child-dead")
report(None)
"""
    launcher = workshop.launcher(script)
    assert finished(launcher, start(launcher)).phase is Phase.SUCCEEDED
    assert "child-dead" in workshop.noted()


def test_a_worker_that_cannot_be_started_is_a_failure_in_words(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(worker_argv=["/no/such/worker"])
    seen = finished(launcher, start(launcher))
    assert seen.report is not None
    assert seen.report.reason is Reason.WORKER_CRASHED
    assert "could not be started" in seen.report.message
    assert "/no/such/worker" in seen.report.message


def test_a_report_that_is_none_is_not_believed(workshop: LocalLauncherHarness) -> None:
    script = 'pathlib.Path(os.environ["ENROLLGATE_REPORT_PATH"]).write_text("{"); sys.exit(69)'
    launcher = workshop.launcher(script)
    seen = finished(launcher, start(launcher))
    assert seen.report is not None
    assert seen.report.reason is Reason.WORKER_CRASHED


def test_a_run_past_its_deadline_is_ended_and_keeps_its_count(
    workshop: LocalLauncherHarness,
) -> None:
    script = """
def end(*_):
    report("Stopped", "asked to end", items_delivered=2)
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
time.sleep(600)
"""
    launcher = workshop.launcher(script, run_timeout=1.0)
    seen = finished(launcher, start(launcher))
    assert seen.phase is Phase.FAILED
    assert seen.report is not None
    assert (seen.report.reason, seen.report.items_delivered) == (Reason.DEADLINE_EXCEEDED, 2)
    assert "time limit of 1 s" in seen.report.message


def test_the_deadline_covers_the_wait_between_two_tries(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher(
        'report("RateLimited", "slow down", retry_after=500.0); sys.exit(75)',
        run_timeout=1.0,
        backoff=Backoff(base=0, cap=600),
    )
    name = start(launcher)
    seen = finished(launcher, name)
    assert seen.report is not None
    assert seen.report.reason is Reason.DEADLINE_EXCEEDED
    assert "next attempt in 500.0 s" in workshop.run(name).log.read_text()


def test_a_whole_tree_that_ignores_the_request_is_killed_at_the_deadline(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(STUBBORN_TREE, run_timeout=1.5, stop_grace=0.1)
    name = start(launcher)
    pids = [workshop.noted_pid(who) for who in ("grandchild", "daemon", "worker")]
    seen = finished(launcher, name)
    assert seen.report is not None
    assert seen.report.reason is Reason.DEADLINE_EXCEEDED
    assert all(gone(pid) for pid in pids)


def test_a_stopped_run_ends_in_its_own_words(workshop: LocalLauncherHarness) -> None:
    script = """
def end(*_):
    report("Stopped", "asked to end", items_delivered=1)
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
note("ready")
time.sleep(600)
"""
    launcher = workshop.launcher(script)
    name = start(launcher)
    wait_for(lambda: "ready" in workshop.noted())
    for _ in range(3):
        launcher.stop(name)
    seen = finished(launcher, name)
    assert seen.phase is Phase.FAILED
    assert seen.report is not None
    assert (seen.report.reason, seen.report.items_delivered) == (Reason.STOPPED, 1)
    launcher.stop(name)
    assert finished(launcher, name) == seen


def test_a_run_that_ignores_the_request_is_killed_after_the_grace_with_all_it_started(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher(STUBBORN_TREE, stop_grace=0.1)
    name = start(launcher)
    pids = [workshop.noted_pid(who) for who in ("grandchild", "daemon", "worker")]
    launcher.stop(name)
    seen = finished(launcher, name)
    assert seen.report is not None
    assert seen.report.reason is Reason.STOPPED
    assert all(gone(pid) for pid in pids)


def test_a_run_that_waits_for_its_next_try_can_be_stopped(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher(
        'report("SiteError", "down"); note("tried"); sys.exit(75)',
        backoff=Backoff(base=600, cap=600),
    )
    name = start(launcher)
    wait_for(lambda: "next attempt in" in workshop.run(name).log.read_text())
    launcher.stop(name)
    assert finished(launcher, name).phase is Phase.FAILED
    assert workshop.noted() == {"tried"}


def test_a_run_stopped_in_the_moment_of_its_launch_never_starts_a_worker_for_long(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher("time.sleep(600)", stop_grace=0.1)
    name = start(launcher)
    launcher.stop(name)
    assert finished(launcher, name).phase is Phase.FAILED


def test_a_stop_request_whose_signal_is_lost_is_still_heard(workshop: LocalLauncherHarness) -> None:
    launcher = workshop.launcher('note("ready"); time.sleep(600)')
    name = start(launcher)
    wait_for(lambda: "ready" in workshop.noted())
    workshop.run(name).stop.touch()
    assert finished(launcher, name).phase is Phase.FAILED


def test_a_supervisor_ended_by_a_shutdown_leaves_no_verdict_so_that_the_run_is_started_anew(
    workshop: LocalLauncherHarness,
) -> None:
    launcher = workshop.launcher('note(f"ready-{os.getpid()}"); time.sleep(600)')
    name = start(launcher)
    wait_for(workshop.noted)
    supervisor = workshop.supervisor_pid(name)
    os.kill(supervisor, 15)
    wait_for(lambda: gone(supervisor))
    assert launcher.observe() == {}
    worker = int(next(iter(workshop.noted())).removeprefix("ready-"))
    assert gone(worker)
