"""The page in real Chromium, beside a real operator with live runs on a slow course site.

The screenshots of docs/page.md come from here: with ENROLLGATE_SCREENSHOTS=docs/images they are
written to that folder.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, Dialog, Error, Page, ViewportSize, expect, sync_playwright
from sqlalchemy import make_url
from tests.conftest import absent
from tests.e2e.operator_process import OperatorProcess, course_site, wait_until
from tests.repository import REPOSITORY
from tests.tcp_proxy import TcpProxy
from tests.world import COURSE, WITHOUT_HOLDS, World

from enrollgate.database.engine import database_clock
from enrollgate.database.task_status import ensure_view
from enrollgate.domain.account import account_sha256
from enrollgate.domain.observation import Phase
from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import FailedItem, LeftOutItem, Report

# Milliseconds to wait for what must appear; generous, since machines are slow at times.
PATIENT = 60_000
# Where the screenshots are written to, if at all.
SCREENSHOTS = os.environ.get("ENROLLGATE_SCREENSHOTS")
DESKTOP, PHONE = ViewportSize(width=1200, height=900), ViewportSize(width=360, height=740)


@dataclass
class Site:
    """The page's URL, its operator, and a browser. `problems` is what the browser complained of."""

    url: str
    operator: OperatorProcess
    browser: Browser
    axe: str
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def open(self, path: str, *, dark: bool = False, phone: bool = False) -> Iterator[Page]:
        """Open a page in a fresh profile, and note errors and requests to other hosts."""
        with self.browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport=PHONE if phone else DESKTOP,
        ) as context:
            page = context.new_page()
            page.set_default_timeout(PATIENT)
            page.on("console", lambda message: self._note(message.type, message.text))
            page.on("pageerror", lambda error: self._note("error", str(error)))
            page.on("request", lambda request: self._check_host(request.url))
            page.goto(self.url + path)
            yield page

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(text)

    def _check_host(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.url).netloc:
            self.problems.append(f"a request to {url}")


