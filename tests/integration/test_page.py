"""The page shows what the database holds, harms nobody, and costs little at any number of tasks.

The application is the real one, on a real port; each test asks it over HTTP.
"""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from pydantic import SecretStr
from sqlalchemy import Connection, event, make_url, text
from tests.databases.server import execute
from tests.repository import REPOSITORY
from tests.world import World

from enrollgate.database import Database, DatabaseMisconfigured, DatabaseUnavailable, open_database
from enrollgate.database.task_status import ensure_view
from enrollgate.domain.reasons import Reason, explain
from enrollgate.settings.web import WebSettings
from enrollgate.web.pages import Pages
from enrollgate.web.server import build_application, is_authorized

TOKEN = "0123456789abcdef"
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"
PAGES = (
    "/",
    "/runs",
    "/failures",
    "/failures?reason=AccessDenied",
    "/tasks/1",
    "/tasks/2",
    "/tasks/3",
    "/search?q=courses.example.com",
)
# How a server reads a few rows by a key:
# https://dev.mysql.com/doc/refman/8.4/en/explain-output.html#explain-join-types
BY_KEY = {"const", "system", "eq_ref", "ref", "range"}
BY_KEY |= {"ref_or_null", "unique_subquery", "index_subquery"}
Answer = tuple[int, Mapping[str, str], str]
Get = Callable[..., Awaitable[Answer]]


def browse(
    database: Database,
    world: World,
    visit: Callable[[Get], Awaitable[None]],
    settings: WebSettings | None = None,
    work_dir: Path = Path("/nonexistent"),
) -> None:
    """Serve the page, and let `visit` ask it."""

    async def run() -> None:
        pages = Pages(
            database, world.tables, installation="test", work_dir=work_dir, monotonic=lambda: 0.0
        )
        application = build_application(pages, settings or WebSettings())
        async with TestServer(application, host="127.0.0.1") as server, ClientSession() as client:

            async def get(path: str, method: str = "GET", **headers: str) -> Answer:
                url = server.make_url("/").join(server.make_url(path))
                async with client.request(method, url, headers=headers) as answer:
                    return answer.status, answer.headers, await answer.text()

            await visit(get)
        pages.close()

    asyncio.run(run())


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    """Have a running task (1), a failed one (2), and one with an unknown status (3)."""
    with closing(World(database_url)) as world:
        ensure_view(world.database, world.tables, "test")
        for status in ("enrolled", "enrolled", HOSTILE[:30]):
            world.add(status)
        world.reconcile()
        world.launcher.fail("test-2-1", Reason.ACCESS_DENIED)
        world.reconcile()
        world.sql("UPDATE enrollgate_runs SET message = :text WHERE task_id = 2", text=HOSTILE)
        url = "UPDATE download_tasks SET course_url = :url WHERE id"
        world.sql(f"{url} < 3", url=f"https://courses.example.com/{HOSTILE}")
        world.sql(f"{url} = 3", url="javascript:alert(1)")
        world.sql(
            "UPDATE enrollgate_runs SET percent = 42, items_done = 2, items_total = 5, "
            "bytes_done = 1500000, current_item = :item WHERE task_id = 1",
            item=HOSTILE,
        )
        yield world


