"""The arithmetic and the configurations of the benchmarks beside other systems."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import keda, ours, prefect
from benchmarks.peers.harness import Row, count, match, median_row, percentiles, sum_commands
from benchmarks.peers.job import TASK
from benchmarks.peers.suite import compare, describe, find_systems, keep_absent
from benchmarks.peers.system import Running, System
from benchmarks.promises import KEDA, PROMISES

JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": f"school-{TASK}-1", "labels": {"enrollgate.io/task": str(TASK)}},
    "spec": {
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": "worker", "values": [3]}}
            ]
        },
        "template": {
            "spec": {
                "restartPolicy": "Never",
                "containers": [
                    {"name": "worker", "env": [{"name": "TASK_ID", "value": str(TASK)}]}
                ],
            }
        },
    },
}
SYSTEM = System(
    name="Enrollgate",
    version="1",
    settings="defaults",
    not_comparable="",
    start=lambda _world, _rows: Running(lambda: subprocess.Popen(["sleep", "60"])),
    task_of=ours.task_of_job,
    is_compared=True,
)


def test_waits_are_those_of_the_kth_commit_and_the_kth_job() -> None:
    assert match([2.0, 1.0], [5.0, 3.0]) == [2.0, 3.0]


def test_waits_leave_out_surplus_jobs_and_rows_without_a_job() -> None:
    assert match([1.0], [2.0, 9.0]) == [1.0]
    assert match([1.0, 4.0], [2.0]) == [1.0]


def test_jobs_of_known_tasks_are_counted_by_task() -> None:
    jobs = ["school-1-1", "school-1-2", "school-3-1"]
    assert count(jobs, [1, 2, 3], ours.task_of_job) == (1, 1)


def test_a_job_of_one_name_created_twice_counts_twice() -> None:
    assert count(["school-1-1", "school-1-1"], [1], ours.task_of_job) == (1, 0)


@pytest.mark.parametrize(("jobs", "expected"), [(6, (1, 0)), (5, (0, 0)), (3, (0, 2))])
def test_jobs_without_a_task_are_counted_by_number(jobs: int, expected: tuple[int, int]) -> None:
    names = [f"courses-{number}" for number in range(jobs)]
    assert count(names, range(5), lambda _name: None) == expected


def test_percentiles_of_one_value_are_that_value() -> None:
    assert percentiles([0.25]) == (0.25, 0.25)


def test_percentiles_of_a_hundred_values() -> None:
    assert percentiles([float(number) for number in range(101)]) == (50.0, 99.0)


def test_commands_include_pings() -> None:
    assert sum_commands({"Questions": "12", "Com_admin_commands": "3", "Queries": "99"}) == 15


def test_repeated_measurements_keep_medians_and_the_worst_counts() -> None:
    rows: list[Row] = [
        {"system": "a", "p50": 3.0, "lost": 0},
        {"system": "a", "p50": 1.0, "lost": 2},
        {"system": "a", "p50": 2.0, "lost": 0},
    ]
    assert median_row(rows) == {"system": "a", "p50": 2.0, "lost": 2}


@pytest.mark.parametrize(
    ("task_of", "name", "task"),
    [
        (ours.task_of_job, "school-17-2", 17),
        (ours.task_of_job, "something", None),
        (prefect.task_of_job, "task-17-x2b4c", 17),
        (prefect.task_of_job, "vivid-otter-x2b4c", None),
    ],
)
def test_the_task_of_a_job_is_read_from_its_name(task_of: Any, name: str, task: int | None) -> None:
    assert task_of(name) == task


def test_keda_creates_the_same_job_as_the_others() -> None:
    objects = keda.build_objects(JOB, "mysql+pymysql://root:secret@127.0.0.1:3307/db", 1, 20)
    scaled: Any = objects["/apis/keda.sh/v1alpha1/scaledjobs"]
    assert scaled["spec"]["jobTargetRef"] == JOB["spec"]
    assert scaled["spec"]["pollingInterval"] == 1
    assert scaled["spec"]["maxReplicaCount"] == 20


def test_keda_gets_the_database_from_a_secret_only() -> None:
    objects = keda.build_objects(JOB, "mysql+pymysql://root:secret@127.0.0.1:3307/db", 1, 2)
    secret = objects.pop("/api/v1/secrets")
    assert secret["stringData"] == {"connection": "root:secret@tcp(127.0.0.1:3307)/db"}
    assert "root:secret" not in json.dumps(objects)


def test_prefect_creates_the_same_job_but_for_what_it_requires() -> None:
    pool: Any = prefect.build_pool(JOB, "courses")
    manifest = pool["base_job_template"]["job_configuration"]["job_manifest"]
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    (rule,) = manifest["spec"]["podFailurePolicy"]["rules"]
    assert container["env"] == [{"name": "TASK_ID", "value": "{{ task }}"}]
    assert rule["onExitCodes"]["containerName"] == container["name"] == "prefect-job"
    assert "name" not in manifest["metadata"]
    assert str(TASK) not in json.dumps(pool)


def test_ratios_divide_our_value_by_the_others() -> None:
    other = replace(SYSTEM, name="plain loop")
    tables: dict[str, list[Row]] = {
        "peers_launches": [
            launch("Enrollgate", jobs_per_second=60.0),
            launch("plain loop", jobs_per_second=50.0),
        ],
        "peers_write_back": [],
    }
    ratios = {row["measure"]: row["ratio"] for row in compare(tables, [SYSTEM, other])}
    assert ratios["Jobs per second"] == 1.2


def test_a_system_that_is_not_compared_gets_no_ratios() -> None:
    other = replace(SYSTEM, name="plain loop", is_compared=False)
    tables: dict[str, list[Row]] = {
        "peers_launches": [launch("Enrollgate"), launch("plain loop")],
        "peers_write_back": [],
    }
    assert not compare(tables, [SYSTEM, other])


def launch(system: str, jobs_per_second: float = 1.0) -> Row:
    return {
        "system": system,
        "load": "burst of 200",
        "jobs_per_second": jobs_per_second,
        "cpu_s_per_1000": 2.0,
        "to_job_p50_s": 0.1,
    }


def test_an_absent_system_keeps_its_stored_values_and_date() -> None:
    described: Row = {"system": "KEDA, 1 s", "measured": "2026-11-01", "state": "measured"}
    stored: dict[str, list[Row]] = {
        "peers_systems": [described, {"system": "Enrollgate", "state": "measured"}],
        "peers_launches": [launch("KEDA, 1 s"), launch("Enrollgate")],
        "peers_ratios": [{"against": "KEDA, 1 s", "ratio": 2.0}],
    }
    fresh: dict[str, list[Row]] = {
        "peers_systems": [{"system": "Enrollgate", "state": "measured"}],
        "peers_launches": [launch("Enrollgate", jobs_per_second=9.0)],
        "peers_ratios": [],
    }
    kept = keep_absent(fresh, stored, {"KEDA": "no Go"})
    assert kept["peers_systems"][1] == described
    assert [row["system"] for row in kept["peers_launches"]] == ["Enrollgate", "KEDA, 1 s"]
    assert kept["peers_launches"][0]["jobs_per_second"] == 9.0
    assert kept["peers_ratios"] == stored["peers_ratios"]


def test_a_system_never_measured_is_listed_with_the_exact_error() -> None:
    kept = keep_absent({"peers_systems": []}, {}, {"KEDA": "keda: the build failed"})
    (row,) = kept["peers_systems"]
    assert row["system"] == "KEDA"
    assert row["state"] == "not measured: keda: the build failed"


def test_kill_replaces_the_launcher_and_keeps_the_other_processes() -> None:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "60"])

    running = Running(start, (start(),))
    try:
        killed, (_, other) = running.launcher, running.pids
        running.kill_launcher()
        assert killed.returncode == -9
        assert running.pids == [running.launcher.pid, other]
        assert running.launcher.poll() is None
    finally:
        running.stop()
    assert all(process.poll() is not None for process in (running.launcher, *running.others))


def test_the_promises_name_systems_that_are_compared() -> None:
    (fastest,) = (each for each in keda.configurations(Path("keda"), "1") if each.is_compared)
    assert fastest.name == KEDA
    names = {promise.where["against"] for promise in PROMISES if promise.table == "peers_ratios"}
    assert names == {"plain loop", KEDA}


def test_a_system_left_out_by_an_option_is_not_measured() -> None:
    systems, absent = find_systems(["Enrollgate", "plain loop"], every_configuration=True)
    assert [system.name for system in systems] == ["Enrollgate", "plain loop"]
    assert absent == {"KEDA": "left out by --systems", "Prefect": "left out by --systems"}


def test_a_system_that_failed_is_described_with_its_error() -> None:
    assert describe(SYSTEM, {})["state"] == "measured"
    assert describe(SYSTEM, {"Enrollgate": "OSError: no"})["state"] == "failed: OSError: no"
