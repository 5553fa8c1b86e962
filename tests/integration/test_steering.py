"""What people do to tasks and holds, by the commands and by the SQL of docs/holds.md."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import text
from tests.repository import REPOSITORY
from tests.world import EPOCH, World, at_once

from enrollgate.commands.cli import app
from enrollgate.database import DatabaseError, RowRefused, hold_views, holds, steering
from enrollgate.database.hold_views import HoldView
from enrollgate.database.steering import Cancelled, FailedFor, Steering
from enrollgate.database.task_details import load_task_details
from enrollgate.domain.account import account_sha256
from enrollgate.domain.hold import Hold, HoldKind, Scope
from enrollgate.domain.policy import HoldPolicy, Policy
from enrollgate.domain.reasons import Reason

ADA, BOB = "ada@example.com", "bob@example.com"
DIGEST = account_sha256(ADA)
# No failure opens a hold: so many tasks may fail.
POLICY = Policy(max_concurrent_runs=10, holds=HoldPolicy(is_on=False))


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with closing(World(database_url, POLICY)) as world:
        yield world


def by(world: World, installation: str = "test") -> Steering:
    return Steering(world.database, world.tables, installation, "eve on desk")


def open_holds(world: World) -> list[HoldView]:
    return hold_views.read_holds(world.database, world.tables, installation="test")


def noted(world: World) -> list[tuple[object, ...]]:
    """Return what was written down: actor, action, task, hold."""
    with world.database.read_transaction() as connection:
        rows = connection.execute(
            text("SELECT actor, action, task_id, hold_id FROM enrollgate_actions ORDER BY id")
        )
        return [tuple(row) for row in rows]


def insert_hold(world: World, scope: str, subject: str, reason: Reason) -> int:
    """Open a hold as the operator does after a failure."""
    hold = Hold(
        kind=HoldKind.HOLD,
        scope=Scope(scope),
        subject=subject,
        reason=reason.value,
        opened_at=world.clock.now,
        message="the site asked for a login",
        remedy="Export new cookies.",
        run_name="test-1-1",
        probe_at=world.clock.now + timedelta(minutes=5),
        ends_at=world.clock.now + timedelta(days=7),
    )
    assert holds.insert_hold(world.database, hold, "test")
    return world.scalar("SELECT MAX(id) FROM enrollgate_holds")


def fail_tasks(world: World, count: int, reason: Reason, email: str = ADA) -> list[int]:
    tasks = [world.add("enrolled", email) for _ in range(count)]
    world.reconcile()
    for task in tasks:
        world.launcher.fail(f"test-{task}-1", reason)
    world.reconcile()
    assert {world.status(task) for task in tasks} == {"failed"}
    return tasks


def test_paused_account_is_not_launched_until_it_is_resumed(world: World) -> None:
    found, is_new = steering.pause(by(world), Scope.ACCOUNT, DIGEST, seconds=7200, why="cookies")
    assert is_new and found.ends_at == EPOCH + timedelta(hours=2) and found.is_pause
    mine, other = world.add("enrolled", " Ada@Example.com "), world.add("enrolled", BOB)
    for _ in range(2):
        world.reconcile()
        world.look()
    assert world.launcher.live == [f"test-{other}-1"]
    assert steering.count_enrolled(world.database, world.tables, Scope.ACCOUNT, DIGEST) == 1
    (seen,) = open_holds(world)
    assert (seen.tasks, seen.account, seen.message) == (1, "A***@Example.com", "cookies")
    closed = steering.resume(by(world), Scope.ACCOUNT, DIGEST)
    assert closed is not None and closed.closed_by == "eve on desk"
    world.reconcile()
    assert sorted(world.launcher.live) == sorted([f"test-{mine}-1", f"test-{other}-1"])
    assert noted(world) == [
        ("eve on desk", action, None, found.hold_id) for action in ("pause", "resume")
    ]


def test_second_pause_of_a_scope_changes_its_end(world: World) -> None:
    first, _ = steering.pause(by(world), Scope.INSTALLATION, "", seconds=60, why="a move")
    second, is_new = steering.pause(by(world), Scope.INSTALLATION, "", seconds=3600, why="")
    assert (second.hold_id, is_new, second.message) == (first.hold_id, False, "a move")
    assert second.ends_at == EPOCH + timedelta(hours=1)
    assert len(open_holds(world)) == 1


def test_two_people_who_pause_at_once_open_one_pause(world: World) -> None:
    with closing(world.open()) as second:
        other = Steering(second, world.tables, "test", "bob on desk")
        at_once(
            lambda: steering.pause(by(world), Scope.HOST, "a.example", seconds=60, why=""),
            lambda: steering.pause(other, Scope.HOST, "a.example", seconds=60, why=""),
        )
    assert len(open_holds(world)) == 1 and len(noted(world)) == 2


def test_pause_of_a_host_leaves_other_hosts_alone(world: World) -> None:
    steering.pause(by(world), Scope.HOST, "courses.example.com", seconds=60, why="")
    held = world.add("enrolled", ADA, "https://COURSES.example.com:443/course/1")
    free = world.add("enrolled", ADA, "https://other.example.com/course/1")
    world.reconcile()
    assert world.launcher.live == [f"test-{free}-1"]
    world.clock.advance(61)
    for _ in range(2):
        world.reconcile()
    assert f"test-{held}-1" in world.launcher.live and open_holds(world) == []


def test_pause_without_an_end_ends_by_the_limit_of_holds(world: World) -> None:
    world.sql(
        "INSERT INTO enrollgate_holds (installation, scope, opened_at, opened_by) "
        "VALUES ('test', 'installation', :now, 'admin page')",
        now=str(EPOCH),
    )
    task = world.add("enrolled")
    world.clock.advance(POLICY.holds.limit - 10)
    world.reconcile()
    assert world.launcher.live == []
    world.clock.advance(20)
    for _ in range(2):
        world.reconcile()
    assert world.launcher.live == [f"test-{task}-1"] and open_holds(world) == []


def test_opened_and_closed_holds_are_announced_once(world: World) -> None:
    steering.pause(by(world), Scope.HOST, "old.example.com", seconds=9000, why="")
    world.reconcile()
    assert world.launcher.hold_events == [], "it was open before this operator started"
    pause, _ = steering.pause(by(world), Scope.INSTALLATION, "", seconds=60, why="a move")
    hold = insert_hold(world, "account", DIGEST, Reason.COOKIES_EXPIRED)
    for _ in range(2):
        world.reconcile()
    steering.release(by(world), hold)
    world.clock.advance(61)
    for _ in range(3):
        world.reconcile()
    said = [(event.reason, event.message) for event in world.launcher.hold_events]
    account = f"hold {hold} of the account (CookiesExpired)"
    paused = f"pause {pause.hold_id} of the installation (Paused)"
    assert said == [
        ("Paused", f"{paused} is open: a move"),
        ("HoldOpened", f"{account} is open: the site asked for a login"),
        ("Resumed", f"{paused} is closed: a move"),
        ("HoldClosed", f"{account} is closed: the site asked for a login"),
    ]


def test_another_installation_is_not_steered(world: World) -> None:
    found, _ = steering.pause(by(world), Scope.INSTALLATION, "", seconds=60, why="")
    elsewhere = by(world, "elsewhere")
    assert steering.resume(elsewhere, Scope.INSTALLATION, "") is None
    assert steering.release(elsewhere, found.hold_id) is None
    assert len(open_holds(world)) == 1


def test_released_hold_lets_its_tasks_go_on(world: World) -> None:
    hold = insert_hold(world, "account", DIGEST, Reason.COOKIES_EXPIRED)
    task = world.add("enrolled")
    for _ in range(2):
        world.reconcile()
    assert world.launcher.live == []
    closed = steering.release(by(world), hold)
    assert closed is not None and not closed.is_pause
    assert steering.release(by(world), hold) is steering.release(by(world), 2**63 - 1) is None
    world.reconcile()
    assert world.launcher.live == [f"test-{task}-1"]
    assert noted(world) == [("eve on desk", "release", None, hold)]


def test_retry_changes_only_rows_that_are_failed(world: World) -> None:
    failed = fail_tasks(world, 3, Reason.COOKIES_EXPIRED)
    waiting, done = world.add("paid"), world.add("completed")
    missing = done + 1000
    result = steering.retry(by(world), [*failed, waiting, done, missing, 2**70], "by hand")
    assert result.enrolled == failed and result.refused == {}
    assert result.not_failed == [waiting, done, missing, 2**70]
    assert [world.status(task) for task in (*failed, waiting, done)] == [
        *["enrolled"] * 3,
        "paid",
        "completed",
    ]
    assert noted(world) == [("eve on desk", "retry", task, None) for task in failed]
    world.reconcile()
    assert sorted(world.launcher.live) == [f"test-{task}-2" for task in failed]


def test_retry_by_reason_finds_the_last_failure_of_each_task(world: World) -> None:
    old = fail_tasks(world, 1, Reason.COOKIES_EXPIRED)
    world.clock.advance(2 * 86400)
    expired = fail_tasks(world, 2, Reason.COOKIES_EXPIRED)
    others = fail_tasks(world, 1, Reason.COOKIES_EXPIRED, BOB)
    denied = fail_tasks(world, 1, Reason.ACCESS_DENIED)
    # It failed again since, for another reason.
    changed = fail_tasks(world, 1, Reason.COOKIES_EXPIRED)
    world.set(changed[0], "enrolled")
    world.reconcile()
    world.launcher.fail(f"test-{changed[0]}-2", Reason.COURSE_NOT_FOUND)
    world.reconcile()

    def find(reason: Reason, days: int, account: str | None = None) -> list[int]:
        wanted = FailedFor(reason, timedelta(days=days), account)
        return steering.find_failed(world.database, world.tables, wanted)

    assert find(Reason.COOKIES_EXPIRED, 1) == [*expired, *others]
    assert find(Reason.COOKIES_EXPIRED, 1, DIGEST) == expired
    assert find(Reason.COOKIES_EXPIRED, 3) == [*old, *expired, *others]
    assert find(Reason.ACCESS_DENIED, 1) == denied
    world.set(expired[0], "archived")
    assert find(Reason.COOKIES_EXPIRED, 1, DIGEST) == expired[1:]


def test_retry_of_more_than_a_batch_moves_each_once(world: World) -> None:
    many = steering.RETRY_BATCH + 20
    tasks = [world.add("failed") for _ in range(many)]
    with closing(world.open()) as second:
        other, results = Steering(second, world.tables, "test", "bob on desk"), list[list[int]]()
        at_once(
            lambda: results.append(steering.retry(by(world), tasks).enrolled),
            lambda: results.append(steering.retry(other, tasks).enrolled),
        )
    assert sorted(results[0] + results[1]) == tasks
    assert len(noted(world)) == many


def test_retry_goes_on_after_a_row_that_the_database_refuses(world: World) -> None:
    tasks = [world.add("failed") for _ in range(3)]
    condition = f"NEW.id = {tasks[1]} AND NEW.status = 'enrolled'"
    if world.database.is_sqlite:
        world.sql(
            f"CREATE TRIGGER no BEFORE UPDATE ON download_tasks WHEN {condition} "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    else:
        world.sql(
            "CREATE TRIGGER no BEFORE UPDATE ON download_tasks FOR EACH ROW "
            f"IF {condition} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"
        )
    result = steering.retry(by(world), tasks)
    assert result.enrolled == [tasks[0], tasks[2]]
    assert list(result.refused) == [tasks[1]] and "not this one" in result.refused[tasks[1]]
    assert len(noted(world)) == 2


def test_cancelled_run_is_stopped_and_its_task_says_who(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    assert steering.cancel(by(world), task) is Cancelled.STOPPING
    assert world.status(task) == "failed"
    (run,) = world.runs(task)
    assert (run.state, run.reason, run.message) == (
        *("stopping", "Cancelled", "cancelled by eve on desk"),
    )
    for _ in range(2):
        world.reconcile()
    (run,) = world.runs(task)
    assert world.launcher.live == [] and run.state == "finished" and run.reason == "Cancelled"
    assert noted(world) == [("eve on desk", "cancel", task, None)]
    world.set(task, "enrolled")
    world.reconcile()
    assert world.launcher.live == [f"test-{task}-2"], "a fresh start"


@pytest.mark.parametrize("status", ["processing", "enrolled"])
@pytest.mark.parametrize("is_tracked", [False, True])
def test_cancelled_task_without_a_run_fails_with_its_reason(
    world: World, status: str, *, is_tracked: bool
) -> None:
    world.launcher.full = True
    steering.pause(by(world), Scope.INSTALLATION, "", seconds=3600, why="")
    task = world.add(status)
    if is_tracked:
        world.reconcile()
        world.clock.advance(20)
    assert steering.cancel(by(world), task) is Cancelled.FAILED
    (run,) = world.runs(task)
    assert (run.outcome, run.reason, run.message) == (
        *("failed", "Cancelled", "cancelled by eve on desk"),
    )
    world.reconcile()
    assert (
        world.status(task) == "failed"
        and world.scalar("SELECT COUNT(*) FROM enrollgate_tasks") == 0
    )


def test_cancel_during_a_launch_ends_with_no_live_run(world: World) -> None:
    task = world.add("enrolled")
    world.launcher.full = True
    world.reconcile()  # claimed, not launched
    assert steering.cancel(by(world), task) is Cancelled.STOPPING
    world.launcher.full = False
    for _ in range(3):
        world.reconcile()
    (run,) = world.runs(task)
    assert (run.state, run.reason) == ("finished", "Cancelled")
    assert world.launcher.orders == [] and world.status(task) == "failed"


def test_cancel_while_an_operator_claims_never_leaves_a_run(world: World) -> None:
    for _ in range(5):
        task = world.add("enrolled")
        at_once(world.reconcile, partial(steering.cancel, by(world), task))
        for _ in range(3):
            world.reconcile()
        assert world.status(task) == "failed" and world.launcher.live == []
        assert world.runs(task)[-1].state == "finished"


def test_cancel_leaves_finished_unknown_and_missing_tasks(world: World) -> None:
    done, failed, odd = world.add("completed"), world.add("failed"), world.add("archived")
    world.reconcile()
    results = [steering.cancel(by(world), task) for task in (done, failed, odd, odd + 9, 2**70)]
    assert results == [
        *(Cancelled.FINISHED, Cancelled.FINISHED, Cancelled.UNKNOWN),
        *(Cancelled.MISSING, Cancelled.MISSING),
    ]
    assert [world.status(task) for task in (done, failed, odd)] == [
        "completed",
        "failed",
        "archived",
    ]
    assert noted(world) == [] and world.runs() == []


def test_refused_cancel_changes_nothing(world: World) -> None:
    task = world.add("enrolled")
    world.reconcile()
    if world.database.is_sqlite:
        world.sql(
            "CREATE TRIGGER no BEFORE UPDATE ON download_tasks WHEN NEW.status = 'failed' "
            "BEGIN SELECT RAISE(ABORT, 'never'); END"
        )
    else:
        world.sql(
            "CREATE TRIGGER no BEFORE UPDATE ON download_tasks FOR EACH ROW IF NEW.status = "
            "'failed' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'never'; END IF"
        )
    with pytest.raises(RowRefused, match="never"):
        steering.cancel(by(world), task)
    assert [run.state for run in world.runs(task)] == ["launched"] and noted(world) == []


def test_what_was_done_to_a_task_is_in_its_details(world: World) -> None:
    (task,) = fail_tasks(world, 1, Reason.COOKIES_EXPIRED)
    steering.retry(by(world), [task], "CookiesExpired within 1d")
    steering.cancel(by(world), task)
    details = load_task_details(world.database, world.tables, task, installation="test")
    assert [(each.action, each.actor) for each in details.actions] == [
        ("cancel", "eve on desk"),
        ("retry", "eve on desk"),
    ]
    assert details.actions[1].detail == "CookiesExpired within 1d"


def documented_sql(language: str) -> dict[str, str]:
    """Return the statements of docs/holds.md, by the comment above each."""
    page = (REPOSITORY / "docs/holds.md").read_text(encoding="utf-8")
    block = re.findall(rf"On {language}:\n\n```sql\n(.*?)```", page, re.DOTALL)[0]
    found = re.findall(r"-- (.*?)\n(.*?);(?:\n|$)", block, re.DOTALL)
    return dict(found)


def test_documented_sql_steers_as_the_commands_do(database_url: str) -> None:
    with closing(World(database_url, POLICY)) as world:
        language = "SQLite" if world.database.is_sqlite else "MySQL and MariaDB"
        statements = documented_sql(language)
        assert len(statements) == 9

        def run(title: str) -> None:
            # As another program does: with its own installation and ids in the statement.
            statement = statements.pop(title).replace("'enrollgate'", "'test'")
            world.database.run_in_transaction(
                lambda connection: connection.exec_driver_sql(statement)
            )

        # The servers' own clock is in the statements: bring the driven one close to it.
        with world.database.read_transaction() as connection:
            now = connection.exec_driver_sql(
                "SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')"
                if world.database.is_sqlite
                else "SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)"
            ).scalar_one()
        seconds = (type(EPOCH).fromisoformat(str(now)) - EPOCH).total_seconds()
        world.clock.advance(seconds + 5)
        run("pause an account for two hours")
        run("pause a host")
        mine = world.add("enrolled")
        other = world.add("enrolled", BOB, "https://other.example.com/1")
        for _ in range(2):
            world.reconcile()
        assert world.launcher.live == [f"test-{other}-1"]
        account, host = sorted(open_holds(world), key=lambda hold: hold.hold_id)
        # The task is marked with one of them: the wider one.
        assert (account.subject, host.subject, host.tasks) == (DIGEST, "courses.example.com", 1)
        assert account.ends_at is not None and host.opened_by == "admin page"
        assert abs((account.ends_at - account.opened_at) - timedelta(hours=2)) < timedelta(
            minutes=1
        )
        run("resume the account")
        run("release hold 2")
        assert open_holds(world) == []
        run("pause everything")
        listed = statements.pop("list what is open").replace("'enrollgate'", "'test'")
        with world.database.read_transaction() as connection:
            assert [row.scope for row in connection.exec_driver_sql(listed)] == ["installation"]
        released = steering.resume(by(world), Scope.INSTALLATION, "")
        assert released is not None
        world.reconcile()
        assert f"test-{mine}-1" in world.launcher.live
        world.launcher.fail(f"test-{mine}-1", Reason.COOKIES_EXPIRED)
        world.reconcile()
        run("retry what failed for a reason within a day")
        assert world.status(mine) == "enrolled"
        world.sql("DELETE FROM download_tasks")
        world.sql("DELETE FROM enrollgate_tasks")
        for task_id, status in ((41, "failed"), (42, "failed"), (43, "paid"), (44, "paid")):
            world.sql(
                "INSERT INTO download_tasks (id, status, email, course_url) "
                f"VALUES ({task_id}, '{status}', 'c@example.com', 'https://c.example/1')"
            )
        run("retry one task")
        run("cancel a task")
        assert [world.status(task) for task in (41, 42, 43, 44)] == [
            *("enrolled", "failed", "failed", "paid"),
        ]
        assert statements == {}


@pytest.mark.parametrize(
    ("columns", "values", "constraint"),
    [
        ("scope", "'acount'", "scope"),
        ("scope, kind", "'installation', 'stop'", "kind"),
        ("scope, subject", "'account', 'ada@example.com'", "account_is_sha256"),
        ("scope, subject", "'host', 'https://courses.example.com/'", "host_is_name"),
        ("scope, subject", "'host', 'Courses.example.com'", "host_is_name"),
        ("scope, subject", "'host', 'courses.example.com:8443'", "host_is_name"),
        ("scope, subject", "'host', 'courses.example.com.'", "host_is_name"),
        ("scope, subject", "'host', ' courses.example.com'", "host_is_name"),
        ("scope, subject", f"'account', '{DIGEST.upper()}'", "account_is_sha256"),
        ("scope", "'host'", "host_is_name"),
        ("scope, subject", "'destination', 'x'", "all_is_empty"),
        ("scope, ends_at", "'installation', 'tomorrow'", "ends_at"),
        ("scope, ends_at", "'installation', '2027-02-31 99:00:00'", "ends_at"),
    ],
)
def test_wrong_pause_by_sql_is_refused_by_name(
    world: World, columns: str, values: str, constraint: str
) -> None:
    with pytest.raises(DatabaseError, match=constraint):
        world.sql(
            f"INSERT INTO enrollgate_holds (installation, opened_by, {columns}) "
            f"VALUES ('test', 'admin page', {values})"
        )
    task = world.add("enrolled")
    world.reconcile()
    assert world.launcher.live == [f"test-{task}-1"]


# The command line, on an embedded database.


@pytest.fixture
def command(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[tuple[World, "Command"]]:
    monkeypatch.setenv("ENROLLGATE_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("ENROLLGATE_INSTALLATION", "test")
    monkeypatch.setenv("COLUMNS", "80")
    with closing(World(sqlite_url, POLICY)) as world:
        yield world, Command(capsys)


class Command:
    """Runs a command and returns its exit code and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str]:
        self._capsys.readouterr()
        try:
            code = app(list(arguments), standalone_mode=False) or 0
        except SystemExit as error:
            code = int(error.code or 0)
        printed = self._capsys.readouterr()
        return int(code), printed.out + printed.err