@pytest.fixture(scope="module")
def tools() -> tuple[str, str]:
    """Return the paths of Chromium and of axe-core."""
    done = subprocess.run(
        [REPOSITORY / "scripts/chromium"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        absent("chromium", done.stderr.strip()[-300:])
    chromium, axe = done.stdout.split()
    return chromium, Path(axe).read_text(encoding="utf-8")


@contextmanager
def page_process(environment: dict[str, str], log: Path) -> Iterator[str]:
    """Run `enrollgate web`, and yield its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "enrollgate", "web"],
            env=environment | {"ENROLLGATE_WEB__PORT": str(port)},
            stderr=stream,
        )
    try:
        wait_until(lambda: _answers(port), log.read_text)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the operator. Readers of the docs see its name: for them it is in /srv."""
    if SCREENSHOTS is None:
        yield tmp_path_factory.mktemp("page")
        return
    chosen = Path("/srv/enrollgate")
    chosen.mkdir(parents=True)  # never one that is in use
    try:
        yield chosen
    finally:
        shutil.rmtree(chosen)


@pytest.fixture(scope="module")
def site(tools: tuple[str, str], folder: Path) -> Iterator[Site]:
    """Have one failed task (1), one live run (2), and one task that waits (3)."""
    chromium, axe = tools
    with course_site(throttle=12_000) as courses:
        operator = OperatorProcess(folder, f"sqlite:///{folder / 'tasks.db'}", courses)
        operator.create_table()
        operator.start()
        try:
            operator.add(1, "bread", status="processing")
            # The site knows nothing of this enrollment.
            operator.sql("UPDATE download_tasks SET status = 'enrolled' WHERE id = 1")
            operator.wait_for_status(1, "failed")
            operator.add(2, "ceramics")
            operator.add(3, "harmony", status="processing")
            wait_until(lambda: len(operator.runs()) == 2, lambda: operator.log)
            with (
                page_process(operator.environment, folder / "web.log") as url,
                sync_playwright() as playwright,
                playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
                ) as browser,
            ):
                yield Site(url, operator, browser, axe)
        finally:
            operator.stop_all()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def screenshot(page: Page, name: str) -> None:
    if SCREENSHOTS is not None:
        assert "/tmp/" not in page.content() and "pytest" not in page.content()
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


def test_progress_moves_without_a_reload_and_can_be_paused(site: Site) -> None:
    with site.open("/") as page:
        page.evaluate("window.notReloaded = true")
        row = page.locator("#run-table tr", has=page.get_by_role("link", name="2", exact=True))
        expect(row.locator("progress")).to_have_attribute("value", re.compile(r"\d"))
        first = row.locator(".figures").inner_text()
        link = row.get_by_role("link", name="2", exact=True)
        link.focus()
        expect(row.locator(".figures")).not_to_have_text(first, timeout=PATIENT)
        assert page.evaluate("window.notReloaded") is True
        expect(link).to_be_focused()
        expect(page.get_by_role("status")).to_have_text("Up to date")
        screenshot(page, "overview")

        page.get_by_role("button", name="Pause updates").click()
        expect(page.get_by_role("status")).to_have_text("Paused")
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.wait_for_timeout(3_000)
        assert requests == []
    assert site.problems == []


def test_a_failure_shows_its_remedy_and_a_search_its_task(site: Site) -> None:
    with site.open("/") as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        expect(page.locator("#failures")).to_contain_text("What to do:")
        page.get_by_label("Task id or link").fill("1")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Task 1")
        expect(page.locator("#state")).to_contain_text("What to do:")
        expect(page.locator("#timeline li").first).to_contain_text("first seen")
        expect(page.locator("#log-lines")).to_contain_text("[ATTEMPT 1/3]")
        expect(page.locator("dl")).to_contain_text("a***@example.com")
        screenshot(page, "failed-task")
        page.get_by_label("Task id or link").fill("ceramics")
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Task 2")
        expect(page.locator("#state progress")).to_be_visible()
    assert site.problems == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_serious_problem_also_on_a_phone(site: Site, dark: bool) -> None:
    for phone in (False, True):
        with site.open("/", dark=dark, phone=phone) as page:
            for path in ("/", "/runs", "/failures", "/tasks/1", "/tasks/2", "/tasks/99", "/search"):
                if path != "/":
                    page.goto(site.url + path)
                width = page.evaluate("document.documentElement.scrollWidth")
                assert width <= page.evaluate("window.innerWidth"), (path, width)
                # By the debugger, which no policy stops; the page itself could not load it.
                page.evaluate(site.axe)
                found = page.evaluate("axe.run().then(result => result.violations)")
                serious = [
                    (each["id"], each["help"], [node["html"][:200] for node in each["nodes"]][:3])
                    for each in found
                    if each["impact"] in ("serious", "critical")
                ]
                assert not serious, (path, phone, serious)
            if phone and dark:
                page.goto(site.url + "/")
                screenshot(page, "phone-dark")
    problems = [each for each in site.problems if "404" not in each]
    site.problems.clear()
    assert problems == []


def test_the_page_says_when_it_gets_no_answer(site: Site) -> None:
    with site.open("/") as page:
        page.context.set_offline(True)
        expect(page.get_by_role("status")).to_have_text("No answer; trying again")
        page.context.set_offline(False)
        expect(page.get_by_role("status")).to_have_text("Up to date")
    site.problems.clear()  # Chromium writes failed requests to its console


def test_a_page_that_met_no_database_shows_itself_when_it_is_back(
    site: Site, mariadb_url: str, tmp_path: Path
) -> None:
    with closing(World(mariadb_url)) as world:
        world.add("processing")
        world.reconcile()
        ensure_view(world.database, world.tables, "enrollgate")
    server = make_url(mariadb_url)
    assert server.port is not None
    with TcpProxy(1) as proxy:  # nobody listens there
        url = server.set(drivername="mysql", port=proxy.port)
        environment = site.operator.environment | {
            "ENROLLGATE_DATABASE_URL": url.render_as_string(hide_password=False)
        }
        with page_process(environment, tmp_path / "web.log") as address:
            for path, heading in (("/", "Overview"), ("/tasks/1", "Task 1"), ("/runs", "Runs")):
                proxy.switch(1)
                proxy.cut()
                with replace(site, url=address).open(path) as page:
                    title = page.get_by_role("heading", level=1)
                    expect(title).to_have_text("The database does not answer", timeout=PATIENT)
                    expect(page.get_by_role("status")).to_have_text("No answer; trying again")
                    proxy.switch(server.port)
                    expect(title).to_have_text(heading, timeout=PATIENT)
                    expect(page.get_by_role("status")).to_have_text("Up to date")
    site.problems.clear()  # Chromium writes each HTTP 503 to its console


def test_a_task_that_is_inserted_while_its_page_is_open_appears(site: Site) -> None:
    with site.open("/tasks/77") as page:
        expect(page.locator("main")).to_contain_text("no row with the id 77")
        site.operator.add(77, "harmony", status="paid")
        expect(page.locator("#state")).to_contain_text("waiting", timeout=PATIENT)
        expect(page.locator("main")).not_to_contain_text("no row with the id 77")
        expect(page.locator("dl")).to_contain_text("a***@example.com")
        expect(page.get_by_role("status")).to_have_text("Up to date")
    site.problems.clear()  # Chromium writes each HTTP 404 to its console


# What a row, a site or a person may write: markup, marks that turn the direction of text, control
# characters, one endless word, and emoji of several characters.
HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</pre></title></table><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% include 'base.html' %}",
    "javascript:alert(1)//",
    "https://courses.example.com/\u202ecod.exe\u2066x",
    "a\x00b\x1b[31mc\u2028d",
    "w" * 2000,
    "\U0001f9d1\u200d\U0001f680" * 100,
)


