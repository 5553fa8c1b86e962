"""Operators in two places on one database: two work directories, two hosts, a reboot, a cluster.

The course site's access log and the rows show that each course is downloaded once. Another host is
this one with other words in the run's row.
"""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from examples.demo.site import CourseSite
from tests.e2e.operator_process import OperatorProcess, wait_until

from enrollgate.common import processes

COURSE = "bread"


@contextmanager
def live_run(folder: Path, url: str, site: CourseSite) -> Iterator[OperatorProcess]:
    """Give an operator that was killed while its run was downloading. The run continues."""
    operator = OperatorProcess(fresh(folder), url, site)
    try:
        operator.create_table()
        if not url.startswith("sqlite"):
            assert operator.command("migrate").returncode == 0
        operator.add(1, COURSE)
        process = operator.start()
        wait_until(lambda: site.media_sent > 0, lambda: operator.log)
        process.kill()
        process.wait()
        yield operator
    finally:
        operator.stop_all()
        for left in processes.iter_processes():
            if processes.mentions_path(left, folder):
                processes.send_signal(left, signal.SIGKILL)


def fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


def downloaded_once(site: CourseSite) -> bool:
    """Return whether every lecture left the site once; probes of its first bytes do not count."""
    lectures = sorted(map(len, site.lectures(COURSE)))
    sent = [record.bytes for record in site.records if record.path.endswith(".mp4")]
    return sorted(size for size in sent if size > 50_000) == lectures


def test_operator_with_another_work_dir_on_this_machine_refuses_to_start(
    tmp_path: Path, database_url: str, site: CourseSite
) -> None:
    with live_run(tmp_path / "by-hand", database_url, site) as first:
        second = OperatorProcess(fresh(tmp_path / "pm2"), database_url, site)
        refused = second.command("run")
        assert refused.returncode == 2, refused.stderr
        work_dir = tmp_path / "by-hand" / "work"
        assert f"ENROLLGATE_WORK_DIR={work_dir}" in refused.stderr and "live: 1" in refused.stderr
        site.throttle = None
        right = OperatorProcess(
            fresh(tmp_path / "right"), database_url, site, WORK_DIR=str(work_dir)
        )
        right.start()
        try:
            right.wait_for_status(1, "completed")
        finally:
            right.stop_all()
        assert first.runs() == [(1, 1, "finished", "succeeded", None)]
        assert downloaded_once(site)
        again = OperatorProcess(fresh(tmp_path / "again"), database_url, site)
        process = again.start()
        wait_until(lambda: "operator started" in again.log)
        again.stop_all()
        assert process.returncode == 0, "no run is left elsewhere"


def test_deleted_work_dir_is_named_until_its_runs_are_lost(
    tmp_path: Path, sqlite_url: str, site: CourseSite
) -> None:
    with live_run(tmp_path / "by-hand", sqlite_url, site):
        work = tmp_path / "by-hand" / "work"
        site.throttle = None
        wait_until(lambda: bool(list(work.glob("runs/*/result.json"))))
        work.rename(tmp_path / "deleted")
        second = OperatorProcess(fresh(tmp_path / "second"), sqlite_url, site)
        refused = second.command("run")
        assert refused.returncode == 2 and "cannot be read" in refused.stderr
        match = re.search(r"`enrollgate mark-lost (\S+)`", refused.stderr)
        assert match is not None
        assert match[1] in second.command("mark-lost").stdout
        assert second.command("mark-lost", "nowhere").returncode == 2
        marked = second.command("mark-lost", match[1])
        assert marked.returncode == 0 and "enrollgate-1-1: marked as lost" in marked.stdout
        second.write_cookies("account1@example.com")
        second.start()
        try:
            second.wait_for_status(1, "completed")
        finally:
            second.stop_all()
        assert [run[:4] for run in second.runs()] == [
            (1, 1, "finished", "lost"),
            (1, 2, "finished", "succeeded"),
        ]