def test_commands_pause_show_and_resume_an_account(command: tuple[World, Command]) -> None:
    world, run = command
    world.add("enrolled")
    code, said = run(
        "pause", "--account", " ADA@example.com", "--for", "2h", "--why", "new cookies"
    )
    assert code == 0 and "A***@example.com is paused, until " in said, said
    assert "1 enrolled task is in it" in said
    world.clock.advance(0)
    code, listed = run("holds")
    assert code == 0 and all(len(line) <= 80 for line in listed.splitlines()), listed
    words = " ".join(listed.split())
    assert "Pause 1" in words and ": new cookies" in words and "waiting 0 tasks" in words
    (row,) = json.loads(run("holds", "--json")[1])
    assert (row["scope"], row["subject"], row["kind"]) == ("account", DIGEST, "pause")
    code, said = run("resume", "--account", ADA, "--as", "eve")
    assert code == 0 and "The pause of account a***@example.com is over" in said, said
    code, said = run("resume", "--account", ADA)
    assert code == 1 and "no pause of this account is open" in said
    assert ADA not in listed and "example.com" not in json.dumps(row)
    assert run("holds")[1] == "No hold is open, and nothing is paused.\n"
    assert "closed" in run("holds", "--all")[1]


def test_wrong_options_say_what_to_write(command: tuple[World, Command]) -> None:
    _, run = command
    for arguments, words in (
        (("pause", "--account", ADA, "--host", "x"), "not both"),
        (("pause", "--account", " "), "--account is empty"),
        (("pause", "--host", "https://"), "names no host"),
        (("pause", "--for", "soon"), "Write a time such as 90s, 30m or 2h"),
        (("pause", "--for", "-1"), "Write a time such as"),
        (("pause", "--as", ADA), "no e-mail address"),
        (("retry",), "name the tasks, or give --reason"),
        (("retry", "1", "--reason", "CookiesExpired"), "name the tasks, or give --reason"),
        (("retry", "1", "--account", ADA), "--account goes with --reason"),
        (("retry", "--reason", "CookieExpired"), "did you mean CookiesExpired?"),
        (("retry", "--reason", "CookiesExpired", "--since", "long"), "--since"),
        (("retry", "x"), "is no task"),
        (("cancel", "x"), "is no task"),
    ):
        code, said = run(*arguments)
        assert code == 2 and words in " ".join(said.split()), (arguments, said)


