"""In real time: the Node.js example writes rows into MariaDB. The course site's access log is the
proof."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.demo.site import CourseSite
from sqlalchemy import make_url
from tests.drive_emulator import DriveEmulator
from tests.e2e.operator_process import OperatorProcess, course_site, wait_until

from enrollgate.database.task_status import task_status

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "node-writer"


@pytest.fixture
def site() -> Iterator[CourseSite]:
    with course_site() as running:
        yield running


def node(writer: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    plain = make_url(url).set(drivername="mysql").render_as_string(hide_password=False)
    environment = os.environ | {"DATABASE_URL": plain}
    return subprocess.run(
        ["node", str(writer), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_request_reaches_the_site_before_the_row_is_enrolled(
    node_writer: Path, mariadb_url: str, tmp_path: Path, site: CourseSite
) -> None:
    operator = OperatorProcess(tmp_path, mariadb_url, site, ENROLLMENT_TIMEOUT="6")
    accounts = {"quick": "ada@example.com", "fail": "bob@example.com", "stall": "cyd@example.com"}
    try:
        assert node(node_writer, mariadb_url, "create-table").returncode == 0
        assert operator.command("migrate").returncode == 0
        for account in accounts.values():
            operator.write_cookies(account)
        process = operator.start()
        course = (
            "--course",
            "bread",
            "--course-url",
            site.course_url("bread"),
            "--site",
            site.url,
            "--seconds",
            "3",
        )
        quick = node(node_writer, mariadb_url, "play", "--email", accounts["quick"], *course)
        failed = node(
            node_writer, mariadb_url, "play", "--email", accounts["fail"], *course, "--fail"
        )
        stalled = node(
            node_writer, mariadb_url, "play", "--email", accounts["stall"], *course, "--stall"
        )
        assert (quick.returncode, failed.returncode, stalled.returncode) == (0, 0, 0), quick.stderr
        operator.wait_for_status(1, "completed")
        operator.wait_for_status(3, "failed")
        assert operator.status(2) == "failed"
        assert operator.runs() == [
            (1, 1, "finished", "succeeded", None),
            (3, 1, "finished", "failed", "EnrollmentTimeout"),
        ]
        assert operator.files(1) == site.lectures("bread")
        enrolled_at = (
            next(
                int(line.split()[0])
                for line in quick.stdout.splitlines()
                if line.endswith(" enrolled")
            )
            / 1000
        )
        requests = [record for record in site.records if record.method != "POST"]
        assert requests and {record.account for record in requests} == {accounts["quick"]}
        assert min(record.time for record in requests) >= enrolled_at
        process.terminate()
        assert process.wait(timeout=60) == 0
        assert "@example.com" not in operator.log and "ENROLL CHECK task=1" in operator.log
    finally:
        operator.stop_all()


def test_node_reads_progress_and_the_link_of_a_running_task(
    node_writer: Path, mariadb_url: str, tmp_path: Path
) -> None:
    with course_site(throttle=20_000) as slow:
        operator = OperatorProcess(tmp_path, mariadb_url, slow)
        try:
            assert node(node_writer, mariadb_url, "create-table").returncode == 0
            assert operator.command("migrate").returncode == 0
            operator.add(1, "bread")
            operator.start()
            watching = node(node_writer, mariadb_url, "watch", "1")
            assert watching.returncode == 0, watching.stderr + operator.log
            lines = watching.stdout.splitlines()
            running = [line for line in lines if line.startswith("task 1 running, ")]
            percents = [
                int(found[1]) for line in running if (found := re.search(r" (\d+) %", line))
            ]
            assert len(set(percents)) > 2 and percents == sorted(percents), lines
            link = (tmp_path / "courses").as_uri()
            assert any(link in line and " of 3 items" in line for line in running), lines
            assert re.match(rf"task 1 completed, 100 %, 3 of 3 items, .*{link}", lines[-1]), lines
            why = node(node_writer, mariadb_url, "why", "1")
            assert "why: 3 items delivered" in why.stdout
        finally:
            operator.stop_all()


def test_node_reads_progress_and_the_drive_link_of_a_running_task(
    node_writer: Path, mariadb_url: str, tmp_path: Path
) -> None:
    login = tmp_path / "login.json"
    with course_site(throttle=20_000) as slow, DriveEmulator() as drive:
        login.write_text(json.dumps(drive.user_login()))
        operator = OperatorProcess(
            tmp_path,
            mariadb_url,
            slow,
            DESTINATION=f"drive:{drive.store.root}",
            DRIVE_ENDPOINT=drive.url,
            DRIVE_CREDENTIALS=str(login),
        )
        try:
            assert node(node_writer, mariadb_url, "create-table").returncode == 0
            assert operator.command("migrate").returncode == 0
            operator.add(1, "bread")
            operator.start()
            watching = node(node_writer, mariadb_url, "watch", "1")
            assert watching.returncode == 0, watching.stderr + operator.log
            lines = watching.stdout.splitlines()
            links = [
                re.findall(r"https://\S+", line)
                for line in lines
                if line.startswith("task 1 running, ") and " of 3 items" in line
            ]
            assert any(links), lines
            (link,) = {found for each in links for found in each}
            # The link that Drive gave for the course's folder, which has the lectures.
            folder = next(each for each in drive.store.find("") if each.get("webViewLink") == link)
            assert folder["name"].endswith("task-1]"), folder
            files = drive.store.find(f"'{folder['id']}' in parents and mimeType = 'video/mp4'")
            assert len(files) == 3, files
            assert lines[-1].startswith("task 1 completed, 100 %") and link in lines[-1], lines
        finally:
            operator.stop_all()


def test_node_says_why_a_task_waits_and_why_it_failed(
    node_writer: Path, mariadb_url: str, tmp_path: Path, site: CourseSite
) -> None:
    operator = OperatorProcess(tmp_path, mariadb_url, site, ENROLLMENT_TIMEOUT="300")
    try:
        assert node(node_writer, mariadb_url, "create-table").returncode == 0
        assert operator.command("migrate").returncode == 0
        operator.add(1, "bread", "paid")
        operator.add(2, "no-such-course")
        operator.start()
        operator.wait_for_status(2, "failed")
        waits = node(node_writer, mariadb_url, "why", "1").stdout
        assert re.match(r"task 1 waiting, \d+ s until the enrollment timeout\n", waits), waits
        failed = node(node_writer, mariadb_url, "watch", "2")
        assert failed.returncode == 1 and "task 2 failed" in failed.stderr
        assert "\nwhy: " in failed.stderr and "\ndo: " in failed.stderr
        unknown = node(node_writer, mariadb_url, "why", "99")
        assert unknown.returncode == 1 and "knows no task 99" in unknown.stderr
    finally:
        operator.stop_all()


def test_node_pauses_and_resumes_an_account_a_host_and_everything(
    node_writer: Path, server_database_url: str, tmp_path: Path, site: CourseSite
) -> None:
    url = server_database_url
    operator = OperatorProcess(tmp_path, url, site, INSTALLATION="shop")
    mine = ("--installation", "shop")
    account, host = "account1@example.com", site.host.partition(":")[0]
    try:
        assert node(node_writer, url, "create-table").returncode == 0
        assert operator.command("migrate").returncode == 0
        operator.start()
        for scope in (("--email", f" {account.upper()} "), ("--host", host.upper()), ()):
            paused = node(node_writer, url, "pause", *scope, *mine, "--minutes", "90")
            assert paused.returncode == 0 and "is paused" in paused.stdout, paused
            again = node(node_writer, url, "pause", *scope, *mine)
            assert again.returncode == 1 and "is paused already" in again.stderr, again
        operator.add(1, "bread")
        held = "SELECT hold_scope FROM enrollgate_task_status WHERE state = 'held'"
        wait_until(lambda: operator.sql(held) != [], lambda: operator.log)
        listed = node(node_writer, url, "holds", *mine).stdout.splitlines()
        scopes = [line.split()[3].strip(",") for line in listed]
        assert scopes == ["account", "host", "installation"], listed
        assert all("by writer.mjs, until 20" in line for line in listed), listed
        assert account not in "".join(listed)
        for scope in ((), ("--host", host)):
            assert node(node_writer, url, "resume", *scope, *mine).returncode == 0
        assert operator.runs() == [], "its account is paused still"
        over = node(node_writer, url, "resume", "--email", account, *mine)
        assert over.returncode == 0 and over.stdout == "the pause of this account is over\n", over
        operator.wait_for_status(1, "completed")
        none = node(node_writer, url, "resume", "--email", account, *mine)
        assert none.returncode == 1 and "there is no pause of this account" in none.stderr
        assert node(node_writer, url, "holds", *mine).stdout == ""
    finally:
        operator.stop_all()


def test_node_example_agrees_with_its_types(node_writer: Path) -> None:
    done = subprocess.run(
        ["npm", "run", "types"], cwd=node_writer.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_of_the_example_are_the_columns_of_the_view() -> None:
    text = (EXAMPLE / "enrollgate.d.ts").read_text()
    interface = text.split("export interface TaskStatus {")[1].split("\n}")[0]
    names = re.findall(r"^  (\w+): ", interface, re.MULTILINE)
    assert names == [column.name for column in task_status.c]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "no command given"),
        (("dance",), 2, "unknown command 'dance'"),
        (("set", "x", "paid"), 2, "'x' is not a task id"),
        (("set", "99", "paid"), 1, "task 99 does not exist"),
        (("add", "--email", "a@example.com"), 2, "--course-url is missing"),
        (("add", "--nonsense"), 2, "usage:"),
        (("pause", "--email", "a@example.com", "--host", "b"), 2, "not both"),
        (("pause", "--minutes", "soon"), 2, "--minutes soon is not valid"),
    ],
)
def test_node_example_with_wrong_arguments_says_what_is_wrong(
    node_writer: Path, mariadb_url: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    assert node(node_writer, mariadb_url, "create-table").returncode == 0
    done = node(node_writer, mariadb_url, *arguments)
    assert done.returncode == code and message in done.stderr


def test_example_download_command_delivers_a_course(
    sqlite_url: str, tmp_path: Path, site: CourseSite
) -> None:
    script = REPOSITORY / "examples" / "download-command" / "main.py"
    command = f"{sys.executable} {script} -c {{course_url}} -o {{output_dir}}"
    operator = OperatorProcess(
        tmp_path, sqlite_url, site, DOWNLOADER="command", DOWNLOAD_COMMAND=command
    )
    try:
        operator.create_table()
        operator.add(1, "harmony")
        operator.start()
        operator.wait_for_status(1, "completed")
        assert operator.files(1) == site.lectures("harmony")
    finally:
        operator.stop_all()


def test_failing_download_command_is_tried_3_times_and_explained(
    sqlite_url: str, tmp_path: Path, site: CourseSite
) -> None:
    program = "import sys; sys.exit('sorry {course_url} {output_dir}')"
    operator = OperatorProcess(
        tmp_path,
        sqlite_url,
        site,
        DOWNLOADER="command",
        DOWNLOAD_COMMAND=f'{sys.executable} -c "{program}"',
    )
    try:
        operator.create_table()
        operator.add(1, "harmony")
        operator.start()
        operator.wait_for_status(1, "failed")
        wait_until(lambda: operator.runs()[0][2] == "finished")
        assert operator.runs() == [(1, 1, "finished", "failed", "CommandFailed")]
        message = str(operator.sql("SELECT message FROM enrollgate_runs")[0][0])
        assert "exit code 1" in message and "sorry" in message
        (log,) = (tmp_path / "work" / "finished").glob("*/log")
        assert [f"[ATTEMPT {number}/3]" in log.read_text() for number in (1, 2, 3)] == [True] * 3
    finally:
        operator.stop_all()
