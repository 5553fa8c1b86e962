"""A local run that takes too much memory ends with a reason; the other runs go on."""

import json
import sys

import pytest
from tests.integration.launchers.harness import (
    LocalLauncherHarness,
    is_gone,
    start,
    wait_for,
    wait_until_finished,
)

from enrollgate.domain.observation import Phase
from enrollgate.domain.reasons import Reason

MEBIBYTE = 2**20
LIMIT = 256 * MEBIBYTE
# Takes memory for good: pages that are written to.
TAKE = """
def take(megabytes):
    return [bytearray(b"x" * 2**20) for _ in range(megabytes)]
"""
# In a session of its own, as a daemon of a download command.
DAEMONS = """
for number in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        note(f"daemon-{number}", os.getpid())
        taken = take(100)
        time.sleep(600)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "script",
    [
        "taken = take(400); time.sleep(600)",
        "taken = bytearray(400 * 2**20); time.sleep(600)",
        "import mmap; taken = mmap.mmap(-1, 400 * 2**20); taken.write(b'x' * len(taken))\n"
        "time.sleep(600)",
        DAEMONS,
        "while True: subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
    ],
    ids=["heap", "one block", "shared memory", "daemons", "many processes"],
)
def test_a_run_above_the_limit_is_killed_with_all_its_processes(
    harness: LocalLauncherHarness, script: str
) -> None:
    launcher = harness.launcher(TAKE + script, memory_limit=LIMIT, max_attempts=1)
    name = start(launcher)
    observation = wait_until_finished(launcher, name)
    assert observation.phase is Phase.FAILED and observation.report is not None
    assert observation.report.reason is Reason.OOM_KILLED, observation.report
    assert "MiB of memory, and their limit is 256 MiB" in observation.report.message
    for note in harness.note_names():
        assert is_gone(int((harness.notes / note).read_text()))


def test_a_run_above_the_limit_is_tried_again(harness: LocalLauncherHarness) -> None:
    script = (
        "taken = take(400 if attempt == 1 else 1)\n"
        "report(None) if attempt == 2 else time.sleep(600)\n"
    )
    launcher = harness.launcher(TAKE + script, memory_limit=LIMIT)
    assert wait_until_finished(launcher, start(launcher)).phase is Phase.SUCCEEDED


def test_other_runs_go_on_while_one_is_killed(harness: LocalLauncherHarness) -> None:
    script = (
        "if os.environ['ENROLLGATE_TASK_ID'] == '1': taken = take(400); time.sleep(600)\n"
        "while not (notes / 'killed').exists(): time.sleep(0.02)\n"
        "report(None)\n"
    )
    launcher = harness.launcher(TAKE + script, memory_limit=LIMIT, max_attempts=1)
    first, second = start(launcher, 1), start(launcher, 2)
    assert wait_until_finished(launcher, first).phase is Phase.FAILED
    (harness.notes / "killed").touch()
    assert wait_until_finished(launcher, second).phase is Phase.SUCCEEDED


def test_memory_that_processes_share_counts_once(harness: LocalLauncherHarness) -> None:
    script = (
        "taken = take(120)\n"
        "children = []\n"
        "for _ in range(4):\n"
        "    children.append(os.fork())\n"
        "    if not children[-1]: time.sleep(600)\n"
        "time.sleep(2)\n"
        "for child in children: os.kill(child, signal.SIGKILL)\n"
        "report(None)\n"
    )
    launcher = harness.launcher(TAKE + script, memory_limit=LIMIT, max_attempts=1)
    observation = wait_until_finished(launcher, start(launcher))
    assert observation.phase is Phase.SUCCEEDED, observation.report


def test_a_download_command_above_the_limit_has_that_reason(
    harness: LocalLauncherHarness,
) -> None:
    """The real worker. One block at once: the kernel must not refuse it before we look."""
    program = "import sys, time; sys.argv; taken = bytearray(1500 * 2**20); time.sleep(600)"
    command = [sys.executable, "-c", program, "{course_url}", "{output_dir}"]
    launcher = harness.launcher(
        worker_argv=[sys.executable, "-P", "-m", "enrollgate", "work"],
        worker_env={
            "ENROLLGATE_DOWNLOADER": "command",
            "ENROLLGATE_DOWNLOAD_COMMAND": json.dumps(command),
            "ENROLLGATE_DESTINATION": f"directory:{harness.notes}",
        },
        memory_limit=LIMIT,
        max_attempts=1,
    )
    observation = wait_until_finished(launcher, start(launcher))
    assert observation.report is not None
    assert observation.report.reason is Reason.OOM_KILLED, observation.report


def test_without_a_limit_a_run_may_take_what_it_needs(harness: LocalLauncherHarness) -> None:
    launcher = harness.launcher(TAKE + "taken = take(400); time.sleep(1); report(None)")
    assert wait_until_finished(launcher, start(launcher)).phase is Phase.SUCCEEDED


def test_a_growth_that_is_too_fast_to_be_seen_is_refused_at_once(
    harness: LocalLauncherHarness,
) -> None:
    script = (
        "import resource\n"
        "note('limit', resource.getrlimit(resource.RLIMIT_DATA)[0])\n"
        "try: taken = bytearray(4 * 2**30)\n"
        "except MemoryError: report('OOMKilled', 'refused'); sys.exit(75)\n"
    )
    launcher = harness.launcher(script, memory_limit=LIMIT, max_attempts=1)
    observation = wait_until_finished(launcher, start(launcher))
    assert observation.report is not None and observation.report.message == "refused"
    wait_for(lambda: "limit" in harness.note_names())
    assert int((harness.notes / "limit").read_text()) == 2 * LIMIT + 512 * MEBIBYTE