def test_run_that_can_be_seen_from_here_is_not_lost(
    tmp_path: Path, sqlite_url: str, site: CourseSite
) -> None:
    with live_run(tmp_path / "by-hand", sqlite_url, site) as first:
        ((place,),) = first.sql("SELECT place_id FROM enrollgate_runs")
        refused = first.command("mark-lost", str(place))
        assert refused.returncode == 2 and "is not gone" in refused.stderr
        assert first.runs()[0][2] == "launched"


@pytest.mark.parametrize(
    ("elsewhere", "where"),
    [
        (
            {"launcher": "local", "host": "other", "boot_id": "other", "place_id": "other"},
            "/var/lib/enrollgate on host other",
        ),
        ({"launcher": "kubernetes", "place_id": "courses"}, "kubernetes namespace courses"),
    ],
    ids=["another host", "a cluster"],
)
def test_run_on_another_host_is_waited_for_and_shown(
    tmp_path: Path, database_url: str, site: CourseSite, elsewhere: dict[str, str], where: str
) -> None:
    site.throttle = None
    operator = OperatorProcess(
        fresh(tmp_path / "here"), database_url, site, MAX_CONCURRENT_RUNS="2"
    )
    try:
        operator.create_table()
        assert operator.command("migrate").returncode == 0
        operator.add(1, COURSE)
        columns = elsewhere | {"machine_id": "other", "work_dir": "/var/lib/enrollgate"}
        operator.sql(
            "INSERT INTO enrollgate_runs (id, task_id, run_number, name, installation, state, "
            f"claimed_at, launched_at, {', '.join(columns)}) VALUES (1, 1, 1, 'enrollgate-1-1', "
            "'enrollgate', 'launched', '2026-01-01', '2026-01-01', "
            f"{', '.join(f':{name}' for name in columns)})",
            **columns,
        )
        operator.start()
        for task in (2, 3):
            operator.add(task, COURSE)
            operator.wait_for_status(task, "completed")
        assert operator.runs()[0] == (1, 1, "launched", None, None)
        assert operator.log.count("runs elsewhere are waited for") == 1
        (shown,) = json.loads(operator.command("status", "--json").stdout)["runs"]
        assert shown["where"] == where
        # The run elsewhere takes one of the two slots.
        assert operator.status(1) == "enrolled"
    finally:
        operator.stop_all()


def test_run_of_this_directory_before_a_reboot_is_lost_and_repeated(
    tmp_path: Path, sqlite_url: str, site: CourseSite
) -> None:
    with live_run(tmp_path / "here", sqlite_url, site) as operator:
        kill_supervisor(operator)
        operator.sql("UPDATE enrollgate_runs SET boot_id = 'the boot before'")
        site.throttle = None
        operator.start()
        operator.wait_for_status(1, "completed")
        lost = operator.sql("SELECT outcome, message FROM enrollgate_runs WHERE run_number = 1")
        assert lost == [("lost", "the machine was restarted during the run; a new run follows")]


def test_run_whose_processes_were_killed_is_lost_with_true_words(
    tmp_path: Path, sqlite_url: str, site: CourseSite
) -> None:
    """As systemd does at a stop without KillMode=process: the whole control group dies."""
    with live_run(tmp_path / "here", sqlite_url, site) as operator:
        kill_supervisor(operator)
        site.throttle = None
        operator.start()
        operator.wait_for_status(1, "completed")
        ((outcome, message),) = operator.sql(
            "SELECT outcome, message FROM enrollgate_runs WHERE run_number = 1"
        )
        assert outcome == "lost" and "processes were killed" in str(message)
        assert "processes were killed" in operator.log


def kill_supervisor(operator: OperatorProcess) -> None:
    """Kill the supervisor of the only run; the kernel kills its worker."""
    (path,) = operator.folder.glob("work/runs/*/supervisor.json")
    os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)


def test_work_dir_of_another_host_refuses_until_its_runs_are_lost(
    tmp_path: Path, sqlite_url: str, site: CourseSite
) -> None:
    with live_run(tmp_path / "here", sqlite_url, site) as operator:
        operator.sql("UPDATE enrollgate_runs SET host = 'before', boot_id = 'before'")
        refused = operator.command("run")
        assert refused.returncode == 2 and "claimed by host before" in refused.stderr
        assert operator.runs() == [(1, 1, "launched", None, None)]
