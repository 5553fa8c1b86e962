"""What goes wrong with one task stays with that task: refused rows and launches, odd errors."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from sqlalchemy import event, select, text
from structlog.testing import capture_logs
from tests.world import EPOCH, WITHOUT_HOLDS, World

from enrollgate.control.confinement import HELD_LIMIT, LONGEST_SET_ASIDE, SET_ASIDE
from enrollgate.database import Tables, backlog, engine, queries
from enrollgate.database.tables import runs
from enrollgate.domain.policy import Policy
from enrollgate.domain.reasons import Reason
from enrollgate.domain.task import Statuses, TaskColumns
from enrollgate.telemetry import metrics

LOCKED = "a@example.com"


@dataclass(frozen=True)
class Refusal:
    """Statements after which the database refuses to write the end of LOCKED's task.

    `undo` ends that. `says` is a part of the database's message. With `refuses_all`, no task can
    get its last status.
    """

    statements: tuple[str, ...]
    undo: tuple[str, ...]
    says: str
    refuses_all: bool = False
    failed: str = "failed"


_ENDS = "('failed', 'completed')"
_GUARD = f"NEW.email = '{LOCKED}' AND NEW.status IN {_ENDS}"
_RAISE = (
    "CREATE TRIGGER guard BEFORE UPDATE ON download_tasks FOR EACH ROW WHEN "
    f"{_GUARD} BEGIN SELECT RAISE(%s, 'the guard says no'); END"
)
_COLUMNS = "email VARCHAR(255), course_url TEXT, note VARCHAR(64) DEFAULT 'Node.js'"
_CHECK = f"CHECK (email <> '{LOCKED}' OR status NOT IN {_ENDS})"
_RECREATE = ("DROP TABLE download_tasks",)


def _signal(what: str) -> Refusal:
    trigger = (
        "CREATE TRIGGER guard BEFORE UPDATE ON download_tasks FOR EACH ROW BEGIN "
        f"IF {_GUARD} THEN SIGNAL SQLSTATE {what}; END IF; END"
    )
    return Refusal((trigger,), ("DROP TRIGGER guard",), "the guard says no")


def _replace(by: str) -> Refusal:
    """Return a trigger that writes another status in place of ours, and raises no error."""
    trigger = (
        "CREATE TRIGGER guard BEFORE UPDATE ON download_tasks FOR EACH ROW BEGIN "
        f"IF {_GUARD} THEN SET NEW.status = {by}; END IF; END"
    )
    return Refusal((trigger,), ("DROP TRIGGER guard",), "a trigger of the task table")


SERVER = {
    "check": Refusal(
        (f"ALTER TABLE download_tasks ADD CONSTRAINT guard {_CHECK}",),
        ("ALTER TABLE download_tasks DROP CONSTRAINT guard",),
        "guard",
    ),
    "signal": _signal("'45000' SET MESSAGE_TEXT = 'the guard says no'"),
    "signal with a number": _signal(
        "'45000' SET MESSAGE_TEXT = 'the guard says no', MYSQL_ERRNO = 30001"
    ),
    # Numbers that mean, without the state, that the row is held and that the server is stopped.
    "signal of a held row": _signal(
        "'45000' SET MESSAGE_TEXT = 'the guard says no', MYSQL_ERRNO = 1205"
    ),
    "signal of a shutdown": _signal(
        "'45001' SET MESSAGE_TEXT = 'the guard says no', MYSQL_ERRNO = 1053"
    ),
    "signal of a read-only server": _signal(
        "'HY000' SET MESSAGE_TEXT = 'the guard says no', MYSQL_ERRNO = 1290"
    ),
    # States and numbers of a deadlock, a shutdown, a full disk, a lost and a refused connection.
    **{
        f"signal of {state} {number}": _signal(
            f"'{state}' SET MESSAGE_TEXT = 'the guard says no', MYSQL_ERRNO = {number}"
        )
        for state, number in (
            *(("40001", 1213), ("08S01", 1053), ("HY000", 1021), ("HY000", 1114)),
            *(("HY000", 2006), ("HY000", 2013), ("45000", 2006), ("45000", 1213)),
            *(("08S01", 4031), ("HY000", 9001)),
        )
    },
    "signal with a state": _signal("'22012' SET MESSAGE_TEXT = 'the guard says no'"),
    "foreign key": Refusal(
        (
            "CREATE TABLE statuses (status VARCHAR(32) PRIMARY KEY)",
            "INSERT INTO statuses VALUES ('pending'), ('enrolled')",
            "ALTER TABLE download_tasks ADD CONSTRAINT guard FOREIGN KEY (status) "
            "REFERENCES statuses (status)",
        ),
        ("ALTER TABLE download_tasks DROP FOREIGN KEY guard",),
        "foreign key constraint",
        refuses_all=True,
    ),
    "unique": Refusal(
        (
            "ALTER TABLE download_tasks ADD UNIQUE guard (email, status)",
            f"INSERT INTO download_tasks (status, email) VALUES ('failed', '{LOCKED}'), "
            f"('completed', '{LOCKED}')",
        ),
        ("ALTER TABLE download_tasks DROP INDEX guard",),
        "Duplicate entry",
    ),
    "partition": Refusal(
        (
            *_RECREATE,
            "CREATE TABLE download_tasks (id INT AUTO_INCREMENT, status VARCHAR(32), "
            f"{_COLUMNS}, PRIMARY KEY (id, status)) PARTITION BY LIST COLUMNS (status) "
            "(PARTITION guard VALUES IN ('pending', 'enrolled'))",
        ),
        ("ALTER TABLE download_tasks REMOVE PARTITIONING",),
        "no partition for value",
        refuses_all=True,
    ),
    "definer": Refusal(
        (
            "CREATE DEFINER = 'gone'@'localhost' TRIGGER guard BEFORE UPDATE ON download_tasks "
            "FOR EACH ROW SET NEW.note = 'x'",
        ),
        ("DROP TRIGGER guard",),
        "definer",
        refuses_all=True,
    ),
    "trigger on a missing table": Refusal(
        (
            "CREATE TRIGGER guard AFTER UPDATE ON download_tasks FOR EACH ROW "
            "INSERT INTO audit VALUES (1)",
        ),
        ("DROP TRIGGER guard",),
        "audit",
        refuses_all=True,
    ),
    "generated column": Refusal(
        (
            *_RECREATE,
            "CREATE TABLE download_tasks (id INT PRIMARY KEY AUTO_INCREMENT, "
            f"own VARCHAR(32), status VARCHAR(32) AS (own) STORED, {_COLUMNS})",
        ),
        ("ALTER TABLE download_tasks MODIFY status VARCHAR(32)",),
        "generated column",
        refuses_all=True,
    ),
    "character set": Refusal(
        (
            "ALTER TABLE download_tasks MODIFY note VARCHAR(64) CHARACTER SET ascii",
            "CREATE TRIGGER guard BEFORE UPDATE ON download_tasks FOR EACH ROW "
            "SET NEW.note = _utf8mb4 X'C3A9'",
        ),
        ("DROP TRIGGER guard",),
        "Incorrect string value",
        refuses_all=True,
    ),
    "trigger that ends the connection": Refusal(
        (
            "CREATE TRIGGER guard BEFORE UPDATE ON download_tasks FOR EACH ROW BEGIN "
            f"IF {_GUARD} THEN KILL CONNECTION_ID(); END IF; END",
        ),
        ("DROP TRIGGER guard",),
        "onnection",
    ),
    "trigger that ends the statement": Refusal(
        (
            "CREATE TRIGGER guard BEFORE UPDATE ON download_tasks FOR EACH ROW BEGIN "
            f"IF {_GUARD} THEN KILL QUERY CONNECTION_ID(); END IF; END",
        ),
        ("DROP TRIGGER guard",),
        "interrupted",
    ),
    "signal that nothing was found": _signal("'02000' SET MESSAGE_TEXT = 'the guard says no'"),
    "signal of a query that was interrupted": _signal(
        "'70100' SET MESSAGE_TEXT = 'the guard says no'"
    ),
    "view with a check option": Refusal(
        (
            "RENAME TABLE download_tasks TO all_tasks",
            f"CREATE VIEW download_tasks AS SELECT * FROM all_tasks WHERE status NOT IN {_ENDS} "
            "OR note IS NULL WITH CHECK OPTION",
        ),
        ("UPDATE all_tasks SET note = NULL",),
        "CHECK OPTION",
        refuses_all=True,
    ),
    "trigger that keeps the status": _replace("OLD.status"),
    "trigger that writes another status": _replace("'archived'"),
    "trigger that writes no status": _replace("NULL"),
    "too long": Refusal(
        ("ALTER TABLE download_tasks MODIFY status VARCHAR(10)",),
        ("ALTER TABLE download_tasks MODIFY status VARCHAR(32)",),
        "Data too long",
        failed="failed by us",
    ),
    "enum": Refusal(
        ("ALTER TABLE download_tasks MODIFY status ENUM('pending', 'enrolled', 'completed')",),
        ("ALTER TABLE download_tasks MODIFY status VARCHAR(32)",),
        "Data truncated",
    ),
}
SQLITE = {
    **{
        f"trigger that writes {by}": Refusal(
            (
                "CREATE TRIGGER guard AFTER UPDATE ON download_tasks FOR EACH ROW WHEN "
                f"{_GUARD} BEGIN UPDATE download_tasks SET status = {by} WHERE id = NEW.id; END",
            ),
            ("DROP TRIGGER guard",),
            "a trigger of the task table",
        )
        for by in ("OLD.status", "'archived'", "NULL")
    },
    "check": Refusal(
        (
            *_RECREATE,
            f"CREATE TABLE download_tasks (id INTEGER PRIMARY KEY, status, {_COLUMNS}, {_CHECK})",
        ),
        (),
        "CHECK constraint failed",
    ),
    **{
        f"raise {how}": Refusal((_RAISE % how,), ("DROP TRIGGER guard",), "the guard says no")
        for how in ("ABORT", "FAIL", "ROLLBACK")
    },
    "trigger that skips the row": Refusal(
        (_RAISE.replace("(%s, 'the guard says no')", "(IGNORE)"),),
        ("DROP TRIGGER guard",),
        "a trigger of the task table",
    ),
    "unique": Refusal(
        (
            "CREATE UNIQUE INDEX guard ON download_tasks (email, status)",
            f"INSERT INTO download_tasks (status, email) VALUES ('failed', '{LOCKED}'), "
            f"('completed', '{LOCKED}')",
        ),
        ("DROP INDEX guard",),
        "UNIQUE constraint failed",
    ),
    "trigger on a missing table": Refusal(
        (
            "CREATE TRIGGER guard AFTER UPDATE ON download_tasks FOR EACH ROW "
            "BEGIN INSERT INTO audit VALUES (1); END",
        ),
        ("DROP TRIGGER guard",),
        "audit",
        refuses_all=True,
    ),
}
CASES = [
    *(pytest.param("sqlite_url", case, id=f"sqlite-{name}") for name, case in SQLITE.items()),
    *(
        pytest.param(f"{server}_url", case, id=f"{server}-{name}")
        for server in ("mariadb", "mysql")
        for name, case in SERVER.items()
    ),
]


@contextmanager
def refusing_world(request: pytest.FixtureRequest, url: str, case: Refusal) -> Iterator[World]:
    with closing(World(str(request.getfixturevalue(url)))) as world:
        world.statuses = Statuses(failed=case.failed)
        world.tables = Tables.named(TaskColumns(), world.statuses)
        world.restart()
        for statement in case.statements:
            world.sql(statement)
        yield world


def add(world: World, status: str, email: str) -> int:
    """Add a task, also where its status is a generated column."""
    generated = world.scalar(
        "SELECT 0"
        if world.database.is_sqlite
        else "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() "
        "AND table_name = 'download_tasks' AND column_name = 'own'"
    )
    world.sql(
        f"INSERT INTO download_tasks ({'own' if generated else 'status'}, email, course_url) "
        "VALUES (:status, :email, 'https://courses.example.com/1')",
        status=status,
        email=email,
    )
    return world.scalar("SELECT MAX(id) FROM download_tasks")


def set_aside(world: World) -> list[tuple[int, int]]:
    """Return the tasks that `enrollgate status` shows as set aside, with their refusals."""
    found = queries.tasks_set_aside(world.database)
    return [(each.task_id, each.refusals) for each in found]


@pytest.mark.parametrize(("url", "case"), CASES)
def test_refused_timeout_is_set_aside_and_the_others_go_on(
    request: pytest.FixtureRequest, url: str, case: Refusal
) -> None:
    with refusing_world(request, url, case) as world:
        bad = add(world, "pending", LOCKED)
        other = add(world, "pending", "b@example.com")
        world.reconcile()
        world.clock.advance(300)
        good = add(world, "enrolled", "c@example.com")
        with capture_logs() as logs:
            world.reconcile()
        assert world.launcher.live == [f"test-{good}-1"]
        assert world.status(bad) == "pending"
        is_refused = case.refuses_all or case.failed != "failed" or "enum" in request.node.name
        assert world.status(other) == ("pending" if is_refused else "failed")
        expected = [(bad, 1), (other, 1)] if is_refused else [(bad, 1)]
        assert set_aside(world) == expected
        named = [entry for entry in logs if "is set aside" in str(entry["event"])]
        assert [entry["task"] for entry in named] == [task for task, _ in expected]
        assert case.says in str(named[0]["error"])
        assert case.says in (queries.tasks_set_aside(world.database)[0].message or "")
        world.reconcile()
        assert metrics.TASKS_SET_ASIDE._value.get() == len(expected)
        for statement in case.undo:
            world.sql(statement)
        if case.undo:
            world.clock.advance(SET_ASIDE)
            world.reconcile()
            assert {world.status(task) for task in (bad, other)} == {case.failed}
            assert set_aside(world) == []
            world.reconcile()
            assert metrics.TASKS_SET_ASIDE._value.get() == 0


@pytest.mark.parametrize(
    ("url", "case", "outcome"),
    [
        pytest.param(*each.values, outcome, id=f"{each.id}-{outcome}")
        for each in CASES
        for outcome in ("completed", "failed")
        # Some databases refuse `failed` only.
        if outcome == "failed" or not str(each.id).endswith(("enum", "too long"))
    ],
)
def test_refused_result_is_kept_and_its_run_is_not_repeated(
    request: pytest.FixtureRequest, url: str, case: Refusal, outcome: str
) -> None:
    with refusing_world(request, url, case) as world:
        world.policy = replace(world.policy, max_concurrent_runs=1)
        world.restart()
        bad = add(world, "enrolled", LOCKED)
        world.reconcile()
        name = f"test-{bad}-1"
        end = world.launcher.succeed if outcome == "completed" else world.launcher.fail
        end(name)
        good = add(world, "enrolled", "b@example.com")
        world.reconcile()
        assert world.launcher.live == [f"test-{good}-1"], "its slot is free"
        assert name not in world.launcher.runs, "nothing of it is left at the launcher"
        (run,) = world.runs(bad)
        recorded = "succeeded" if outcome == "completed" else "failed"
        assert (run.state, run.outcome) == ("ended", recorded) and run.result is not None
        world.launcher.lose(f"test-{good}-1")
        world.restart()
        for _ in range(4):
            world.clock.advance(LONGEST_SET_ASIDE)
            world.reconcile()
        assert len(world.runs(bad)) == 1 and world.status(bad) == "enrolled"
        ((task, refusals),) = [each for each in set_aside(world) if each[0] == bad]
        assert refusals == 5
        for statement in case.undo:
            world.sql(statement)
        if case.undo:
            world.clock.advance(LONGEST_SET_ASIDE)
            world.reconcile()
            assert world.status(task) == (case.failed if outcome == "failed" else outcome)
            (run,) = world.runs(task)
            assert (run.state, run.outcome) == ("finished", recorded)
            assert bad not in [task for task, _ in set_aside(world)]


_LOOP = (
    "CREATE VIEW numbers AS WITH RECURSIVE counted(x) AS "
    "(SELECT 1 UNION ALL SELECT x + 1 FROM counted WHERE x < 1000000000) SELECT x FROM counted",
    "CREATE TRIGGER guard BEFORE UPDATE ON download_tasks FOR EACH ROW WHEN "
    f"{_GUARD} BEGIN SELECT COUNT(*) FROM numbers; END",
)
_SLEEP = (
    "CREATE TRIGGER guard BEFORE UPDATE ON download_tasks FOR EACH ROW BEGIN "
    f"IF {_GUARD} THEN DO SLEEP(40); END IF; END",
)


@pytest.mark.parametrize("end", ["timeout", "result", "stop"])
def test_trigger_that_sleeps_costs_one_short_wait_and_its_task_is_named(
    database_url: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(engine, "ROW_TIMEOUT", 1)
    with closing(World(database_url, WITHOUT_HOLDS)) as world:
        first = "pending" if end == "timeout" else "enrolled"
        bad, *others = (world.add(first, LOCKED), world.add(first), world.add(first))
        world.reconcile()
        if end == "timeout":
            world.clock.advance(300)
        for task in (bad, *others):
            if end == "result":
                world.launcher.succeed(f"test-{task}-1")
            elif end == "stop":
                world.launcher.stick(f"test-{task}-1")
        for statement in _LOOP if world.database.is_sqlite else _SLEEP:
            world.sql(statement)
        with capture_logs() as logs:
            for _ in range(2):
                world.reconcile()
        assert {world.status(task) for task in others} == {
            "completed" if end == "result" else "failed"
        }
        # A stop is recorded once its run has ended, and that is a second try.
        assert set_aside(world) == [(bad, 2 if end == "stop" else 1)]
        named = [entry for entry in logs if "is set aside" in str(entry["event"])]
        assert {entry["task"] for entry in named} == {bad}
        assert "took more than 1 s" in str(named[0]["error"])
        world.reconcile()
        assert set_aside(world) == [(bad, 2 if end == "stop" else 1)], "it is not tried at once"
        world.sql("DROP TRIGGER guard")
        world.clock.advance(2 * SET_ASIDE)
        for _ in range(2):
            world.reconcile()
        assert world.status(bad) == ("completed" if end == "result" else "failed")
        assert set_aside(world) == []


def test_many_triggers_that_sleep_delay_a_pass_by_a_few_waits(
    server_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ROW_TIMEOUT", 1)
    with closing(World(server_database_url)) as world:
        for _ in range(HELD_LIMIT + 2):
            world.add("pending", LOCKED)
        world.reconcile()
        world.sql(*_SLEEP)
        world.clock.advance(300)
        world.reconcile()
        assert len(set_aside(world)) == HELD_LIMIT, "the others are left to the next passes"
        world.reconcile()
        assert len(set_aside(world)) == HELD_LIMIT + 2


@pytest.mark.parametrize("end", ["timeout", "result", "stop"])
def test_row_that_stays_locked_is_waited_for_twice_and_then_set_aside(
    server_database_url: str, end: str
) -> None:
    with (
        closing(World(server_database_url)) as world,
        closing(World(server_database_url, create=False)) as node,
    ):
        bad = world.add("pending" if end == "timeout" else "enrolled")
        world.reconcile()
        world.clock.advance(300)
        if end == "result":
            world.launcher.succeed(f"test-{bad}-1")
        elif end == "stop":
            world.launcher.stick(f"test-{bad}-1")
        with node.database.engine.begin() as connection:
            connection.execute(text("UPDATE download_tasks SET note = 'not committed'"))
            world.reconcile()
            assert set_aside(world) == [], "most locks are short"
            world.reconcile()
            assert set_aside(world) == [(bad, 1)]
            assert "another transaction holds" in str(queries.tasks_set_aside(world.database))
        world.clock.advance(SET_ASIDE)
        for _ in range(2):
            world.reconcile()
        assert world.status(bad) == ("completed" if end == "result" else "failed")
        assert len(world.runs(bad)) == 1 and set_aside(world) == []


@pytest.mark.parametrize("end", ["timeout", "result"])
def test_trigger_that_claims_a_lock_is_set_aside(server_database_url: str, end: str) -> None:
    """With the state of a real lock, only its repetition tells it."""
    with closing(World(server_database_url)) as world:
        bad = world.add("pending" if end == "timeout" else "enrolled", LOCKED)
        world.reconcile()
        world.clock.advance(300)
        if end == "result":
            world.launcher.succeed(f"test-{bad}-1")
        case = _signal("'HY000' SET MESSAGE_TEXT = 'the guard says no', MYSQL_ERRNO = 1205")
        world.sql(*case.statements)
        for _ in range(2):
            world.reconcile()
        assert set_aside(world) == [(bad, 1)]
        assert "the guard says no" in str(queries.tasks_set_aside(world.database))


def guarded(database_url: str, policy: Policy | None = None) -> World:
    world = World(database_url, policy)
    case = SQLITE["raise ABORT"] if world.database.is_sqlite else SERVER["signal"]
    world.sql(case.statements[0])
    return world


def test_refused_row_is_tried_again_after_growing_pauses(database_url: str) -> None:
    tried = list[float]()
    with closing(guarded(database_url)) as world:
        world.add("pending", LOCKED)
        world.reconcile()
        world.clock.advance(300)

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("UPDATE") and "download_tasks" in statement[:30]:
                tried.append(world.clock.elapsed)

        event.listen(world.database.engine, "before_cursor_execute", note)
        for _ in range(200):
            world.reconcile()
            world.clock.advance(10)
        world.restart()
        world.reconcile()
    pauses = [after - before for before, after in pairwise(tried)]
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]


def test_refused_row_that_node_enrolls_is_launched_at_once(database_url: str) -> None:
    with closing(guarded(database_url)) as world:
        task = world.add("pending", LOCKED)
        world.reconcile()
        world.clock.advance(300)
        world.reconcile()
        assert set_aside(world) == [(task, 1)]
        world.set(task, "enrolled")
        world.reconcile()
        assert world.launcher.live == [f"test-{task}-1"] and set_aside(world) == []


def test_ended_run_whose_row_node_changes_is_finished_at_once(database_url: str) -> None:
    with closing(guarded(database_url)) as world:
        task = world.add("enrolled", LOCKED)
        world.reconcile()
        world.launcher.succeed(f"test-{task}-1")
        world.reconcile()
        world.set(task, "pending")
        world.reconcile()
        assert [run.state for run in world.runs(task)] == ["finished"]
        world.set(task, "enrolled")
        world.reconcile()
        assert world.launcher.live == [f"test-{task}-2"]


def test_ended_run_whose_course_node_changes_is_followed_by_another(database_url: str) -> None:
    with closing(guarded(database_url)) as world:
        task = world.add("enrolled", LOCKED)
        world.reconcile()
        world.launcher.succeed(f"test-{task}-1")
        world.reconcile()
        world.sql("UPDATE download_tasks SET course_url = 'https://courses.example.com/2'")
        for _ in range(2):
            world.clock.advance(LONGEST_SET_ASIDE)
            world.reconcile()
        assert [run.state for run in world.runs(task)] == ["finished", "launched"]
        assert world.launcher.orders[-1].course_url == "https://courses.example.com/2"


def test_run_whose_result_is_refused_for_hours_keeps_when_it_ended(database_url: str) -> None:
    with closing(guarded(database_url)) as world:
        task = world.add("enrolled", LOCKED)
        world.reconcile()
        world.clock.advance(60)
        world.launcher.succeed(f"test-{task}-1")
        world.reconcile()
        world.clock.advance(7200)
        world.reconcile()
        world.sql("DROP TRIGGER guard")
        world.clock.advance(LONGEST_SET_ASIDE)
        world.reconcile()
        statement = select(runs.c.state, runs.c.finished_at, runs.c.recorded_at)
        with world.database.read_transaction() as connection:
            state, *instants = connection.execute(statement).one()
        assert world.status(task) == "completed" and state == "finished"
        assert [(each - EPOCH).total_seconds() for each in instants] == [60, 60]


@pytest.mark.parametrize("kind", ["unknown", "stuck"])
def test_refused_stop_ends_the_run_and_repeats_it_never(database_url: str, kind: str) -> None:
    with closing(guarded(database_url)) as world:
        task, other = world.add("enrolled", LOCKED), world.add("enrolled")
        world.reconcile()
        name = f"test-{task}-1"
        if kind == "unknown":
            world.set(task, "odd")
        else:
            world.launcher.stick(name)
        for _ in range(10):
            world.reconcile()
            world.clock.advance(LONGEST_SET_ASIDE)
        assert world.launcher.live == [f"test-{other}-1"] and len(world.runs(task)) == 1
        assert [each for each, _ in set_aside(world)] == [task]
        world.sql("DROP TRIGGER guard")
        for _ in range(3):
            world.reconcile()
            world.clock.advance(LONGEST_SET_ASIDE)
        assert world.status(task) == "failed"
        assert world.runs(task)[0].reason == (
            Reason.UNEXPECTED_STATUS if kind == "unknown" else Reason.IMAGE_PULL_BACK_OFF
        )
        assert set_aside(world) == []


def test_many_refused_rows_keep_no_other_timeout_back(database_url: str) -> None:
    with closing(guarded(database_url)) as world:
        values = ",".join(f"('pending', '{LOCKED}', 'https://a.example/')" for _ in range(1000))
        world.sql(f"INSERT INTO download_tasks (status, email, course_url) VALUES {values}")
        world.reconcile()
        world.clock.advance(1)
        late = world.add("pending")
        world.reconcile()
        world.clock.advance(300)
        with capture_logs() as logs:
            while world.reconcile().more:
                pass
        assert world.status(late) == "failed"
        assert world.scalar("SELECT COUNT(*) FROM enrollgate_tasks WHERE retry_at IS NOT NULL") == (
            1000
        )
        assert len(queries.tasks_set_aside(world.database, limit=50)) == 50
        assert len(logs) <= 1000 + 50


# launches


@pytest.mark.parametrize("slots", [10, 1])
def test_refused_launch_is_set_aside_and_the_others_are_launched(
    database_url: str, slots: int
) -> None:
    with closing(World(database_url, Policy(max_concurrent_runs=slots))) as world:
        bad, good = world.add("enrolled"), world.add("enrolled")
        world.launcher.refused[bad] = "the policy says no"
        with capture_logs() as logs:
            passes = 1
            while world.reconcile().more:
                passes += 1
                assert passes < 5
        assert world.launcher.live == [f"test-{good}-1"]
        assert world.status(bad) == "enrolled" and world.runs(bad) == []
        assert set_aside(world) == [(bad, 1)]
        assert [entry["error"] for entry in logs if "is set aside" in str(entry["event"])] == [
            "the policy says no"
        ]
        for _ in range(5):
            world.reconcile()
        assert set_aside(world) == [(bad, 1)], "not before its time"
        world.launcher.succeed(f"test-{good}-1")
        world.clock.advance(SET_ASIDE)
        world.reconcile()
        assert set_aside(world) == [(bad, 2)]
        world.launcher.refused.clear()
        world.clock.advance(2 * SET_ASIDE)
        world.reconcile()
        assert world.launcher.live == [f"test-{bad}-1"] and set_aside(world) == []


def test_launch_that_is_refused_for_too_long_fails_its_task(database_url: str) -> None:
    policy = Policy(enrollment_timeout=300, max_concurrent_runs=10, launch_timeout=600)
    with closing(World(database_url, policy)) as world:
        bad, good = world.add("enrolled"), world.add("enrolled")
        world.launcher.refused[bad] = "an admission webhook says no"
        world.reconcile()
        assert world.launcher.live == [f"test-{good}-1"]
        for _ in range(6):
            world.clock.advance(LONGEST_SET_ASIDE)
            world.reconcile()
        # After pauses of 10, 20, 40, 80, 160 and 320 seconds, all in all 630.
        assert world.status(bad) == "failed" and set_aside(world) == []
        (run,) = world.runs(bad)
        assert run.reason == Reason.LAUNCH_REFUSED
        assert "refused 7 times: an admission webhook says no" in str(run.message)
        del world.launcher.refused[bad]
        world.set(bad, "enrolled")
        world.reconcile()
        assert f"test-{bad}-2" in world.launcher.live


def test_task_that_is_set_aside_and_fails_at_node_is_forgotten(database_url: str) -> None:
    with closing(World(database_url)) as world:
        task = world.add("enrolled")
        world.launcher.refused[task] = "no"
        world.reconcile()
        world.set(task, "failed")
        world.reconcile()
        assert set_aside(world) == [] and world.runs(task) == []
        world.launcher.refused.clear()
        world.set(task, "enrolled")
        world.reconcile()
        assert world.launcher.live == [f"test-{task}-1"], "a fresh start"


def test_unforeseen_error_of_one_launch_lets_the_others_be_launched(database_url: str) -> None:
    with closing(World(database_url)) as world:
        first, bad, last = (world.add("enrolled") for _ in range(3))
        world.launcher.broken.add(bad)
        before = metrics.UNEXPECTED_ERRORS._value.get()
        with capture_logs() as logs:
            world.reconcile()
        assert sorted(world.launcher.live) == [f"test-{first}-1", f"test-{last}-1"]
        assert metrics.UNEXPECTED_ERRORS._value.get() > before
        (entry,) = [each for each in logs if each.get("task") == bad and each.get("exc_info")]
        assert "an error that nobody foresaw" in str(entry["exc_info"])
        assert set_aside(world) == [(bad, 1)]
        world.launcher.broken.clear()
        world.clock.advance(SET_ASIDE)
        world.reconcile()
        assert f"test-{bad}-1" in world.launcher.live


def test_unforeseen_error_in_a_decision_is_confined_to_its_task(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(World(database_url)) as world:
        bad, good = world.add("enrolled"), world.add("enrolled")
        real = world.launcher.observe

        def odd(value: str | None) -> str:
            raise ZeroDivisionError(value)

        world.reconcile()
        world.launcher.fail(f"test-{bad}-1")
        world.launcher.succeed(f"test-{good}-1")
        monkeypatch.setattr("enrollgate.domain.planner.explain", odd)
        monkeypatch.setattr("enrollgate.control.reconciler.explain", odd)
        late = world.add("enrolled")
        world.reconcile()
        assert world.status(good) == "completed" and f"test-{late}-1" in world.launcher.live
        monkeypatch.undo()
        assert world.launcher.observe == real
        world.reconcile()
        assert world.status(bad) == "failed"


@pytest.mark.parametrize("url", ["sqlite_url", "mariadb_url", "mysql_url"])
def test_a_trigger_that_changes_the_course_is_noticed(
    request: pytest.FixtureRequest, url: str
) -> None:
    change = "course_url = 'https://courses.example.com/other'"
    server = f"BEFORE UPDATE ON download_tasks FOR EACH ROW SET NEW.{change}"
    sqlite = (
        "AFTER UPDATE OF status ON download_tasks "
        f"BEGIN UPDATE download_tasks SET {change} WHERE id = NEW.id; END"
    )
    with refusing_world(request, url, Refusal((), (), "")) as world:
        task = add(world, "enrolled", "b@example.com")
        world.reconcile()
        is_sqlite = world.database.is_sqlite
        world.sql(f"CREATE TRIGGER guard {sqlite if is_sqlite else server}")
        world.launcher.succeed(f"test-{task}-1")
        world.reconcile()
        assert world.status(task) == "enrolled", "it was not downloaded from there"
        assert set_aside(world) == [(task, 1)]
        (refusal,) = [each.message or "" for each in queries.tasks_set_aside(world.database)]
        assert "sets the e-mail or the course URL" in refusal
        world.sql("DROP TRIGGER guard")
        world.clock.advance(LONGEST_SET_ASIDE)
        world.reconcile()
        assert world.status(task) == "completed"


def guard_runs(world: World, event_of: str, task: int, condition: str) -> None:
    """Let the database refuse to write the runs of one task, as an administrator's trigger does."""
    when = f"NEW.task_id = {task} AND {condition}"
    world.sql(
        f"CREATE TRIGGER guard BEFORE {event_of} ON enrollgate_runs FOR EACH ROW WHEN {when} "
        "BEGIN SELECT RAISE(ABORT, 'the guard says no'); END"
        if world.database.is_sqlite
        else f"CREATE TRIGGER guard BEFORE {event_of} ON enrollgate_runs FOR EACH ROW BEGIN "
        f"IF {when} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the guard says no'; "
        "END IF; END"
    )