@pytest.fixture
def hostile(sqlite_url: str) -> Iterator[World]:
    """Have hostile text in every column that others write: SQLite takes any."""
    # Every failure fails its task: a hold would keep the others enrolled.
    policy = replace(WITHOUT_HOLDS, max_concurrent_runs=100)
    with closing(World(sqlite_url, policy, database_clock=database_clock)) as world:
        ensure_view(world.database, world.tables, "test")
        for text in HOSTILE:
            world.add(text, email=text, url=text)
            world.add("enrolled", email=text, url=text)
            world.add("enrolled", email=f"{text}@{text}", url=f"{COURSE}?{quote(text)}")
            world.add("enrolled", email=f"ada@{text}")
        world.reconcile()
        for number, name in enumerate(world.launcher.live):
            text = HOSTILE[number % len(HOSTILE)]
            item = FailedItem(text, Reason.NETWORK_ERROR, text)
            report = Report(
                Reason.NETWORK_ERROR,
                text,
                destination_url=text,
                failed_items=(item,),
                left_out_items=(LeftOutItem(text, text),),
                remedy=text,
            )
            if number % 2:
                world.launcher.end(name, Phase.FAILED, report)
        world.reconcile()
        for text in HOSTILE:
            world.sql(
                "UPDATE enrollgate_runs SET percent = 1, current_item = :text, message = :text, "
                "remedy = :text, destination_url = :text WHERE id % :count = :number",
                text=text,
                count=len(HOSTILE),
                number=HOSTILE.index(text),
            )
            world.sql(
                "INSERT INTO enrollgate_holds (installation, kind, scope, subject, reason, "
                "message, remedy, opened_at, opened_by) VALUES ('test', 'hold', 'account', "
                ":account, :text, :text, :text, '2026-01-01 00:00:00.000000', :text)",
                account=account_sha256(f"ada@{text}"),
                text=text,
            )
        yield world


def test_hostile_text_is_only_text_in_a_browser_and_fits_a_phone(
    site: Site, hostile: World, tmp_path: Path
) -> None:
    settings = {"ENROLLGATE_DATABASE_URL": hostile.url, "ENROLLGATE_INSTALLATION": "test"}
    tasks = [f"/tasks/{number}" for number in range(1, 4 * len(HOSTILE) + 1)]
    searches = [f"/search?q={quote(text)}" for text in HOSTILE]
    reasons = [f"/failures?reason={quote(text)}" for text in HOSTILE]
    pages = ["/", "/runs", "/failures", *tasks, *searches, *reasons, f"/{quote(HOSTILE[0])}"]
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    with page_process(site.operator.environment | settings, tmp_path / "web.log") as address:
        opened = replace(site, url=address, problems=[])
        with opened.open("/", phone=True) as page:
            page.on("dialog", note)
            for path in pages:
                page.goto(address + path)
                text = page.locator("body").inner_text()
                assert "Enrollgate" in text and "does not answer" not in text, path
                assert not set(text) & set("\0\x1b\u202e\u2066\u2028"), path
                width = page.evaluate("document.documentElement.scrollWidth")
                assert width <= page.evaluate("window.innerWidth"), (path, width)
                assert page.locator("img").count() == 1, path
                assert page.locator("a[href^=javascript]").count() == 0, path
        assert dialogs == []
        assert [each for each in opened.problems if "404" not in each] == []


def test_an_injected_script_does_not_run(site: Site) -> None:
    with site.open("/") as page:
        with pytest.raises(Error):
            page.add_script_tag(content="window.injected = true")
        assert page.evaluate("window.injected") is None
    site.problems.clear()
