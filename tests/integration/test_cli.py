"""The command line, as people and scripts use it."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import typer
from tests.explained import beat, completed, failed_by_cookies, running
from tests.faulty_site import Fault, FaultySite, Lecture
from tests.media import lecture
from tests.world import World

from enrollgate.commands.run import run as run_command
from enrollgate.control.loop import LoopFailed
from enrollgate.domain.observation import Observation, Phase
from enrollgate.domain.reasons import Reason, exit_code
from enrollgate.domain.report import Report
from enrollgate.settings.operator import Settings


@pytest.fixture
def environment(tmp_path: Path, sqlite_url: str) -> dict[str, str]:
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")
    }
    return others | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "COLUMNS": "160",
        "ENROLLGATE_DATABASE_URL": sqlite_url,
        "ENROLLGATE_WORK_DIR": str(tmp_path / "work"),
        "ENROLLGATE_DESTINATION": f"directory:{tmp_path / 'courses'}",
    }


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enrollgate", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_migrate_prints_the_revision(environment: dict[str, str]) -> None:
    first, second = run(environment, "migrate"), run(environment, "migrate")
    file = environment["ENROLLGATE_DATABASE_URL"].removeprefix("sqlite:///")
    assert (first.returncode, first.stdout) == (0, f"{file}: migrated to revision 0001\n")
    assert (second.returncode, second.stdout) == (0, f"{file}: already at revision 0001\n")


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "status --json",
        "explain 1",
        "logs 1",
        "plan",
        "holds",
        "mark-lost",
        "doctor",
        "web",
    ],
)
def test_a_mistyped_database_path_is_named_and_stays_absent(
    environment: dict[str, str], tmp_path: Path, command: str
) -> None:
    file = tmp_path / "mistyped.db"
    environment["ENROLLGATE_DATABASE_URL"] = f"sqlite:///{file}"
    done = run(environment, *command.split())
    assert done.returncode == (1 if command == "doctor" else 2), done
    printed = " ".join((done.stdout + done.stderr).split())
    assert f"there is no SQLite file {file}" in printed
    assert "correct ENROLLGATE_DATABASE_URL" in printed
    assert not list(tmp_path.glob("mistyped*"))


def test_a_reading_command_leaves_a_foreign_database_as_it_is(
    environment: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "foreign.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
    environment["ENROLLGATE_DATABASE_URL"] = f"sqlite:///{file}"
    before = file.read_bytes()
    for command in ("status", "explain 1", "logs 1", "plan", "doctor"):
        assert run(environment, *command.split()).returncode in (1, 2), command
    assert file.read_bytes() == before and not list(tmp_path.glob("foreign.db-*"))


def test_every_command_names_an_impossible_database_folder(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"
    for command in ("run", "migrate", "status", "doctor"):
        done = run(environment | {"ENROLLGATE_DATABASE_URL": f"sqlite:///{folder}/x.db"}, command)
        text = done.stdout + done.stderr
        assert done.returncode in (1, 2) and "Traceback" not in text and "folder" in text, done
        if command in ("run", "migrate"):
            assert (
                f"the folder {folder} of the SQLite file cannot be created (Not a directory)"
                in text
            ), done


def test_run_names_an_impossible_work_folder(environment: dict[str, str], tmp_path: Path) -> None:
    with closing(World(environment["ENROLLGATE_DATABASE_URL"])):
        (tmp_path / "file").touch()
        done = run(environment | {"ENROLLGATE_WORK_DIR": str(tmp_path / "file" / "work")}, "run")
    assert (
        done.returncode == 2
        and "ENROLLGATE_WORK_DIR" in done.stderr
        and "Traceback" not in done.stderr
    ), done


def test_status_and_doctor_create_no_folder_for_a_wrong_path(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for command in ("status", "doctor"):
        done = run(
            environment | {"ENROLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/mistyped/x.db"},
            command,
        )
        assert (
            done.returncode in (1, 2)
            and "`enrollgate migrate` creates it" in done.stdout + done.stderr
        ), done
    assert not (tmp_path / "mistyped").exists()


def test_doctor_creates_nothing_that_it_checks(environment: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = environment | {
        "ENROLLGATE_WORK_DIR": str(home / "enrollgate" / "work"),
        "ENROLLGATE_DESTINATION": f"directory:{home / 'courses'}",
        "ENROLLGATE_DATABASE_URL": f"sqlite:///{home}/tasks.db",
    }
    done = run(settings, "doctor")
    assert list(home.iterdir()) == []
    assert done.stdout.count("does not exist yet and can be created") == 2
    assert f"there is no SQLite file {home}/tasks.db" in done.stdout
    assert "`enrollgate migrate` creates it" in done.stdout


def test_doctor_names_a_folder_that_cannot_be_created(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    courses = tmp_path / "file" / "courses"
    done = run(environment | {"ENROLLGATE_DESTINATION": f"directory:{courses}"}, "doctor")
    assert done.returncode == 1
    assert f"{tmp_path / 'file'} is not writable: Not a directory" in done.stdout
    assert f"create {courses}, or set ENROLLGATE_DESTINATION to another folder" in done.stdout


def test_every_command_ends_with_2_and_names_a_wrong_setting(
    environment: dict[str, str],
) -> None:
    for command in ("run", "migrate", "status", "doctor"):
        done = run(environment | {"ENROLLGATE_CHECK_INTERVAL": "soon"}, command)
        assert done.returncode == 2 and "ENROLLGATE_CHECK_INTERVAL=soon" in done.stderr, done


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_every_command_names_an_unusable_ca_file(
    environment: dict[str, str], tmp_path: Path, content: str | None
) -> None:
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_text(content)
    settings = {
        "ENROLLGATE_DATABASE_URL": "mysql://u:hunter2@127.0.0.1:1/d",
        "ENROLLGATE_DATABASE__TLS_CA": str(ca),
    }
    what = "No such file or directory" if content is None else "it holds no certificate"
    message = (
        f"ENROLLGATE_DATABASE__TLS_CA={ca}: {what}: name the CA's certificate, a file in PEM format"
    )
    for command in ("run", "migrate", "status", "doctor"):
        done = run(environment | settings, command)
        text = done.stdout + done.stderr
        assert (
            done.returncode in (1, 2)
            and message in text
            and "Traceback" not in text
            and "hunter2" not in text
        ), done


def test_run_refuses_a_database_without_the_task_table(environment: dict[str, str]) -> None:
    done = run(environment, "run")
    assert (
        done.returncode == 2
        and "there is no table download_tasks: let Node.js create it" in done.stderr
    )


def test_crash_of_a_command_shows_no_address_and_no_local_variable(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import enrollgate.commands.status as status\n"
        "def fail(**options):\n"
        "    password = 'hunter' + '2'\n"
        "    raise ValueError('of ada@example.com\\nENROLL CHECK task=1')\n"
        "status.print_status = fail\n"
    )
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"}
    done = run(environment | path, "status")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: of <e-mail>\\nENROLL CHECK task=1\n")
    assert "in fail" in done.stderr and "hunter2" not in done.stderr


def test_run_warns_that_hosts_do_not_bind_a_download_command(environment: dict[str, str]) -> None:
    hosts = {"ENROLLGATE_ALLOWED_HOSTS": "courses.example.com"}
    command = {
        "ENROLLGATE_DOWNLOADER": "command",
        "ENROLLGATE_DOWNLOAD_COMMAND": "fetch {course_url} {output_dir}",
    }
    warning = "ENROLLGATE_ALLOWED_HOSTS does not bind ENROLLGATE_DOWNLOAD_COMMAND"
    assert warning in run(environment | hosts | command, "run").stderr
    assert warning not in run(environment | command, "run").stderr
    assert warning not in run(environment | hosts, "run").stderr


def test_run_in_kubernetes_mode_names_what_is_missing(environment: dict[str, str]) -> None:
    done = run(environment | {"ENROLLGATE_LAUNCHER": "kubernetes"}, "run")
    assert done.returncode == 2 and "needs ENROLLGATE_KUBERNETES__IMAGE" in done.stderr
    complete = environment | {
        "ENROLLGATE_LAUNCHER": "kubernetes",
        "ENROLLGATE_KUBERNETES__IMAGE": "enrollgate:test",
        "ENROLLGATE_DATABASE_URL": "mysql://user:secret@127.0.0.1:1/courses",
        "KUBECONFIG": "/nowhere/kubeconfig",
    }
    done = run(complete, "run")
    assert done.returncode == 2 and "set KUBECONFIG to a kubeconfig file" in done.stderr


def test_a_wrong_value_is_shown_as_it_was_written(environment: dict[str, str]) -> None:
    done = run(environment | {"ENROLLGATE_DESTINATION": "drive:x"}, "run")
    assert (
        done.returncode == 2
        and "ENROLLGATE_DESTINATION=drive:x: write drive:<folder id>" in done.stderr
    )


def test_doctor_fails_and_prints_each_problem_with_its_remedy(environment: dict[str, str]) -> None:
    Path(environment["ENROLLGATE_DATABASE_URL"].removeprefix("sqlite:///")).touch()
    done = run(environment, "doctor")
    assert done.returncode == 1
    assert "failed  our tables" in done.stdout and "run `enrollgate migrate`" in done.stdout
    assert "failed  task table" in done.stdout


def test_doctor_succeeds_with_a_good_installation(
    environment: dict[str, str], sqlite_url: str
) -> None:
    world = World(sqlite_url)
    world.add("pending")
    world.close()
    done = run(environment, "doctor", "--json")
    checks = {check["name"]: check["severity"] for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert {
        "database",
        "our tables",
        "columns",
        "privileges",
        "index on status",
        "destination",
        "cookies",
    } <= set(checks)
    assert "failed" not in checks.values()


def test_doctor_in_a_cluster_says_which_pod_can_check_the_rest(
    environment: dict[str, str],
) -> None:
    cluster = {
        "ENROLLGATE_LAUNCHER": "kubernetes",
        "ENROLLGATE_KUBERNETES__IMAGE": "enrollgate:1",
        "ENROLLGATE_KUBERNETES__COOKIES_SECRET": "cookies",
        "ENROLLGATE_DESTINATION": "directory:/not/mounted/here",
        "KUBECONFIG": "/nowhere/kubeconfig",
    }
    done = run(environment | cluster, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert "work folder" not in checks
    for name, message in {
        "cluster": "kubectl exec deploy/<release> -- enrollgate doctor",
        "destination": "check it with `helm test`",
        "cookies": "check it with `helm test`",
    }.items():
        assert checks[name]["severity"] == "warning" and message in checks[name]["remedy"], checks[
            name
        ]
    # As in the chart's test pod, which has a worker's rights.
    done = run(environment | cluster, "doctor", "--as-worker", "--json")
    as_worker = {check["name"] for check in json.loads(done.stdout)}
    assert as_worker == checks.keys() - {"cluster"}


def test_doctor_in_a_cluster_fails_for_files_that_a_worker_misses(
    environment: dict[str, str],
) -> None:
    """They come from a volume of the job template, which the operator's pod does not have."""
    files = {
        "ENROLLGATE_LAUNCHER": "kubernetes",
        "ENROLLGATE_KUBERNETES__IMAGE": "enrollgate:1",
        "ENROLLGATE_COOKIES_DIR": "/mnt/not/here",
        "ENROLLGATE_DESTINATION": "drive:0AbCdEfGhIj",
        "ENROLLGATE_DRIVE_CREDENTIALS": "/mnt/not/here/drive.json",
        "KUBECONFIG": "/nowhere/kubeconfig",
    }
    for arguments, severity in ((), "warning"), (("--as-worker",), "failed"):
        done = run(environment | files, "doctor", "--json", *arguments)
        checks = {check["name"]: check for check in json.loads(done.stdout)}
        for name in ("cookies", "destination"):
            assert checks[name]["severity"] == severity, checks[name]
            assert "/mnt/not/here" in checks[name]["detail"], checks[name]


