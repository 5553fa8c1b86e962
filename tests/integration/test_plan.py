"""`enrollgate plan` says what a first start on an old table would do, and does nothing itself."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import inspect, make_url
from tests.databases.schema import create_tasks_table
from tests.world import World

from enrollgate.commands.plan import load_preview
from enrollgate.database import migrate, open_database
from enrollgate.domain.policy import Policy


def run_plan(url: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")
    }
    settings = {f"ENROLLGATE_{name}": value for name, value in variables.items()}
    return subprocess.run(
        [sys.executable, "-m", "enrollgate", "plan", *arguments],
        env=others
        | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "COLUMNS": "160",
            "ENROLLGATE_DATABASE_URL": url,
        }
        | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def old_table(url: str) -> World:
    """Return a world with rows of years, where Enrollgate has never run."""
    world = World(url, create=False)
    world.sql(create_tasks_table(is_sqlite=world.database.is_sqlite))
    for status in ("completed", "completed", "failed", "enrolled", "refunded", "pending", "paid"):
        world.add(status)
    world.add("enrolled", url="ftp://courses.example.com/1")
    world.add("enrolled", email=None)
    return world


def test_plan_before_the_first_start_counts_and_names_rows(database_url: str) -> None:
    with closing(old_table(database_url)) as world:
        done = run_plan(database_url, "--json")
        assert done.returncode == 0, done
        found = json.loads(done.stdout)
        assert (found["enrolled"], found["launches"]) == (3, [4])
        assert [(each["task_id"], each["reason"]) for each in found["refusals"]] == [
            (8, "InvalidCourseUrl"),
            (9, "InvalidTask"),
        ]
        assert (found["waiting"], found["first_waiting"], found["overdue"]) == (2, [6, 7], 0)
        with world.database.read_transaction() as connection:
            assert inspect(connection).get_table_names() == ["download_tasks"]
        text = run_plan(database_url)
        assert text.returncode == 0 and "refunded" in text.stdout
        assert "launch, 4 at the same time" in text.stdout
        assert "fail 300 s after they were first seen" in text.stdout
        assert "task 9: InvalidTask: the row has no e-mail" in text.stdout
        assert "Nothing was written. Rows that must not run: set them to 'completed'" in text.stdout
        assert "ada" not in text.stdout


def test_plan_of_a_working_installation_leaves_its_runs_out(database_url: str) -> None:
    with closing(World(database_url)) as world:
        world.add("enrolled")
        late, fresh = world.add("processing"), 3
        world.reconcile()
        world.clock.advance(300)
        assert world.add("processing") == fresh
        next_one = world.add("enrolled")
        before = world.database.statements
        preview = load_preview(world.database, world.tables, Policy(), "test")
        assert world.database.statements > before
        assert preview.launches == [next_one]
        assert (preview.waiting, preview.first_waiting, preview.overdue) == (2, [late, fresh], 1)
        assert world.status(late) == "processing"


def test_plan_does_what_it_says(database_url: str) -> None:
    with closing(old_table(database_url)) as world:
        preview = load_preview(world.database, world.tables, world.policy, "test")
    with closing(World(database_url, create=False)) as world:
        migrate(world.database)
        world.reconcile()
        assert [order.task_id for order in world.launcher.orders] == preview.launches
        failed = [run.task_id for run in world.runs() if run.outcome == "failed"]
        assert failed == [each.task_id for each in preview.refusals]
        world.clock.advance(300)
        world.reconcile()
        failed = [run.task_id for run in world.runs() if run.reason == "EnrollmentTimeout"]
        assert failed == preview.first_waiting


def test_many_rows_are_counted_and_the_first_are_named(sqlite_url: str) -> None:
    with closing(World(sqlite_url, create=False)) as world:
        world.sql(create_tasks_table(is_sqlite=True))
        world.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) "
            "INSERT INTO download_tasks (status, email, course_url) SELECT "
            "CASE WHEN i % 2 THEN 'enrolled' ELSE 'pending' END, 'a@example.com', "
            "'https://courses.example.com/' || i FROM n"
        )
    found = json.loads(run_plan(sqlite_url, "--json").stdout)
    assert (found["enrolled"], found["waiting"], found["looked_at"]) == (25000, 25000, 1000)
    assert len(found["first_waiting"]) == 10 and len(found["launches"]) == 1000
    text = run_plan(sqlite_url).stdout
    assert "launch of the first 1000" in text and "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, ..." in text


@pytest.mark.parametrize("name", ["missing.db", "folder/missing.db"])
def test_plan_creates_no_file_for_a_wrong_path(tmp_path: Path, name: str) -> None:
    done = run_plan(f"sqlite:///{tmp_path / name}")
    assert done.returncode == 2 and "there is no SQLite file" in done.stderr, done
    assert list(tmp_path.iterdir()) == []


def test_plan_refuses_a_table_that_cannot_be_used(server_database_url: str) -> None:
    """With the default statuses and a number as status, it would count the wrong rows."""
    with closing(open_database(make_url(server_database_url))) as database:
        columns = "id INT PRIMARY KEY, status INT, email TEXT, course_url TEXT"
        sql = f"CREATE TABLE download_tasks ({columns})"
        database.run_in_transaction(lambda connection: connection.exec_driver_sql(sql))
    done = run_plan(server_database_url)
    assert done.returncode == 2 and "name its numbers in ENROLLGATE_STATUS_*" in done.stderr, done
