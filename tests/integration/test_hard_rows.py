"""Rows, sites and other programs that cause trouble for one task, and for no other."""

import re
import tracemalloc
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import make_url, text
from tests.databases.server import fresh_database
from tests.world import COURSE, WITHOUT_HOLDS, World

from enrollgate.control.confinement import SET_ASIDE
from enrollgate.database import DatabaseMisconfigured, DatabaseUnavailable, engine, queries
from enrollgate.database.preflight import require_usable
from enrollgate.domain.account import cookies_name
from enrollgate.domain.observation import Observation, Phase
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import FailedItem, LeftOutItem, Report


def test_half_an_emoji_in_a_title_is_recorded_and_delays_no_other_task(
    database_url: str,
) -> None:
    """A site cut the title in the middle of a character: no database accepts the text."""
    item = FailedItem("Intro \ud83d", Reason.ACCESS_DENIED, "\udcff")
    report = Report(
        Reason.ACCESS_DENIED,
        "1 of 2 items failed: 'Intro \ud83d'",
        items_failed=1,
        failed_items=(item,),
    )
    with closing(World(database_url)) as world:
        first = world.add("enrolled")
        world.reconcile()
        world.launcher.runs[f"test-{first}-1"] = Observation(
            f"test-{first}-1", Phase.FAILED, report
        )
        second = world.add("enrolled")
        world.reconcile()
        (run,) = world.runs(first)
        assert (world.status(first), run.message) == ("failed", "1 of 2 items failed: 'Intro ?'")
        assert '"Intro ?"' in str(run.result)
        assert world.launcher.live == [f"test-{second}-1"]


def test_email_and_url_in_binary_columns_are_read_as_text(
    database_url: str,
) -> None:
    with closing(World(database_url)) as world:
        if world.database.is_sqlite:
            world.add("enrolled")
            world.sql(
                "UPDATE download_tasks SET email = CAST(email AS BLOB), "
                "course_url = CAST(course_url AS BLOB)"
            )
        else:
            world.sql(
                "ALTER TABLE download_tasks MODIFY email VARBINARY(255), MODIFY course_url BLOB"
            )
            world.add("enrolled")
        world.reconcile()
        (order,) = world.launcher.orders
        assert (order.course_url, order.cookies_name) == (COURSE, cookies_name("ada@example.com"))


def test_many_held_rows_delay_no_launch_and_no_other_row(
    server_database_url: str,
) -> None:
    """A transaction updated many rows and was not committed."""
    with (
        closing(World(server_database_url)) as world,
        closing(World(server_database_url, create=False)) as node,
    ):
        held = [world.add("processing") for _ in range(4)]
        world.reconcile()
        world.clock.advance(1)
        late = world.add("processing")
        world.reconcile()
        world.clock.advance(300)
        enrolled = world.add("enrolled")
        with node.database.engine.begin() as connection:
            connection.execute(
                text("UPDATE download_tasks SET note = 'not committed' WHERE id < :id"),
                {"id": late},
            )
            world.reconcile()
            assert world.launcher.live == [f"test-{enrolled}-1"]
            world.reconcile()
            assert world.status(late) == "failed", "those that were held before were tried last"
            assert {world.status(task) for task in held} == {"processing"}
        world.clock.advance(SET_ASIDE)
        world.reconcile()
        assert {world.status(task) for task in held} == {"failed"}


@pytest.mark.parametrize("lock", ["READ", "WRITE"])
def test_locked_table_is_waited_for_for_seconds_and_launches_continue(
    server_database_url: str, lock: str
) -> None:
    """mysqldump locks the table like this without --single-transaction."""
    with (
        closing(World(server_database_url)) as world,
        closing(World(server_database_url, create=False)) as node,
    ):
        late = world.add("processing")
        world.reconcile()
        world.clock.advance(300)
        enrolled = world.add("enrolled")
        with node.database.engine.connect() as connection:
            connection.execute(text(f"LOCK TABLES download_tasks {lock}"))
            if lock == "READ":
                world.reconcile()
                assert world.launcher.live == [f"test-{enrolled}-1"]
            else:
                with pytest.raises(
                    DatabaseUnavailable, match="another transaction holds a row, or the table"
                ):
                    world.reconcile()
            connection.execute(text("UNLOCK TABLES"))
        world.reconcile()
        assert world.status(late) == "failed" and world.launcher.live == [f"test-{enrolled}-1"]


