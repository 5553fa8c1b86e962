"""What the pages tell people to type: commands, settings, and the rehearsal of docs/from-pm2.md."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import typer.main
from sqlalchemy import inspect
from tests.repository import REPOSITORY, tracked_files
from tests.world import World
from typer.core import TyperGroup

from enrollgate.commands.cli import app

PAGES = [path for path in tracked_files() if path.suffix == ".md" and path.name != "CHANGELOG.md"]
FROM_PM2 = REPOSITORY / "docs" / "from-pm2.md"
_BLOCK = re.compile(r"^ *```(?P<language>\w+)\n(?P<text>.*?)^ *```", re.DOTALL | re.MULTILINE)
# Set by a launcher, by a test or by the Makefile; not by a person.
_NOT_SETTINGS = re.compile(
    r"ENROLLGATE_(TEST_|CHAOS_|SCREENSHOTS|CONFIG_FILE|SECRETS_DIR|COOKIES_FILE|COOKIES_NAME"
    r"|TASK_ID|RUN_NUMBER|COURSE_URL\b|SCRATCH_DIR|REPORT_PATH|FAILED_ATTEMPTS|ATTEMPT\b)"
)


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of a page in these languages."""
    text = page.read_text(encoding="utf-8")
    return [each["text"] for each in _BLOCK.finditer(text) if each["language"] in languages]


def commands(page: Path) -> list[list[str]]:
    """Return the words after `enrollgate` of each command on a page."""
    found = []
    for block in blocks(page, "sh", "text"):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"(?:\$ |.* -- (?:env \S+ )?| *)enrollgate (?=[a-z-])(.*)", line):
                command = re.split(r" (?:#|\||&&|>) ?", match[1])[0]
                found.append(shlex.split(command, comments=True))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    for words in commands(page):
        parse(words)


def parse(words: list[str]) -> None:
    """Parse a command line as the program does, without running it. Raises if it is wrong."""
    command = typer.main.get_command(app)
    if words in (["--version"], ["--help"]):
        return
    while isinstance(command, TyperGroup):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words)


@pytest.mark.parametrize("words", [["plans"], ["plan", "--jsn"], ["drive", "login"], ["explain"]])
def test_a_wrong_command_is_noticed(words: list[str]) -> None:
    with pytest.raises(Exception, match="plans|--jsn|client_secrets|task"):
        parse(words)


def test_the_pages_have_commands_at_all() -> None:
    assert commands(REPOSITORY / "docs" / "google.md")[0][:2] == ["drive", "login"]
    assert ["plan"] in commands(FROM_PM2)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_settings_that_a_page_names_exist(page: Path) -> None:
    listed = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    names = set(
        re.findall(r"\bENROLLGATE_[A-Z_]*[A-Z]\b(?![_*])", page.read_text(encoding="utf-8"))
    )
    unknown = {
        each for each in names if f"`{each}`" not in listed and not _NOT_SETTINGS.match(each)
    }
    assert not unknown


def test_rehearsal_from_pm2_prints_what_the_page_shows(sqlite_url: str, tmp_path: Path) -> None:
    """The page's settings are used as they are, but for the address, paths and the command."""
    (settings,) = blocks(FROM_PM2, "ini")
    lines = [line for line in settings.splitlines() if not line.startswith("#")]
    config = tmp_path / "enrollgate.env"
    config.write_text(
        "\n".join(
            f"ENROLLGATE_DATABASE_URL={sqlite_url}" if "DATABASE_URL" in line else line
            for line in lines
        )
    )
    inserts, rest = blocks(FROM_PM2, "sql")
    with closing(World(sqlite_url)) as world:
        world.sql(inserts.strip().removesuffix(";"))
        environment = {
            name: text for name, text in os.environ.items() if not name.startswith("ENROLLGATE_")
        }
        done = subprocess.run(
            [sys.executable, "-m", "enrollgate", "plan"],
            env=environment
            | {
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "COLUMNS": "100",
                "ENROLLGATE_CONFIG_FILE": str(config),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
        assert printed in FROM_PM2.read_text(encoding="utf-8"), printed
        with world.database.read_transaction() as connection:
            rows = connection.exec_driver_sql(rest.strip().removesuffix(";")).all()
        assert [row[0] for row in rows] == [3, 4, 5]


def test_removal_drops_all_tables_that_the_migration_creates(sqlite_url: str) -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^DROP TABLE (.+);$", page, re.MULTILINE)
    with closing(World(sqlite_url)) as world, world.database.read_transaction() as connection:
        created = set(inspect(connection).get_table_names()) - {"download_tasks"}
    assert set(line.split(", ")) == created