@pytest.mark.parametrize("is_tracked", [True, False])
def test_task_that_cannot_be_claimed_keeps_no_other_from_its_run(
    database_url: str, is_tracked: bool
) -> None:
    with closing(World(database_url)) as world:
        first = world.add("pending" if is_tracked else "enrolled")
        bad, last = first + 1, first + 2
        guard_runs(world, "INSERT", bad, "1 = 1")
        if is_tracked:
            for _ in (bad, last):
                world.add("pending")
            world.reconcile()
            for task in (first, bad, last):
                world.set(task, "enrolled")
            world.reconcile()
        else:
            world.reconcile()
            for _ in (bad, last):
                world.add("enrolled")
            # A look at the gate claims tasks that no full pass has seen.
            world.launcher.succeed(f"test-{first}-1")
            world.operator.reconcile({f"test-{first}-1"})
            world.operator.look()
        runs_of_others = {f"test-{last}-1"} | ({f"test-{first}-1"} if is_tracked else set())
        assert set(world.launcher.live) == runs_of_others
        assert set_aside(world) == [(bad, 1)]
        assert "the guard says no" in str(queries.tasks_set_aside(world.database))
        world.reconcile()
        assert set_aside(world) == [(bad, 1)], "it is not tried at once"
        assert backlog.queued_since(world.database, world.tables) is not None
        world.sql("DROP TRIGGER guard")
        world.clock.advance(SET_ASIDE)
        world.reconcile()
        assert f"test-{bad}-1" in world.launcher.live and set_aside(world) == []