def test_release_names_what_it_closed_or_why_not(command: tuple[World, Command]) -> None:
    world, run = command
    hold = insert_hold(world, "host", "courses.example.com", Reason.BOT_CHECK)
    code, said = run("release", str(hold))
    assert code == 0 and f"Hold {hold} of host courses.example.com is closed." in said
    assert "their failure opens a new hold" in said
    code, said = run("release", str(hold))
    assert code == 1 and f"hold {hold} was closed at" in said
    assert run("release", "99")[0] == run("release", str(2**80))[0] == 1


def test_retry_and_cancel_say_how_many(command: tuple[World, Command]) -> None:
    world, run = command
    first, second = fail_tasks(world, 2, Reason.COOKIES_EXPIRED)
    # By the machine's clock, the world's are long over.
    world.sql("UPDATE enrollgate_runs SET finished_at = :now", now=datetime_now(world))
    code, said = run("retry", "--reason", "CookiesExpired", "--dry-run")
    assert (code, said) == (
        0,
        f"2 tasks would be set from 'failed' to 'enrolled': {first}, {second}\n",
    )
    assert world.status(first) == "failed"
    code, said = run("retry", "--reason", "CookiesExpired", "--account", BOB)
    assert (code, said) == (0, "0 tasks set from 'failed' to 'enrolled'\n")
    code, said = run("retry", str(first), f"test-{second}-1", "--as", "eve")
    assert (code, said) == (0, f"2 tasks set from 'failed' to 'enrolled': {first}, {second}\n")
    code, said = run("retry", str(first))
    assert (
        code == 1
        and f"1 task left alone, since no row has this id and is 'failed': {first}" in said
    )
    world.reconcile()
    code, said = run("cancel", str(first), "--as", "eve")
    assert code == 0 and f"task {first}: 'failed'; the operator stops its run" in said
    code, said = run("cancel", str(first), "777")
    assert code == 1 and "it is completed or failed already" in said
    assert "download_tasks has no row with this id" in said
    code, said = run("explain", str(first))
    assert "Cancelled: cancelled by eve" in " ".join(said.split()), said
    assert "enrollgate cancel, by eve" in said and "enrollgate retry, by eve" in said


def datetime_now(world: World) -> str:
    with world.database.read_transaction() as connection:
        now = connection.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')"))
        return str(now.scalar_one())
