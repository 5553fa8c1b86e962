"""Servers that change their roles, fall silent, refuse connections or refuse GET_LOCK.

Two real servers stand behind a TCP proxy, as behind a virtual address or a load balancer.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import pymysql
import pytest
from pymysql.err import OperationalError as PyMySQLOperationalError
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import OperationalError as SqlOperationalError
from structlog.testing import capture_logs
from tests.conftest import server_in_a_folder
from tests.databases import Server, start_mariadb, start_mysql
from tests.databases.server import execute, fresh_database
from tests.tcp_proxy import TcpProxy
from tests.world import World

from enrollgate.control.housekeeping import Housekeeping
from enrollgate.control.look_interval import LookInterval
from enrollgate.control.progress import ProgressReader
from enrollgate.control.runner import OperatorRunner
from enrollgate.database import Database, DatabaseUnavailable, engine, migrate, open_database
from enrollgate.database.engine import CONNECT_TIMEOUT, STATEMENT_TIMEOUT
from enrollgate.database.errors import translated
from enrollgate.database.preflight import check_database, require_usable
from enrollgate.domain.check import Severity
from enrollgate.telemetry import metrics
from enrollgate.telemetry.health import Health

pytestmark = pytest.mark.slow

TIMEOUT = 120
# Without TLS, so that the proxy can read the statements.
STARTS = {
    "mariadb": start_mariadb,
    "mysql": lambda folder: start_mysql(folder, "--tls-version="),
}
# Numbers of errors after which another connection, or a later one, may succeed.
NOT_NOW = """
    1040 1047 1053 1129 1203 1205 1207 1213 1223 1226 1290 1637 1792 1836 1927 2003 2006 2013 2055
    3032 3100 3101 3169 4031 9001
"""
GET_LOCK_REFUSED = (
    1105,
    "Percona-XtraDB-Cluster prohibits use of GET_LOCK with pxc_strict_mode = ENFORCING",
)


@pytest.fixture(scope="module", params=list(STARTS))
def old_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server for this module alone. Its kind also chooses the new primary."""
    kind = request.param
    with server_in_a_folder(f"ENROLLGATE_TEST_{kind.upper()}_URL", STARTS[kind]) as server:
        yield server


@dataclass(frozen=True)
class Pair:
    """The old and the new primary with the same rows, and the address that both had or have.

    `old` and `new` are URLs of the administrator, `address` of the account of Enrollgate.
    """

    old: URL
    new: URL
    proxy: TcpProxy
    address: URL

    def demote(self) -> None:
        """Make the old server read-only, and send new connections to the new one."""
        execute(str_url(self.old), "SET GLOBAL read_only = 1")
        self.proxy.switch(self.new.port or 0)


