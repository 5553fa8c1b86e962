"""What people see on a terminal: titles and statuses as they are, brackets included."""

import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url
from tests.databases import Server
from tests.databases.server import fresh_database
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture
from tests.terminal import Terminal
from tests.world import World

from enrollgate.commands import status
from enrollgate.database import open_database
from enrollgate.domain.report import Report

pytestmark = pytest.mark.slow

ENROLLGATE = [sys.executable, "-m", "enrollgate"]


def environment(**settings: str) -> dict[str, str]:
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")
    }
    path = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return others | path | {f"ENROLLGATE_{name}": value for name, value in settings.items()}


def work_environment(site: FaultySite, tmp_path: Path) -> dict[str, str]:
    return environment(
        TASK_ID="7",
        COURSE_URL=f"{site.url}/feed",
        SCRATCH_DIR=str(tmp_path / "scratch"),
        REPORT_PATH=str(tmp_path / "report.json"),
        DESTINATION=f"directory:{tmp_path / 'out'}",
        ALLOWED_HOSTS=site.host,
        DOWNLOADS="1",
    )


def test_the_progress_bar_shows_titles_unchanged(
    tmp_path: Path,
) -> None:
    titles = ["L [/x] 1", "[final] :cat: 2", "[red]3[/]"]
    with FaultySite(
        [Lecture(title, lecture(300_000, n)) for n, title in enumerate(titles)]
    ) as site:
        site.rate = 400_000
        with Terminal([*ENROLLGATE, "work"], work_environment(site, tmp_path)) as terminal:
            assert terminal.wait() == 0, terminal.text
    assert Report.decode((tmp_path / "report.json").read_text()).items_delivered == 3
    shown = terminal.text
    for title in titles:
        assert re.search(rf"{re.escape(title)} +[━╸╺ ]+ +[0-9.]+/[0-9.]+ [kM]?B", shown), (
            title,
            shown,
        )
    assert re.search(r"items +[━╸╺ ]+ +3/3 *\r?\n", shown), (
        "items must be counted, not measured in bytes"
    )
    assert "Traceback" not in shown and "🐱" not in shown


def test_a_run_continues_when_its_terminal_is_closed(tmp_path: Path) -> None:
    with FaultySite([Lecture(f"Lecture {n}", lecture(200_000, n)) for n in range(3)]) as site:
        site.rate = 300_000
        master, slave = os.openpty()
        process = subprocess.Popen(
            [*ENROLLGATE, "work"],
            env=work_environment(site, tmp_path),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        seen = b""
        while b"items" not in seen:
            seen += os.read(master, 65536)
        os.close(master)
        assert process.wait(timeout=120) == 0
    assert Report.decode((tmp_path / "report.json").read_text()).items_delivered == 3


@pytest.mark.parametrize(
    "text", ["[/oops]", "[final]", "[red]x[/]", ":cat:", "\x1b[31mred", "two\nlines"]
)
def test_status_shows_markup_and_controls_as_plain_text(sqlite_url: str, text: str) -> None:
    with closing(World(sqlite_url)) as world:
        world.add(text)
        failed = world.add("enrolled")
        world.reconcile()
        world.launcher.fail(f"test-{failed}-1")
        world.reconcile()
        world.sql("UPDATE enrollgate_runs SET message = :message", message=f"the site said {text}")
        world.sql("UPDATE enrollgate_runs SET reason = 'FromAnotherVersion'")
        with Terminal([*ENROLLGATE, "status"], environment(DATABASE_URL=sqlite_url)) as terminal:
            assert terminal.wait() == 0, terminal.text
        escaped = text.replace("\x1b", "\\x1b").replace("\n", "\\n")
        assert re.search(rf"^  {re.escape(escaped)} ", terminal.text, re.M), terminal.text
        assert f"the site said {escaped}" in " ".join(terminal.text.split()), terminal.text
        assert "FromAnotherVersion" in terminal.text and "\x1b[31mred" not in terminal.raw


@pytest.mark.parametrize("text", ["[/oops]", "[final]", ":cat:", "\x1b[31mred"])
def test_doctor_shows_markup_and_controls_as_plain_text(
    sqlite_url: str, tmp_path: Path, text: str
) -> None:
    with closing(World(sqlite_url)) as world:
        world.add(text)
    settings = environment(
        DATABASE_URL=sqlite_url, WORK_DIR=str(tmp_path), DESTINATION=f"directory:{tmp_path}/[/x]"
    )
    with Terminal([*ENROLLGATE, "doctor"], settings) as terminal:
        assert terminal.wait() == 0, terminal.text
    assert (
        f"warning statuses found: {text.replace(chr(27), chr(92) + 'x1b')}: 1; without a meaning:"
        in terminal.text
    )
    assert f"{tmp_path}/[/x] does not exist yet" in terminal.text
    assert "\x1b[31mred" not in terminal.raw


def test_watch_shows_changes_and_waits_for_a_database_that_is_away(
    own_mariadb: Server,
) -> None:
    with fresh_database(own_mariadb.url("")) as url, closing(World(url)) as world:
        task = world.add("processing")
        with Terminal(
            [*ENROLLGATE, "status", "--watch"], environment(DATABASE_URL=url)
        ) as terminal:
            terminal.await_text("waiting for the enrollment")
            world.set(task, "completed")
            terminal.await_text("at its destination")
            own_mariadb.kill()
            terminal.await_text("the database is unavailable, trying again")
            own_mariadb.start()
            with closing(open_database(make_url(url))) as database:
                database.run_in_transaction(
                    lambda c: c.exec_driver_sql("UPDATE download_tasks SET status = 'odd'")
                )
            terminal.await_text("unknown status: ignored")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.wait() == 0, terminal.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_watch_ends_when_a_finalizer_swallows_the_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    loads = []

    def load() -> str:
        Finalized()
        loads.append(1)
        assert len(loads) < 3, "the watch goes on"
        return ""

    monkeypatch.setattr(status, "_WATCH_INTERVAL", 0)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            status._watch(load)
    finally:
        signal.signal(signal.SIGINT, before)