def test_status_shows_tasks_runs_and_failures_with_remedies(
    environment: dict[str, str], sqlite_url: str
) -> None:
    world = World(sqlite_url)
    late = world.add("processing")
    world.reconcile()
    world.clock.advance(300)
    world.add("enrolled")
    world.add("odd")
    world.reconcile()
    world.close()
    text = run(environment, "status").stdout
    assert (
        "waiting for the enrollment" not in text
        and "EnrollmentTimeout" in text
        and "test-2-1" in text
    )
    assert "unknown status: ignored" in text
    data = json.loads(run(environment, "status", "--json").stdout)
    assert [count["status"] for count in data["tasks"]] == ["enrolled", "failed", "odd"]
    (live,) = data["runs"]
    assert live["name"] == "test-2-1" and live["percent"] is None
    assert live["account"] == "a***@example.com"
    (failure,) = data["failures"]
    assert failure["task_id"] == late and "ENROLLGATE_ENROLLMENT_TIMEOUT" in failure["remedy"]


def test_status_fits_80_columns_with_progress_link_and_masked_account(
    environment: dict[str, str], sqlite_url: str
) -> None:
    with closing(World(sqlite_url)) as world:
        for situation in (completed, failed_by_cookies, running):
            task, _ = situation(world)
        world.sql("UPDATE enrollgate_runs SET destination_url = 'https://drive.test/x'")
        beat(world)
    text = run(environment | {"COLUMNS": "40"}, "status").stdout
    assert all(len(line) <= 80 for line in text.splitlines()), text
    words = " ".join(text.split())
    for shown in (
        "41 %",
        "12 of 30 items are done",
        "https://drive.test/x",
        "a***@example.com",
        "CookiesExpired",
        "-> Export the account's cookies again",
        "it is down",  # the world's clock is years behind
    ):
        assert shown in words, text
    assert "ada@example.com" not in text
    only = run(environment, "status", "--failed").stdout
    assert "CookiesExpired" in only and "Unfinished runs" not in only
    (failure,) = json.loads(run(environment, "status", "--failed", "--json").stdout)["failures"]
    assert failure["reason"] == "CookiesExpired" and failure["account"] == "a***@example.com"
    of_task = run(environment, "status", "--task", str(task)).stdout
    assert f"Runs of task {task}: 1" in of_task and "CookiesExpired" not in of_task