def str_url(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.fixture
def pair(old_server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    kind = request.node.callspec.params["old_server"]
    server_url = request.getfixturevalue(f"{kind}_server_url")
    with ExitStack() as stack:
        new = make_url(stack.enter_context(fresh_database(server_url)))
        old = make_url(old_server.url("")).set(database=new.database)
        execute(str_url(old.set(database="")), f"CREATE DATABASE {new.database}")
        user = f"u{new.database}"[:30]
        for url in (old, new):
            execute(
                str_url(url),
                f"CREATE USER {user}@'%' IDENTIFIED BY 'not-an-administrator'",
                f"GRANT ALL ON {url.database}.* TO {user}@'%'",
            )
        proxy = stack.enter_context(TcpProxy(old_server.port))
        address = old.set(port=proxy.port, username=user, password="not-an-administrator")
        try:
            yield Pair(old, new, proxy, address)
        finally:
            execute(str_url(old), "SET GLOBAL read_only = 0")
            execute(str_url(old), f"DROP DATABASE {new.database}")
            for url in (old, new):
                execute(str_url(url.set(database="")), f"DROP USER {user}@'%'")


@contextmanager
def working(world: World, database: Database) -> Iterator[threading.Thread]:
    """Run an operator on this database in a thread, and stop it at the end."""
    runner = OperatorRunner(
        database=database,
        installation="test",
        tables=world.tables,
        build_reconciler=lambda: world.new_operator(database),
        launcher=lambda: world.launcher,
        housekeeping=Housekeeping(
            database, "test", about={}, history=timedelta(days=1), monotonic=time.monotonic
        ),
        progress=ProgressReader(database, "test", rate=100, monotonic=time.monotonic),
        check_interval=0.05,
        look_interval=LookInterval(interval=0.01, share=1.0),
        health=Health(liveness_timeout=60, monotonic=lambda: 0.0),
        random=Random(1),
    )
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        runner.stop()
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def until_launched(world: World, task: int, thread: threading.Thread) -> None:
    for _ in range(TIMEOUT * 100):
        if f"test-{task}-1" in world.launcher.live:
            return
        assert thread.is_alive(), "the operator has ended"
        thread.join(0.01)
    pytest.fail(f"task {task} was not launched")


def aborted_passes() -> float:
    value = metrics.REGISTRY.get_sample_value("enrollgate_passes_total", {"result": "aborted"})
    return value or 0.0


@pytest.mark.parametrize("is_administrator", [False, True], ids=["account", "administrator"])
def test_old_primary_is_left_within_one_pass(pair: Pair, is_administrator: bool) -> None:
    """Its connections stay open, and an administrator's account could write to it all the same."""
    address = pair.address
    if is_administrator:
        address = pair.old.set(port=pair.address.port)
    with (
        closing(World(str_url(pair.old))) as old,
        closing(World(str_url(pair.new))) as new,
        closing(open_database(address, clock=old.clock)) as database,
        working(old, database) as thread,
    ):
        new.sql("ALTER TABLE download_tasks AUTO_INCREMENT = 100")
        until_launched(old, old.add("enrolled"), thread)
        pair.demote()
        before = aborted_passes()
        late = old.add("processing")  # what it has is old now
        until_launched(old, new.add("enrolled"), thread)
        assert aborted_passes() - before <= 1
        assert [run.task_id for run in new.runs()] == [100]
        assert [run.task_id for run in old.runs()] == [1] and old.status(late) == "processing"


def test_pass_in_progress_leaves_the_old_primary_at_the_next_one(pair: Pair) -> None:
    """The server becomes read-only after the pass has begun: its writes are refused."""
    with (
        closing(World(str_url(pair.old))) as old,
        closing(World(str_url(pair.new))) as new,
        closing(open_database(pair.address)) as database,
    ):
        database.run_in_transaction(lambda connection: connection.execute(text("SELECT 1")))
        pair.demote()
        statement = text("INSERT INTO download_tasks (status) VALUES ('pending')")
        with pytest.raises(DatabaseUnavailable, match="takes no writes: waiting for the primary"):
            database.run_in_transaction(lambda connection: connection.execute(statement))
        database.run_in_transaction(lambda connection: connection.execute(statement))
        assert new.scalar("SELECT COUNT(*) FROM download_tasks") == 1
        assert old.scalar("SELECT COUNT(*) FROM download_tasks") == 0


def test_server_that_stays_read_only_is_waited_for_and_named_once(pair: Pair) -> None:
    """Both at the start and during the work: the process goes on."""
    with (
        closing(World(str_url(pair.old))) as world,
        closing(open_database(pair.address, clock=world.clock)) as database,
        capture_logs() as lines,
    ):
        execute(str_url(pair.old), "SET GLOBAL read_only = 1")
        with working(world, database) as thread:
            for event in ("waiting for the database", "the pass was aborted"):
                while not (found := [each for each in lines if event in str(each["event"])]):
                    assert thread.is_alive(), "the operator has ended"
                    thread.join(0.01)
                while len([each for each in lines if event in str(each["event"])]) < 3:
                    assert thread.is_alive(), "the operator has ended"
                    thread.join(0.01)
                assert "name the primary in ENROLLGATE_DATABASE_URL" in found[0]["error"]
                levels = [each["log_level"] for each in lines if event in str(each["event"])]
                assert levels[0] in ("warning", "error") and set(levels[1:]) == {"debug"}
                execute(str_url(pair.old), "SET GLOBAL read_only = 0")
                until_launched(world, world.add("enrolled"), thread)
                execute(str_url(pair.old), "SET GLOBAL read_only = 1")


def test_doctor_and_the_start_name_a_read_only_server(pair: Pair) -> None:
    with closing(World(str_url(pair.old))) as world:
        execute(str_url(pair.old), "SET GLOBAL read_only = 1")
        for address in (pair.address, pair.old):  # an account, and an administrator
            with closing(open_database(address)) as database:
                with pytest.raises(DatabaseUnavailable, match="is read-only: the server takes no"):
                    require_usable(database, world.tables)
                (check,) = check_database(database, world.tables)
                assert check.severity is Severity.FAILED and "is read-only" in check.detail


@pytest.mark.parametrize("code", NOT_NOW.split())
def test_server_that_does_not_work_now_is_waited_for(code: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=rf"MySQL error {code}\b"), translated():
        raise SqlOperationalError("UPDATE", None, PyMySQLOperationalError(int(code), "not now"))


def test_connection_that_falls_silent_is_given_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing passes, and nothing is closed, as behind a firewall that has lost its table."""
    assert CONNECT_TIMEOUT + STATEMENT_TIMEOUT <= 30
    monkeypatch.setattr(engine, "STATEMENT_TIMEOUT", 1)
    monkeypatch.setattr(engine, "_CHECK_AFTER", 0)
    with closing(open_database(pair.address)) as database:
        database.now()
        pair.proxy.silence()
        database.now()  # its ping is given up, and a fresh connection answers
        with pytest.raises(DatabaseUnavailable), database.read_transaction() as connection:
            pair.proxy.silence()
            connection.execute(text("SELECT 1"))
        database.now()


def test_frozen_operator_gives_its_rows_free(pair: Pair, tmp_path: Path) -> None:
    program = tmp_path / "frozen.py"
    program.write_text(f"""
from sqlalchemy import make_url, text
from enrollgate.database import engine
engine._SESSION = engine._SESSION.replace(f"wait_timeout={{engine.IDLE_TIMEOUT}}", "wait_timeout=2")
database = engine.open_database(make_url({str_url(pair.address)!r}))
def change(connection):
    connection.execute(text("UPDATE download_tasks SET note = 'held'"))
    print("held", flush=True)
    input()
database.run_in_transaction(change)
""")
    with closing(World(str_url(pair.old))) as world:
        task = world.add("processing")
        with subprocess.Popen(
            [sys.executable, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ) as process:
            try:
                assert process.stdout is not None and process.stdout.readline() == b"held\n"
                process.send_signal(signal.SIGSTOP)
                execute(
                    str_url(pair.old),
                    "SET SESSION innodb_lock_wait_timeout = 50",
                    f"USE {pair.old.database}",
                    f"UPDATE download_tasks SET note = 'mine' WHERE id = {task}",
                )
            finally:
                process.kill()
        with world.database.read_transaction() as connection:
            note = connection.execute(text("SELECT note FROM download_tasks")).scalar_one()
        assert note == "mine"


def test_sessions_are_ended_before_node_gives_up_a_row(pair: Pair) -> None:
    with closing(open_database(pair.address)) as database:
        with database.read_transaction() as connection:
            row = connection.execute(
                text("SELECT @@wait_timeout, @@global.innodb_lock_wait_timeout")
            ).one()
    assert 0 < row[0] < row[1]


def test_server_without_a_free_connection_is_waited_for(pair: Pair) -> None:
    """MySQL: at least 1; MariaDB: at least 10."""
    with ExitStack() as stack:
        database = stack.enter_context(closing(open_database(pair.address)))
        with closing(connect(pair.old)) as administrator, administrator.cursor() as cursor:
            cursor.execute("SELECT @@global.max_connections")
            ((before,),) = cursor.fetchall()
            cursor.execute("SET GLOBAL max_connections = 10")
            try:
                with suppress(pymysql.err.OperationalError):
                    for _ in range(20):
                        stack.enter_context(closing(connect(pair.address)))
                with pytest.raises(DatabaseUnavailable, match="1040.*raise max_connections"):
                    database.now()
            finally:
                cursor.execute(f"SET GLOBAL max_connections = {before}")
        database.now()


@pytest.mark.parametrize(
    ("limit", "remedy"),
    [
        ("MAX_USER_CONNECTIONS 1", "MAX_USER_CONNECTIONS|limit is reached"),
        ("MAX_QUERIES_PER_HOUR 1", "limit is reached: ALTER USER"),
        ("MAX_CONNECTIONS_PER_HOUR 1", "limit is reached: ALTER USER"),
    ],
)
def test_accounts_limit_is_waited_for_in_its_own_words(pair: Pair, limit: str, remedy: str) -> None:
    who = f"{pair.address.username}@'%'"
    execute(str_url(pair.old), f"ALTER USER {who} WITH {limit}")
    with ExitStack() as stack:
        if "QUERIES" not in limit:
            stack.enter_context(closing(connect(pair.address)))
        database = stack.enter_context(closing(open_database(pair.address)))
        with pytest.raises(DatabaseUnavailable, match=rf"error (1203|1226)\): .*({remedy})"):
            database.now()
        execute(str_url(pair.old), f"ALTER USER {who} WITH {limit[:-1]}0")
        database.now()


def connect(url: URL) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
    return pymysql.connect(
        host=url.host or "",
        port=url.port or 0,
        user=url.username or "",
        password=str(url.password),
        autocommit=True,
    )


def test_server_that_refuses_get_lock_works(pair: Pair) -> None:
    """As Percona XtraDB Cluster in its strict mode; a proxy refuses the statement."""
    pair.proxy.refused, pair.proxy.refusal = b"GET_LOCK", GET_LOCK_REFUSED
    with closing(connect(pair.address)) as connection, connection.cursor() as cursor:
        with pytest.raises(PyMySQLOperationalError, match="pxc_strict_mode"):
            cursor.execute("SELECT GET_LOCK('any', 1)")
    with closing(open_database(pair.address)) as database:
        migrate(database)
    with closing(World(str_url(pair.address), create=True)) as world:
        good, late = world.add("enrolled"), world.add("processing")
        world.reconcile()
        world.launcher.succeed(f"test-{good}-1")
        world.clock.advance(300)
        world.reconcile()
        assert (world.status(good), world.status(late)) == ("completed", "failed")
    assert pair.proxy.refusals == 1
