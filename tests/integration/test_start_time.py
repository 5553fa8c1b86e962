"""Commands start quickly: they import only what they use, and explain themselves everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.world import World

from enrollgate.commands.cli import app
from enrollgate.domain.reasons import Reason

# Each takes from a tenth of a second to a whole one of CPU time to import.
HEAVY = {
    "aiohttp",
    "alembic",
    "av",
    "googleapiclient",
    "kopf",
    "kubernetes",
    "prometheus_client",
    "structlog",
    "yt_dlp",
}
# What decides and writes. `plan` decides, too, but writes nothing.
WRITERS = {
    f"enrollgate.{name}"
    for name in (
        "control.reconciler",
        "control.wiring",
        "database.backlog",
        "database.claims",
        "database.runs",
        "database.steering",
        "database.tasks",
        "domain.holds",
        "launchers",
        "telemetry",
        "worker",
    )
}
# Runs a command in this process, then prints the modules that it has imported.
PROBE = """
import sys
from enrollgate.commands.cli import main
try:
    main()
except SystemExit:
    pass
print("MODULES", *sys.modules)
"""


def imported_by(sqlite_url: str, *arguments: str) -> tuple[str, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "ENROLLGATE_DATABASE_URL": sqlite_url,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    output, _, modules = done.stdout.rpartition("MODULES ")
    return output, set(modules.split())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["reasons", "--json"]])
def test_start_of_a_command_without_database_imports_no_database(
    sqlite_url: str, arguments: list[str]
) -> None:
    output, modules = imported_by(sqlite_url, *arguments)
    assert output and not (HEAVY | {"sqlalchemy", "pydantic_settings"}) & modules


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["explain", "1"],
        ["holds"],
        ["plan", "--json"],
    ],
)
def test_start_of_a_reading_command_imports_no_operator(
    sqlite_url: str, arguments: list[str]
) -> None:
    world = World(sqlite_url)
    world.add("enrolled")
    world.reconcile()
    world.close()
    output, modules = imported_by(sqlite_url, *arguments)
    known = {"rich", "alembic"} if "plan" in arguments else set[str]()
    assert output and not (({"rich"} | HEAVY | WRITERS) - known) & modules


def test_start_of_a_worker_imports_only_what_it_uses(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENROLLGATE_ALLOWED_HOSTS", "127.0.0.1:1")
    monkeypatch.setenv("ENROLLGATE_DESTINATION", f"directory:{tmp_path}")
    report = tmp_path / "report"
    names = {"task-id": 7, "course-url": "http://127.0.0.1:1/", "scratch-dir": tmp_path}
    options = [f"--{name}={value}" for name, value in names.items()]
    _, modules = imported_by(sqlite_url, "work", *options, f"--report-path={report}")
    assert "NetworkError" in report.read_text(), "it sent its first request"
    assert "yt_dlp" in modules
    assert not (HEAVY | {"requests", "sqlalchemy", "urllib3"}) - {"yt_dlp"} & modules


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_explains_itself(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = [
        each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands
    ]
    assert {"status", "reasons", "doctor"} <= set(names)
    for path in [*([name] for name in names), ["drive"], ["drive", "login"], []]:
        assert app([*path, option], standalone_mode=False) in (0, None)
        assert "Usage:" in capsys.readouterr().out, path


@pytest.mark.parametrize(
    ("arguments", "text", "exit_code"),
    [
        (["drive", "login", "-h"], "--client-secrets", 0),
        (["mark-lost", "-h"], "mark-lost [OPTIONS]", 0),
        (["statis"], "No such command 'statis'", 2),
        (["status", "--fail"], "No such option: --fail", 2),
        ([], "mark-lost", 2),
    ],
)
def test_command_line_is_read_as_if_all_commands_were_prepared(
    arguments: list[str], text: str, exit_code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "enrollgate", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert text in done.stdout + done.stderr and done.returncode == exit_code


def test_shell_completion_names_the_commands() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from enrollgate.commands.cli import app; app(prog_name='enrollgate')",
        ],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "_ENROLLGATE_COMPLETE": "complete_bash",
            "COMP_WORDS": "enrollgate re",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(done.stdout.split()) == {"reasons", "release", "resume", "retry"}, done


def test_reasons_as_json_have_a_remedy_each(capsys: pytest.CaptureFixture[str]) -> None:
    app(["reasons", "--json"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert printed == Path("docs/reasons.json").read_text(encoding="utf-8")
    reasons = json.loads(printed)
    assert [each["reason"] for each in reasons] == [reason.value for reason in Reason]
    assert all(each["remedy"] and each["means"] for each in reasons)


def test_reasons_of_an_unknown_name_say_how_to_list_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["reasons", "NoSuchReason"])
    assert ended.value.code == 2 and "enrollgate reasons" in capsys.readouterr().err