class Tags(HTMLParser):
    """Every tag of a page, with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_no_text_from_outside_becomes_a_script_or_a_link(world: World) -> None:
    async def visit(get: Get) -> None:
        for path in (*PAGES, f"/search?q={HOSTILE}", f"/failures?reason={HOSTILE}", f"/{HOSTILE}"):
            status, headers, page = await get(path)
            tags = Tags(page).tags
            assert status in (200, 404), (path, page)
            assert [each.get("src") for tag, each in tags if tag == "script"] == ["/static/page.js"]
            assert {each.get("src") for tag, each in tags if tag == "img"} == {"/static/icon.svg"}
            for _tag, attributes in tags:
                assert not [name for name in attributes if name.startswith("on") or name == "style"]
                assert (attributes.get("href") or "/").startswith(("/", "#", "http"))
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert "49" not in re.findall(r"\b\d+\b", page) and "ada@" not in page

    browse(world.database, world, visit)


def test_pages_show_progress_the_remedy_and_the_masked_account(world: World) -> None:
    async def visit(get: Get) -> None:
        _, _, running = await get("/tasks/1")
        assert 'value="42"' in running and "2 of 5 items" in running and "1.5 MB" in running
        assert "a***@example.com" in running
        _, _, overview = await get("/")
        assert 'value="42"' in overview and 'href="/tasks/1"' in overview
        for path in ("/", "/failures", "/failures?reason=AccessDenied", "/tasks/2"):
            page = re.sub(r"&#?\w+;", "'", (await get(path))[2])
            assert explain(Reason.ACCESS_DENIED).remedy.replace('"', "'")[:60] in page, path
        assert "none of the configured ones" in (await get("/tasks/3"))[2]
        status, _, missing = await get("/tasks/77")
        assert status == 404 and "no row with the id 77" in missing

    browse(world.database, world, visit)


def test_search_finds_an_id_a_course_and_a_delivered_link(world: World) -> None:
    world.sql("UPDATE enrollgate_runs SET destination_url = 'https://drive/x1' WHERE task_id = 2")

    async def visit(get: Get) -> None:
        for text_, expected in (("2", "Task 2"), ("drive/x1", "Task 2"), ("%", "No task")):
            assert expected in (await get(f"/search?q={text_.replace('%', '%25')}"))[2]
        found = (await get("/search?q=courses.example.com"))[2]
        assert re.findall(r">task (\d)<", found) == ["2", "1"]
        for odd in ("18446744073709551616", "9" * 400, "٣", "0x1", "--1"):
            assert (await get(f"/search?q={odd}"))[0] == 200
        assert (await get("/search?q=-1"))[0] == 404, "a task may have this id, and none has it"

    browse(world.database, world, visit)


def test_search_for_what_no_row_can_hold_finds_nothing(world: World) -> None:
    async def visit(get: Get) -> None:
        for odd in ("%00", "%00%00", "%1b", "%e2%80%ae", "%20%09%00", "%f0%9f%98%80", "%ff"):
            status, _, page = await get(f"/search?q={odd}")
            assert status == 200 and ">task 1<" not in page, (odd, page)
            assert (await get(f"/failures?reason={odd}"))[0] == 200, odd
        # A control character that was pasted with a link does not hide its task.
        for text_ in ("courses.example.com%00", "%07courses.example.com"):
            assert ">task 1<" in (await get(f"/search?q={text_}"))[2], text_

    browse(world.database, world, visit)


def test_search_for_any_text_works_on_a_column_of_latin1(mariadb_url: str) -> None:
    with closing(World(mariadb_url)) as world:
        world.sql(
            "ALTER TABLE download_tasks MODIFY course_url VARCHAR(255) CHARACTER SET latin1, "
            "ADD INDEX (course_url)"
        )
        world.add("processing")
        world.reconcile()
        ensure_view(world.database, world.tables, "test")

        async def visit(get: Get) -> None:
            for odd in ("%f0%9f%98%80", "%d0%b6"):
                status, _, page = await get(f"/search?q={odd}")
                assert status == 200 and "No task was found" in page, (odd, page)
            # Its collation takes this one for an `e`.
            assert "Task 1" in (await get("/search?q=cours%c3%a9s.example"))[2]

        browse(world.database, world, visit)


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


def test_the_page_answers_only_get_and_only_who_may_ask(mariadb_url: str) -> None:
    with closing(World(mariadb_url)) as world:

        async def visit_open(get: Get) -> None:
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
                assert (await get("/", method))[0] == 405
            assert (await get("/", "HEAD"))[0] == 200
            for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80"):
                status, headers, page = await get("/", Host=host)
                assert status == 421 and "ENROLLGATE_WEB__BEHIND_PROXY=true" in page
                assert "Content-Security-Policy" in headers
            for host in ("localhost", "LOCALHOST:1", "[::1]:8484", "127.0.0.1"):
                assert (await get("/", Host=host))[0] == 200

        async def visit_with_token(get: Get) -> None:
            for wrong in ("", "Basic", "Basic %", basic("x" * 16), f"Token {TOKEN}", "Bearer é"):
                status, headers, page = await get("/", Authorization=wrong)
                assert (status, headers["WWW-Authenticate"][:5]) == (401, "Basic")
                assert "as the password" in page and TOKEN not in page
            for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(TOKEN)):
                assert (await get("/", Authorization=right, Host="page.example"))[0] == 200
            assert (await get("/livez"))[0] == 200
            assert (await get("/static/page.css"))[0] == 401

        async def visit_behind_proxy(get: Get) -> None:
            assert (await get("/", Host="page.example"))[0] == 200

        browse(world.database, world, visit_open)
        browse(world.database, world, visit_with_token, WebSettings(token=SecretStr(TOKEN)))
        browse(world.database, world, visit_behind_proxy, WebSettings(behind_proxy=True))


def test_a_token_that_is_no_utf_8_is_wrong() -> None:
    # As aiohttp gives the byte 0xFF.
    assert not is_authorized({"Authorization": "Bearer \udcff"}, TOKEN)


def test_a_database_without_our_tables_is_explained(mariadb_url: str) -> None:
    with closing(World(mariadb_url, create=False)) as world:

        async def visit(get: Get) -> None:
            status, _, page = await get("/")
            assert status == 503 and "enrollgate migrate" in page, page

        browse(world.database, world, visit)


def test_the_log_of_a_local_run_is_shown_without_secrets(world: World, tmp_path: Path) -> None:
    world.sql(
        "UPDATE enrollgate_runs SET launcher = 'local', work_dir = :dir WHERE task_id = 1",
        dir=str(tmp_path),
    )
    log = tmp_path / "runs" / "test-1-1" / "log"

    async def visit(get: Get) -> None:
        assert "or was deleted after ENROLLGATE_RUN_TTL" in (await get("/tasks/1"))[2]
        log.parent.mkdir(parents=True)
        log.write_text("a line\n" * 9000 + f"Cookie: secret=1 of ada@example.com {HOSTILE}\n")
        page = (await get("/tasks/1"))[2]
        assert 90 < page.count("a line") <= 100 and "Cookie: ..." in page
        log.unlink()
        log.symlink_to("/etc/passwd")
        assert "root:" not in (await get("/tasks/1"))[2]

    browse(world.database, world, visit)


@contextmanager
def documented_reader(url: str) -> Iterator[Database]:
    """Make the account in docs/page.md, exactly as it is written, for this database."""
    page = (REPOSITORY / "docs/page.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    address = make_url(url)
    statements = block.replace("courses.", f"{address.database}.").split(";")
    execute(url, *(each.strip() for each in statements if each.strip()))
    try:
        reader = address.set(username="enrollgate_web", password="secret")
        with closing(open_database(reader)) as database:
            database.refuse_writes()
            yield database
    finally:
        execute(url, "DROP USER 'enrollgate_web'@'%'")


@pytest.mark.parametrize("world_on", ["mariadb", "mysql"])
def test_a_reader_opens_every_page_and_reads_few_rows(
    world_on: str, request: pytest.FixtureRequest
) -> None:
    url = str(request.getfixturevalue(f"{world_on}_url"))
    with closing(World(url)) as world:
        ensure_view(world.database, world.tables, "test")
        add_history(world, 4_000)
        with documented_reader(url) as reader:
            statements: list[tuple[str, Any]] = []

            @event.listens_for(reader.engine, "before_cursor_execute")
            def note(
                _connection: Connection, _cursor: object, statement: str, values: Any, *_: object
            ) -> None:
                if statement.startswith("SELECT"):
                    statements.append((statement, values))

            async def visit(get: Get) -> None:
                for path in PAGES:
                    status, _, page = await get(path)
                    assert status == 200, page

            browse(reader, world, visit)
            for statement, values in statements:
                check_plan(world, statement, values)
            assert len(statements) > 20
            with pytest.raises((DatabaseMisconfigured, DatabaseUnavailable)):
                reader.run_in_transaction(
                    lambda connection: connection.execute(text("DELETE FROM enrollgate_runs"))
                )


def add_history(world: World, rows: int) -> None:
    """Add completed and failed tasks with their runs, and tasks that wait."""
    world.add("processing")
    while world.scalar("SELECT COUNT(*) FROM download_tasks") < rows:
        world.sql(
            "INSERT INTO download_tasks (status, email, course_url) SELECT "
            "IF(RAND() < 0.1, 'processing', 'completed'), email, course_url FROM download_tasks"
        )
    now = world.database.now()
    world.sql(
        "INSERT INTO enrollgate_tasks (task_id, first_seen_at, last_seen_status) "
        "SELECT id, :now, status FROM download_tasks WHERE status = 'processing'",
        now=now,
    )
    world.sql(
        "INSERT INTO enrollgate_runs (task_id, run_number, name, installation, state, outcome, "
        "reason, claimed_at, launched_at, finished_at, destination_url) "
        "SELECT id, 1, CONCAT('test-', id, '-1'), 'test', "
        "IF(id % 500 = 0, 'launched', 'finished'), "
        "IF(id % 500 = 0, NULL, IF(id % 9 = 0, 'failed', 'succeeded')), "
        "IF(id % 9 = 0, 'AccessDenied', NULL), :now, :now, "
        "IF(id % 500 = 0, NULL, DATE_SUB(:now, INTERVAL id MINUTE)), 'https://drive/x' "
        "FROM download_tasks WHERE status = 'completed'",
        now=now,
    )
    for table in ("download_tasks", "enrollgate_tasks", "enrollgate_runs"):
        world.sql(f"ANALYZE TABLE {table}")


def check_plan(world: World, statement: str, values: Any) -> None:
    """Require that each of our tables, and Node.js's, is read by an index, or newest first."""
    with world.database.read_transaction() as connection:
        rows = (
            connection.exec_driver_sql(f"EXPLAIN FORMAT=TRADITIONAL {statement}", values)
            .mappings()
            .all()
        )
    for row in rows:
        name = str(row["table"] or "")
        is_ours = name.startswith(("enrollgate_", "download_tasks")) or name in ("run", "later")
        if is_ours and name != "enrollgate_operators":
            # MariaDB writes `ref|filter` if it intersects two indexes.
            kind = row["type"].partition("|")[0]
            newest_first = kind == "index" and "LIMIT" in statement
            assert kind in BY_KEY or newest_first, f"{statement}\n{dict(row)}"