def test_claims_one_by_one_keep_to_the_limit(database_url: str) -> None:
    policy = Policy(enrollment_timeout=300, max_concurrent_runs=2)
    with closing(World(database_url, policy)) as world:
        bad = world.add("enrolled")
        guard_runs(world, "INSERT", bad, "1 = 1")
        others = [world.add("enrolled") for _ in range(3)]
        while world.reconcile().more:
            pass
        assert world.launcher.live == [f"test-{task}-1" for task in others[:2]]


@pytest.mark.parametrize("state", ["launched", "finished"])
def test_run_whose_own_row_cannot_be_written_keeps_no_other_back(
    database_url: str, state: str
) -> None:
    policy = Policy(enrollment_timeout=300, max_concurrent_runs=2)
    with closing(World(database_url, policy)) as world:
        bad, other = world.add("enrolled"), world.add("enrolled")
        states = "('finished', 'ended')" if state == "finished" else "('launched')"
        guard_runs(world, "UPDATE", bad, f"NEW.state IN {states}")
        world.reconcile()
        assert set(world.launcher.live) == {f"test-{bad}-1", f"test-{other}-1"}
        assert [run.state for run in world.runs(other)] == ["launched"]
        world.launcher.succeed(f"test-{bad}-1")
        third = world.add("enrolled")
        for _ in range(2):
            world.reconcile()
        assert set(world.launcher.live) == {f"test-{other}-1", f"test-{third}-1"}
        if state == "finished":
            assert world.status(bad) == "enrolled" and set_aside(world) == [(bad, 1)]
            world.clock.advance(SET_ASIDE)
            world.reconcile()
            assert set_aside(world) == [(bad, 2)]
            world.sql("DROP TRIGGER guard")
            world.clock.advance(2 * SET_ASIDE)
            world.reconcile()
        assert world.status(bad) == "completed" and len(world.runs(bad)) == 1
        assert set_aside(world) == [] and f"test-{bad}-1" not in world.launcher.runs
