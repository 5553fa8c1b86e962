"""`make demo`: it succeeds if the four cases keep the contract, and fails if one does not."""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from examples.demo import show
from examples.demo.__main__ import main
from examples.demo.media import FfmpegAbsent, find_ffmpeg
from tests.conftest import absent


@pytest.fixture(autouse=True)
def ffmpeg() -> None:
    try:
        find_ffmpeg()
    except FfmpegAbsent as error:
        absent("ffmpeg", str(error))


def start(folder: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "COLUMNS": "160",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo", "--folder", str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def find_operator(demo: "subprocess.Popen[str]") -> psutil.Process | None:
    for child in psutil.Process(demo.pid).children():
        with contextlib.suppress(psutil.Error):  # ffmpeg, which makes the lectures, comes and goes
            if child.cmdline()[-2:] == ["enrollgate", "run"]:
                return child
    return None


@pytest.mark.slow
def test_the_demo_shows_the_four_cases_and_ends_with_0(tmp_path: Path) -> None:
    demo = start(tmp_path / "demo")
    output, _ = demo.communicate()
    assert demo.returncode == 0, output
    summary = output.partition("How the four cases ended")[2]
    rows = re.findall(
        r"│ (\d) +│ ([a-z ]+?) +│ ([a-z]+) +│ (.*?) +│ (.*?) +│",
        re.sub(r"\d+ requests", "some", summary),
    )
    assert rows == [
        ("1", "quick enrollment", "completed", "4 lectures, some, none before `enrolled`", "yes"),
        ("2", "slow enrollment", "completed", "3 lectures, some, none before `enrolled`", "yes"),
        ("3", "enrollment failed", "failed", "no request", "yes"),
        ("4", "enrollment timeout", "failed", "EnrollmentTimeout, no request", "yes"),
    ]
    tree = summary.partition("courses/\n")[2]
    assert len(re.findall(r"── \d\d - [^\n]+\.mp4  [0-9,]+ bytes", tree)) == 7
    assert (
        "Ceramics for beginners [task-1]/" in tree and "Harmony at the keyboard [task-2]/" in tree
    )
    assert "ENROLL CHECK task=1" in (tmp_path / "demo" / "operator.log").read_text()


def test_the_demo_ends_at_once_when_its_operator_dies(tmp_path: Path) -> None:
    demo = start(tmp_path / "demo")
    while (operator := find_operator(demo)) is None:
        time.sleep(0.02)
    operator.kill()
    output, _ = demo.communicate()
    assert demo.returncode == 1
    assert (
        "The operator ended too early (signal 9)" in output
        and "How the four cases ended" not in output
    )


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            show.Case(3, "wrong end", "cyd@example.com", ((1, "failed"),), "completed"),
            "ended as failed, not completed",
        ),
        (
            show.Case(3, "wrong reason", "cyd@example.com", ((1, "failed"),), "failed", "Lost"),
            "reason None, not Lost",
        ),
    ],
)
def test_a_case_that_breaks_the_contract_fails_the_demo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: show.Case,
    message: str,
) -> None:
    monkeypatch.setattr(show, "CASES", (case,))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--folder", str(tmp_path / "demo")]) == 1
    assert f"no: {message}" in capsys.readouterr().out


def test_the_demo_does_not_empty_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    demo = start(tmp_path)
    output, _ = demo.communicate()
    assert demo.returncode == 1 and "is not empty and not of a demo: use another --folder" in output
    assert (tmp_path / "mine.txt").read_text() == "precious"