def test_status_without_an_operator_says_so(environment: dict[str, str], sqlite_url: str) -> None:
    with closing(World(sqlite_url)) as world:
        world.add()
    text = " ".join(run(environment, "status").stdout.split())
    assert "No operator has ever made a pass on this database." in text


def test_status_shows_the_tasks_that_are_set_aside(
    environment: dict[str, str], sqlite_url: str
) -> None:
    world = World(sqlite_url)
    assert "Set aside" not in run(environment, "status").stdout
    task = world.add("enrolled")
    world.launcher.refused[task] = "the policy says no"
    world.reconcile()
    world.close()
    text = " ".join(run(environment, "status").stdout.split())
    assert "Set aside" in text and "the policy says no" in text
    (row,) = json.loads(run(environment, "status", "--json").stdout)["set_aside"]
    assert (row["task_id"], row["refusals"], row["message"]) == (task, 1, "the policy says no")
    assert row["retry_at"].endswith("Z")


def test_loop_that_fails_again_and_again_ends_the_operator_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_settings: Settings) -> None:
        raise LoopFailed("5 passes in a row failed")

    monkeypatch.setattr("enrollgate.commands.run.settings_or_fail", Settings)
    monkeypatch.setattr("enrollgate.commands.run.configure_logging", lambda *_, **__: None)
    monkeypatch.setattr("enrollgate.commands.run.run_operator", fail)
    with pytest.raises(typer.Exit) as ended:
        run_command()
    assert ended.value.exit_code == 1
    assert "5 passes in a row failed" in capsys.readouterr().err


