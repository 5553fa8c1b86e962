"""Run the README's test commands, and end with what failed. `.ci/run` starts it.

In come the commands and the JUnit reports that pytest writes for them. Out come the exit code and a
short list at the end: each failed test with the first line of its error.

A failed test is run once more, alone. If it passes then, it is listed as FLAKY, and the run may
still succeed: the next thing to do is to find out why. More than two flaky tests fail the run.

The Kubernetes programs take long to build. So they are built at the lowest priority, while the
first tests run, which mostly wait.

This needs nothing but Python's standard library, since it starts before .venv exists.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

PYTEST = (".venv/bin/pytest",)
# First what `make test-cluster` waits for. The node's programs share most packages with it.
BUILD = ("nice", "-n", "19", "sh", "-c", "scripts/control-plane && scripts/control-plane --node")
MOST_FLAKY = 2
# If more tests have failed, something is broken: none is run again.
MOST_RERUNS = 20
_LAST_LINES = 15
_LONGEST_ERROR = 300


@dataclass(frozen=True)
class Task:
    """One command that runs tests. `pytest` is how one of them is run again, alone."""

    command: Sequence[str]
    pytest: Sequence[str] = PYTEST

    @property
    def title(self) -> str:
        """The command as people type it."""
        return " ".join(self.command)


TASKS = (
    Task(("make", "test")),
    Task(("make", "test-cluster")),
    Task(("make", "test-node-quick"), ("scripts/real-node", *PYTEST)),
)


@dataclass(frozen=True)
class Failure:
    """One test that failed, or one command that failed outside its tests."""

    name: str
    error: str
    is_test: bool = True
    # Starts pytest where this test can run.
    pytest: Sequence[str] = PYTEST


def read_failures(report: Path, pytest: Sequence[str] = PYTEST) -> list[Failure]:
    """Return the failed tests of a JUnit report of pytest (family xunit1), under their node ids."""
    failures = dict[str, Failure]()
    for case in ElementTree.parse(report).iter("testcase"):
        problem = case.find("failure")
        problem = case.find("error") if problem is None else problem
        if problem is None:
            continue
        path, owner, name = (case.get(key, "") for key in ("file", "classname", "name"))
        # `classname` is the module, then the test's class, if it has one.
        module = path.removesuffix(".py").replace("/", ".")
        classes = [part for part in owner.removeprefix(module).split(".") if part]
        node_id = "::".join([path, *classes, name]) if path else f"{owner} {name}".strip()
        lines = (problem.get("message") or problem.text or "").strip().splitlines()
        error = lines[0][:_LONGEST_ERROR] if lines else "no message"
        failures.setdefault(node_id, Failure(node_id, error, bool(path), pytest))
    return list(failures.values())


def run_task(task: Task, report: Path) -> list[Failure]:
    """Run one command, print its output as it comes, and return what failed in it."""
    options = f"--junitxml={report} -o junit_family=xunit1"
    environment = os.environ | {
        "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} {options}".strip()
    }
    last_lines = deque[str](maxlen=_LAST_LINES)
    with subprocess.Popen(
        task.command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            last_lines.append(line.rstrip())
    failures = read_failures(report, task.pytest) if report.exists() else []
    if process.returncode != 0 and not failures:
        error = "\n    ".join([f"exit code {process.returncode}, outside its tests:", *last_lines])
        return [Failure(task.title, error, is_test=False)]
    return failures


def passes_alone(failure: Failure) -> bool:
    """Run one failed test again, with nothing else. Returns whether it passes."""
    print(f"once more, alone: {failure.name}", flush=True)
    command = [*failure.pytest, "-q", "-p", "no:cacheprovider", failure.name]
    return subprocess.run(command, check=False).returncode == 0


def main(tasks: Sequence[Task] = TASKS, build: Sequence[str] = BUILD) -> int:
    """Run all commands, with `build` beside the first ones, and print what failed.

    Returns the exit code. If `build` fails, the command that needs it builds again, and says why.
    """
    failures = list[Failure]()
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-ci-") as folder,
        (Path(folder) / "build.log").open("wb") as log,
        subprocess.Popen(build, stdout=log, stderr=log),
    ):
        for number, task in enumerate(tasks):
            failures += run_task(task, Path(folder) / f"{number}.xml")
    flaky = list[Failure]()
    if len(failures) <= MOST_RERUNS:
        flaky = [each for each in failures if each.is_test and passes_alone(each)]
    failed = [each for each in failures if each not in flaky]
    print("=" * 80)
    for heading, listed in (("FAILED", failed), ("FLAKY", flaky)):
        for failure in listed:
            print(f"{heading} {failure.name}\n    {failure.error}")
    if flaky:
        print(f"{len(flaky)} flaky: failed, then passed alone. Find out why; {MOST_FLAKY} at most.")
    is_success = not failed and len(flaky) <= MOST_FLAKY
    outcome = "succeeded" if is_success else "failed"
    print(f"CI {outcome}: {len(failed)} failed, {len(flaky)} flaky")
    return 0 if is_success else 1


if __name__ == "__main__":
    sys.exit(main())
