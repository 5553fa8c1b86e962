"""Rows by Knex, Sequelize and TypeORM: docs/node.md shows a module for each, which is run here.

The modules are executed as they are written there, in a time zone that is not UTC.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from tests.e2e.operator_process import NoSite, OperatorProcess, course_site, wait_until
from tests.repository import REPOSITORY

ORMS = ("Knex", "Sequelize", "TypeORM")
# The first id that a number of JavaScript cannot be.
LARGE = 2**53 + 1
# As ORMs create it. Each status is listed: the server would refuse others.
TABLE = """
CREATE TABLE download_tasks (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  status ENUM('pending', 'paid', 'processing', 'enrolled', 'completed', 'failed')
    NOT NULL DEFAULT 'pending',
  email VARCHAR(255) NOT NULL,
  course_url VARCHAR(2048) NOT NULL,
  is_gift TINYINT(1) NOT NULL DEFAULT 0,
  options JSON,
  created_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  INDEX (status)
)
"""


class Orm:
    """The module of one ORM, in a folder of its own, and what its functions give."""

    def __init__(self, name: str, packages: Path, folder: Path, database_url: str) -> None:
        page = (REPOSITORY / "docs" / "node.md").read_text(encoding="utf-8")
        section = page.split(f"\n### {name}\n")[1].split("\n#")[0]
        (module,) = re.findall(r"```js\n(.*?)```", section, re.DOTALL)
        folder.mkdir()
        (folder / "tasks.mjs").write_text(module)
        (folder / "call.mjs").write_text((packages / "call.mjs").read_text())
        (folder / "node_modules").symlink_to(packages / "node_modules")
        self._folder = folder
        self._database_url = database_url

    def call(self, function: str, *values: object) -> Any:
        return run_node(self._folder, self._database_url, "call.mjs", function, *map(str, values))


def run_node(folder: Path, database_url: str, *arguments: str) -> Any:
    """Run Node.js in this folder and in a time zone that is not UTC. Returns the JSON it prints."""
    url = make_url(database_url).set(drivername="mysql").render_as_string(hide_password=False)
    done = subprocess.run(
        ["node", *arguments],
        cwd=folder,
        env=os.environ | {"DATABASE_URL": url, "TZ": "America/New_York"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ORMS)
def test_row_of_an_orm_is_run_and_its_state_is_read_in_utc(
    name: str, orm_packages: Path, server_database_url: str, tmp_path: Path
) -> None:
    orm = Orm(name, orm_packages, tmp_path / "app", server_database_url)
    account = "ada@example.com"
    with course_site() as site:
        operator = OperatorProcess(tmp_path, server_database_url, site)
        try:
            operator.sql(TABLE)
            assert operator.command("migrate").returncode == 0
            operator.write_cookies(account)
            operator.start()
            task = orm.call("addTask", account, site.course_url("bread"))
            state = f"SELECT state FROM enrollgate_task_status WHERE task_id = {task}"
            wait_until(lambda: operator.sql(state) == [("waiting",)], lambda: operator.log)
            waiting = orm.call("readTask", task)
            assert (waiting["state"], waiting["percent"]) == ("waiting", None), waiting
            site.enroll(account, "bread")
            orm.call("setStatus", task, "enrolled")
            operator.wait_for_status(task, "completed")
            read = orm.call("readTask", task)
            assert (read["state"], read["percent"], read["reason"]) == ("completed", 100, None)
            assert read["destination_url"].startswith("file:///"), read
            size = sum(map(len, operator.files(task)))
            assert (read["task_id"], read["bytes_done"]) == (int(task), size), "they are numbers"
            assert isinstance(task, str) is (name == "TypeORM"), task
            since = operator.sql(
                "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', since) "
                f"FROM enrollgate_task_status WHERE task_id = {task}"
            )
            assert read["since"] == {"milliseconds": int(str(since[0][0])) // 1000}
        finally:
            operator.stop_all()


@pytest.mark.parametrize("name", ORMS)
def test_id_that_no_number_of_javascript_can_be_is_text_of_an_orm(
    name: str, orm_packages: Path, server_database_url: str, tmp_path: Path
) -> None:
    orm = Orm(name, orm_packages, tmp_path / "app", server_database_url)
    with course_site() as site:
        operator = OperatorProcess(tmp_path, server_database_url, site)
        operator.sql(TABLE)
        for task in (LARGE - 1, LARGE):  # as a number of JavaScript, both would be the first one
            operator.add(task, "bread", "pending")
        assert operator.command("migrate").returncode == 0
    assert orm.call("readTask", LARGE)["task_id"] == str(LARGE)
    orm.call("setStatus", LARGE, "paid")
    assert [operator.status(task) for task in (LARGE - 1, LARGE)] == ["pending", "paid"]


def test_result_of_a_run_is_an_object_in_javascript(
    orm_packages: Path, server_database_url: str, tmp_path: Path
) -> None:
    operator = OperatorProcess(tmp_path, server_database_url, NoSite())
    operator.sql(TABLE)
    assert operator.command("migrate").returncode == 0
    operator.sql(
        "INSERT INTO enrollgate_runs (task_id, run_number, name, installation, claimed_at, state, "
        """result) VALUES (1, 1, 'test-1-1', 'test', NOW(6), 'finished', '{"items": 3}')"""
    )
    script = """
        import mysql from 'mysql2/promise'
        const database = await mysql.createConnection(process.env.DATABASE_URL)
        const [[run]] = await database.query('SELECT result FROM enrollgate_runs')
        console.log(JSON.stringify(run.result))
        await database.end()
    """
    result = run_node(orm_packages, server_database_url, "--input-type=module", "--eval", script)
    assert result == {"items": 3}