def test_status_shows_what_completed_with_items_left_out(
    environment: dict[str, str], sqlite_url: str
) -> None:
    world = World(sqlite_url)
    task = world.add("enrolled")
    world.reconcile()
    (run_name,) = world.launcher.live
    message = "9 items delivered, 0 were there already, 2 items left out"
    report = Report(None, message, items_delivered=9, items_left_out=2)
    world.launcher.runs[run_name] = Observation(run_name, Phase.SUCCEEDED, report)
    world.reconcile()
    assert world.status(task) == "completed"
    world.close()
    assert "2 items left out" in " ".join(run(environment, "status").stdout.split())
    data = json.loads(run(environment, "status", "--json").stdout)
    (completed,) = data["completed_with_items_left_out"]
    assert completed["task_id"] == task and completed["message"] == message


def test_work_writes_a_wrong_setting_to_its_report(
    environment: dict[str, str], tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    variables = {
        "ENROLLGATE_TASK_ID": "1",
        "ENROLLGATE_COURSE_URL": "https://a.example/",
        "ENROLLGATE_SCRATCH_DIR": str(tmp_path / "scratch"),
        "ENROLLGATE_REPORT_PATH": str(report),
    }
    done = run(environment | variables | {"ENROLLGATE_SCRATCH_LIMIT": "big"}, "work")
    assert done.returncode == 2 and json.loads(report.read_text())["reason"] == "ConfigurationError"
    done = run(environment | variables | {"ENROLLGATE_COURSE_URL": "http://10.0.0.1/"}, "work")
    assert done.returncode == 69 and json.loads(report.read_text())["reason"] == "HostNotAllowed"


def test_version_is_printed(environment: dict[str, str]) -> None:
    assert run(environment, "--version").stdout.startswith("enrollgate 0.")


def test_a_hanging_worker_exits_when_asked_even_without_a_report(
    environment: dict[str, str], tmp_path: Path
) -> None:
    silence = threading.Event()
    with FaultySite([Lecture("One", lecture(400_000))]) as site:
        site.faults["/1.mp4"] = Fault(hold=silence)
        variables = {
            "ENROLLGATE_TASK_ID": "1",
            "ENROLLGATE_COURSE_URL": f"{site.url}/feed",
            "ENROLLGATE_ALLOWED_HOSTS": site.host,
            "ENROLLGATE_SCRATCH_DIR": str(tmp_path / "scratch"),
            "ENROLLGATE_REPORT_PATH": str(tmp_path / "no such folder" / "report.json"),
            "ENROLLGATE_STOP_GRACE": "2",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "enrollgate", "work"],
            env=environment | variables,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not any(path.stat().st_size for path in (tmp_path / "scratch").rglob("*.part")):
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        _, errors = process.communicate(timeout=120)
        silence.set()
    assert process.returncode == exit_code(Reason.STOPPED) and "Traceback" not in errors, errors


STOPPED_WHILE_LOCKED = """
import os, signal, threading, time
from enrollgate.common.signals import handle_signals
stop = threading.Event()
handle_signals(lambda name: stop.set() if name == "SIGTERM" else None)
with stop._cond:  # the main thread holds it for an instant in each stop.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
assert stop.wait(60)
"""


def test_a_signal_is_handled_while_the_main_thread_holds_a_lock(
    environment: dict[str, str],
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_WHILE_LOCKED], env=environment, timeout=120, check=False
    )
    assert done.returncode == 0
