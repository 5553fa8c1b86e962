"""`scripts/ci.py` on a small pytest project of its own."""

import sys
from pathlib import Path

import pytest
from scripts import ci

PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
# Fails in the first process that runs it, passes in every later one.
FLAKY = """
def test_flaky_{number}():
    marker = pathlib.Path("ran-{number}")
    if not marker.exists():
        marker.touch()
        raise RuntimeError("the first time only")
"""
PASSING = "import pathlib, pytest\ndef test_passes(): pass\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the tests of a project, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # starts faster
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "tests").mkdir()
    return tmp_path / "tests"


def run(project: Path, source: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run CI on one test module; return the exit code and the lines after the last rule."""
    (project / "test_it.py").write_text(PASSING + source)
    code = ci.main([ci.Task(PYTEST, PYTEST)], ("true",))
    return code, capfd.readouterr().out.rpartition("=" * 80)[2]


def test_ci_when_all_pass_succeeds(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(project, "", capfd) == (0, "\nCI succeeded: 0 failed, 0 flaky\n")


def test_ci_lists_failed_tests_with_first_error_lines(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = """
@pytest.mark.parametrize("text", ["a b", "é::[x]", "<&"])
def test_parameters(text):
    assert text == "a b", f"{text}\\nsecond line"
class TestIt:
    def test_method(self):
        raise ValueError("always")
@pytest.fixture
def broken():
    raise OSError("no such thing")
def test_setup(broken): pass
"""
    code, summary = run(project, source, capfd)
    assert code == 1
    for name in (r"test_parameters[\xe9::[x]]", "test_parameters[<&]", "TestIt::test_method"):
        assert f"FAILED tests/test_it.py::{name}\n" in summary
    assert "    ValueError: always\n" in summary and "no such thing" in summary
    assert "second line" not in summary
    assert "test_passes" not in summary and "a b]" not in summary
    assert summary.endswith("CI failed: 4 failed, 0 flaky\n")


def test_ci_with_two_flaky_tests_lists_them_and_succeeds(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = "".join(FLAKY.format(number=number) for number in (1, 2))
    code, summary = run(project, source, capfd)
    assert code == 0
    assert "FLAKY tests/test_it.py::test_flaky_1\n    RuntimeError: the first time only" in summary
    assert "FAILED" not in summary
    assert summary.endswith("CI succeeded: 0 failed, 2 flaky\n")


def test_ci_with_a_module_that_cannot_be_imported_fails(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, summary = run(project, "import no_such_module\n", capfd)
    assert code == 1 and "FAILED" in summary and "test_it" in summary


def test_ci_when_a_command_fails_outside_its_tests_shows_its_last_lines(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = (sys.executable, "-c", "import sys; print('a lint error'); sys.exit(3)")
    assert ci.main([ci.Task(command)], ("true",)) == 1
    summary = capfd.readouterr().out.rpartition("=" * 80)[2]
    assert f"FAILED {' '.join(command)}\n    exit code 3, outside its tests:" in summary
    assert "\n    a lint error\n" in summary


@pytest.mark.parametrize(
    ("failed", "flaky", "code", "last_line"),
    [
        (0, 2, 0, "CI succeeded: 0 failed, 2 flaky"),
        (0, 3, 1, "CI failed: 0 failed, 3 flaky"),
        (1, 1, 1, "CI failed: 1 failed, 1 flaky"),
        # So many that none of them is run again.
        (0, 21, 1, "CI failed: 21 failed, 0 flaky"),
    ],
)
def test_ci_fails_by_failed_tests_or_more_than_two_flaky_ones(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failed: int,
    flaky: int,
    code: int,
    last_line: str,
) -> None:
    failures = [ci.Failure(f"failed {number}", "error") for number in range(failed)]
    failures += [ci.Failure(f"flaky {number}", "error") for number in range(flaky)]
    monkeypatch.setattr(ci, "run_task", lambda *_: failures)
    monkeypatch.setattr(ci, "passes_alone", lambda each: each.name.startswith("flaky"))
    assert ci.main([ci.Task(())], build=("true",)) == code
    assert capsys.readouterr().out.splitlines()[-1] == last_line


def test_ci_builds_beside_the_tests_and_waits_for_the_end(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Neither ends before the other has begun.
    meet = "until [ -e {theirs} ]; do sleep 0.01; done".format
    build = ("sh", "-c", f"touch build; {meet(theirs='tests-run')}; touch built")
    tests = ("sh", "-c", f"touch tests-run; {meet(theirs='build')}")
    assert ci.main([ci.Task(tests)], build) == 0
    assert Path("built").exists()
    assert "CI succeeded" in capfd.readouterr().out


def test_ci_runs_a_failed_test_again_as_its_own_task_does(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One of the node's tests needs the node."""
    (project / "test_it.py").write_text(PASSING + FLAKY.format(number=1))
    (project / "test_other.py").write_text(PASSING + FLAKY.format(number=2))
    tasks = [
        ci.Task((*PYTEST, "tests/test_it.py"), ("env", "TASK=first", *PYTEST, "-s")),
        ci.Task((*PYTEST, "tests/test_other.py"), ("sh", "-c", 'echo "on a node: $4"', "sh")),
    ]
    assert ci.main(tasks, ("true",)) == 0
    output = capfd.readouterr().out
    assert "on a node: tests/test_other.py::test_flaky_2\n" in output
    assert output.endswith("CI succeeded: 0 failed, 2 flaky\n")


def test_ci_commands_are_targets_that_contributing_names() -> None:
    root = Path(__file__).parents[2]
    makefile, page = (root / name for name in ("Makefile", "CONTRIBUTING.md"))
    for task in ci.TASKS:
        assert f"\n{task.command[1]}: " in makefile.read_text(), task
        assert f"| `{task.title}` |" in page.read_text(), task
    assert {task.pytest[0] for task in ci.TASKS} == {".venv/bin/pytest", "scripts/real-node"}