def test_view_that_never_answers_ends_the_pass_and_its_own_statement(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each pass would leave one more statement at work on the server."""
    monkeypatch.setattr(engine, "STATEMENT_TIMEOUT", 2)
    session = re.sub(r"(max_\w+_time)=24(000)?", r"\1=1\2", engine._SESSION)
    monkeypatch.setattr(engine, "_SESSION", session)
    with closing(World(database_url)) as world:
        task = world.add("enrolled")
        world.sql("ALTER TABLE download_tasks RENAME TO task_rows")
        never, count = "SLEEP(1000) = 0", "SELECT 0"
        if world.database.is_sqlite:
            world.sql(
                "CREATE VIEW numbers AS WITH RECURSIVE n(x) AS "
                "(SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
            )
            never = "(SELECT COUNT(*) FROM numbers) > id"
        else:
            count = (
                "SELECT COUNT(*) FROM information_schema.processlist "
                f"WHERE db = '{make_url(database_url).database}' AND info LIKE '%last_seen%' "
                "AND id <> CONNECTION_ID()"
            )
        world.sql(f"CREATE VIEW download_tasks AS SELECT * FROM task_rows WHERE {never}")
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match="name the table behind it"):
                world.reconcile()
            assert world.scalar(count) == 0
        world.sql("DROP VIEW download_tasks")
        world.sql("ALTER TABLE task_rows RENAME TO download_tasks")
        world.reconcile()
        assert world.launcher.live == [f"test-{task}-1"]


@pytest.mark.parametrize("server", ["mariadb", "mysql"])
def test_same_installation_in_another_database_of_the_server_is_separate(
    request: pytest.FixtureRequest, server: str
) -> None:
    """Staging and production share one server. One stops in the middle of a claim."""
    url = request.getfixturevalue(f"{server}_server_url")
    with (
        fresh_database(url) as one,
        fresh_database(url) as another,
        closing(World(one)) as world,
        closing(World(another)) as other,
    ):
        task = world.add("enrolled")
        with other.database.engine.connect() as connection:
            other.add("enrolled")
            connection.execute(
                text(
                    "INSERT INTO enrollgate_runs "
                    "(id, task_id, run_number, name, installation, state, claimed_at) "
                    "VALUES (1, 99, 1, 'test-99-1', 'test', 'claimed', '2026-01-01')"
                )
            )
            other.reconcile()
            assert other.launcher.live == []
            world.reconcile()
            assert world.launcher.live == [f"test-{task}-1"]


ODD_TEXTS = [
    "\ud800",
    "\x00",
    "\U0001f600",
    "\u202e",
    "\x1b[2J",
    "'; DROP TABLE x; --",
    "\\",
    "é" * 9,
]


def test_odd_reports_are_recorded_and_stop_no_other_task(database_url: str) -> None:
    """What a report may hold after it was read, and what no worker could have written."""
    largest = 2**63 - 1
    reports = [
        Report(Reason.SITE_ERROR, text * 2000, remedy=text * 2000, destination_url=text * 2000)
        for text in ODD_TEXTS
    ]
    reports += [
        Report(
            Reason.SITE_ERROR,
            "",
            largest,
            largest,
            largest,
            largest,
            1e9,
            failed_items=tuple(FailedItem(text, Reason.SITE_ERROR, text) for text in ODD_TEXTS),
            left_out_items=tuple(LeftOutItem(text, text) for text in ODD_TEXTS),
            retry_after=1e9,
        ),
        Report(None, ""),
    ]
    with closing(World(database_url, WITHOUT_HOLDS)) as world:
        odd = [world.add("enrolled") for _ in reports]
        for _ in range(5):
            world.reconcile()
        for task, report in zip(odd, reports, strict=True):
            name = f"test-{task}-1"
            world.launcher.runs[name] = replace(
                world.launcher.runs[name], phase=Phase.FAILED, report=report
            )
        good = world.add("enrolled")
        for _ in range(5):
            world.reconcile()
        assert {world.status(task) for task in odd} == {"failed"}
        assert world.launcher.live == [f"test-{good}-1"]
        for task in odd:
            (run,) = world.runs(task)
            assert str(run.message).isprintable() and len(str(run.message)) <= 1000


@pytest.mark.parametrize("column", ["email", "course_url"])
def test_bytes_that_are_no_text_keep_no_other_task_back(database_url: str, column: str) -> None:
    with closing(
        World(database_url, Policy(max_concurrent_runs=10, max_runs_per_account=9))
    ) as world:
        if not world.database.is_sqlite:
            world.sql("ALTER TABLE download_tasks MODIFY email BLOB, MODIFY course_url BLOB")
        bad, good = world.add("enrolled"), world.add("enrolled")
        world.sql(f"UPDATE download_tasks SET {column} = X'68FF80C3' WHERE id = {bad}")
        for _ in range(2):
            world.reconcile()
        late = world.add("enrolled")
        world.look()
        assert {f"test-{good}-1", f"test-{late}-1"} <= set(world.launcher.live)
        world.launcher.succeed(f"test-{good}-1")
        world.reconcile()
        assert world.status(good) == "completed"
        if column == "course_url":
            assert world.status(bad) == "failed" or queries.tasks_set_aside(world.database)


@pytest.mark.parametrize("column", ["email", "course_url", "status"])
def test_enormous_value_keeps_no_other_task_back(database_url: str, column: str) -> None:
    with closing(World(database_url)) as world:
        task = world.add("pending")
        if not world.database.is_sqlite:
            world.sql(
                "ALTER TABLE download_tasks MODIFY email LONGTEXT, MODIFY course_url LONGTEXT, "
                "DROP INDEX ix_status, MODIFY status LONGTEXT"
            )
        world.reconcile()
        world.sql(
            f"UPDATE download_tasks SET {column} = :value WHERE id = {task}",
            value="https://courses.example.com/" + "x" * 9_000_000,
        )
        if column != "status":
            world.set(task, "enrolled")
        good = world.add("enrolled")
        tracemalloc.start()
        try:
            world.reconcile()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert world.launcher.live[-1] == f"test-{good}-1"
        if column != "email":
            assert world.status(task) == "failed"
            (run,) = world.runs(task)
            assert len(str(run.message)) <= 1000
        assert peak < 60_000_000


@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_view_with_a_trigger_in_sqlite_works(sqlite_url: str, outcome: str) -> None:
    """SQLite does not count the rows that an INSTEAD OF trigger writes."""
    with closing(World(sqlite_url)) as world:
        done, late = world.add("enrolled"), world.add("pending")
        world.sql("ALTER TABLE download_tasks RENAME TO all_tasks")
        world.sql("CREATE VIEW download_tasks AS SELECT * FROM all_tasks")
        with pytest.raises(DatabaseMisconfigured, match="INSTEAD OF UPDATE trigger"):
            require_usable(world.database, world.tables)
        world.sql(
            "CREATE TRIGGER write INSTEAD OF UPDATE ON download_tasks "
            "BEGIN UPDATE all_tasks SET status = NEW.status WHERE id = OLD.id; END"
        )
        require_usable(world.database, world.tables)
        world.reconcile()
        end = world.launcher.succeed if outcome == "completed" else world.launcher.fail
        end(f"test-{done}-1")
        world.clock.advance(300)
        world.reconcile()
        assert (world.status(done), world.status(late)) == (outcome, "failed")
        assert [run.reason for run in world.runs(late)] == [Reason.ENROLLMENT_TIMEOUT]
        assert len(world.runs(done)) == 1
