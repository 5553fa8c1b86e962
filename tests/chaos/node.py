"""What Node.js does in the chaos suite, and a history of every write to its rows.

Triggers write the history in the same transactions, so it is true whoever was killed when. It says
which user wrote, and what the row was at that moment. Node.js uses one user, the operators another
with the privileges that the README names, and no more.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pymysql
from sqlalchemy import URL, make_url
from tests.chaos.course_site import Course, WatchfulSite
from tests.databases.schema import create_tasks_table

from enrollgate.domain.account import cookies_name

WAITING = ("pending", "paid", "processing")
OPEN = (*WAITING, "enrolled")
# A status that nobody documents.
ODD = "archived"
# The note of rows that the database lets no operator update.
REFUSED = "refused"
OPERATOR, PASSWORD = "operator", "only-for-tests"
# What the database says to an operator that writes to such a row.
REFUSAL = "this row is locked by the accountants"
# What Node.js does seldom.
UNUSUAL = ("flip", "replace", "correct", "delete", "refuse")
# Seconds without any change after which nothing is expected any more.
QUIET_TIME = 300.0
_COLUMNS = ("status", "email", "course_url", "note")


@dataclass(frozen=True)
class Row:
    """What Node.js's columns were. None stands for a row that did not exist."""

    status: str | None
    email: str | None
    course_url: str | None
    note: str | None


@dataclass(frozen=True)
class Wanted:
    """What a row asks for: a course, for an account."""

    course: Course
    account: str


@dataclass(frozen=True)
class Write:
    """One write to a row, in the order in which the writes happened."""

    task_id: int
    by_operator: bool
    before: Row | None
    after: Row | None


class Node:
    """Writes rows as an application does; while the database is away, writes fail and are lost.

    `url` is that of the server's administrator, with the name of an empty database.
    """

    def __init__(self, url: str, site: WatchfulSite, cookies: Path) -> None:
        self._url = make_url(url)
        self.site = site
        self._cookies = cookies
        # How often Node.js did what is UNUSUAL.
        self.done = Counter[str]()
        # What the row of each task asked for last.
        self.wanted: dict[int, Wanted] = {}

    @property
    def operator_url(self) -> str:
        """Return the URL for the operators' own user."""
        url = URL.create(
            "mysql", OPERATOR, PASSWORD, self._url.host, self._url.port, self._url.database
        )
        return url.render_as_string(hide_password=False)

    def create_tables(self) -> None:
        """Create the table, its history, and rows that concern nobody."""
        old, new = (", ".join(f"{row}.{column}" for column in _COLUMNS) for row in ("OLD", "NEW"))
        none = ", ".join(["NULL"] * len(_COLUMNS))
        images = ", ".join(
            f"{image}_{column} TEXT" for image in ("old", "new") for column in _COLUMNS
        )
        self.execute(
            create_tasks_table(is_sqlite=False),
            "CREATE INDEX ix_status ON download_tasks (status)",
            "CREATE TABLE history (number BIGINT PRIMARY KEY AUTO_INCREMENT, "
            f"author VARCHAR(80), task_id BIGINT, existed BOOL, exists_now BOOL, {images})",
            *(
                f"CREATE TRIGGER history_{event} AFTER {event} ON download_tasks FOR EACH ROW "
                f"INSERT INTO history VALUES (NULL, USER(), {task}, {existed}, {now}, {values})"
                for event, task, existed, now, values in (
                    ("INSERT", "NEW.id", 0, 1, f"{none}, {new}"),
                    ("UPDATE", "NEW.id", 1, 1, f"{old}, {new}"),
                    ("DELETE", "OLD.id", 1, 0, f"{old}, {none}"),
                )
            ),
            "CREATE TRIGGER refusal BEFORE UPDATE ON download_tasks FOR EACH ROW "
            f"IF OLD.note = '{REFUSED}' AND USER() LIKE '{OPERATOR}@%' THEN "
            f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{REFUSAL}'; "
            "END IF",
            "INSERT INTO download_tasks (id, status, email, course_url) VALUES "
            "(900001, 'completed', 'old@example.com', 'https://courses.example.com/old'), "
            "(900002, 'failed', 'old@example.com', 'https://courses.example.com/old'), "
            f"(900003, '{ODD}', 'old@example.com', 'https://courses.example.com/old'), "
            "(900004, NULL, NULL, NULL)",
        )

    def create_operator(self) -> None:
        """Create the operators' user. Their tables must exist."""
        tables = [
            row[0] for row in self.query("SHOW TABLES") if str(row[0]).startswith("enrollgate_")
        ]
        self.execute(
            f"CREATE USER {OPERATOR}@'%' IDENTIFIED BY '{PASSWORD}'",
            f"GRANT SELECT, UPDATE (status) ON download_tasks TO {OPERATOR}@'%'",
            *(
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {OPERATOR}@'%'"
                for table in tables
            ),
        )

    @contextmanager
    def _connect(self) -> Iterator[pymysql.cursors.Cursor]:
        connection = pymysql.connect(
            host=self._url.host or "",
            port=self._url.port or 3306,
            user=self._url.username or "",
            password=str(self._url.password),
            database=self._url.database,
            autocommit=True,
            charset="utf8mb4",
            connect_timeout=10,
            read_timeout=30,
        )
        with closing(connection), connection.cursor() as cursor:
            yield cursor

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Return the rows of a SELECT."""
        with self._connect() as cursor:
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()]

    def execute(self, *statements: str) -> None:
        """Execute statements, each in a transaction of its own."""
        with self._connect() as cursor:
            for statement in statements:
                cursor.execute(statement)

    # The writers

    def add(self, task_id: int, status: str) -> None:
        """Insert a row for a new task."""
        self.execute(self._insert("INSERT", task_id, 1, status))

    def replace(self, task_id: int, status: str, random: Random) -> None:
        """Put another row in a task's place, perhaps under its live run."""
        version = self.wanted[task_id].course.version + 1
        if random.random() < 0.5:
            self.execute(self._insert("REPLACE", task_id, version, status))
        else:
            self.execute(f"DELETE FROM download_tasks WHERE id = {task_id}")
            self.execute(self._insert("INSERT", task_id, version, status))
        self.done["replace"] += 1

    def correct(self, task_id: int, random: Random) -> None:
        """Give a task another course or another account, perhaps under its live run."""
        before = self.wanted[task_id]
        version = before.course.version + 1
        if random.random() < 0.5:
            self.wanted[task_id] = Wanted(Course(task_id, version), before.account)
        else:
            self.wanted[task_id] = Wanted(before.course, _account(task_id, version))
        wanted = self._prepare(task_id, "enrolled")
        self.execute(
            f"UPDATE download_tasks SET status = 'enrolled', email = '{wanted.account}', "
            f"course_url = '{self.site.course_url(wanted.course.name)}' "
            f"WHERE id = {task_id} AND status <> 'completed'"
        )
        self.done["correct"] += 1

    def _insert(self, verb: str, task_id: int, version: int, status: str) -> str:
        self.wanted[task_id] = Wanted(Course(task_id, version), _account(task_id, version))
        wanted = self._prepare(task_id, status)
        return (
            f"{verb} INTO download_tasks (id, status, email, course_url) VALUES ({task_id}, "
            f"'{status}', '{wanted.account}', '{self.site.course_url(wanted.course.name)}')"
        )

    def _prepare(self, task_id: int, status: str) -> Wanted:
        """Do what comes before the write: cookies and, if it is due, the enrollment."""
        wanted = self.wanted[task_id]
        path = self._cookies / cookies_name(wanted.account)
        path.write_text(self.site.cookies_file(wanted.account))
        if status == "enrolled":
            self.site.enroll(wanted.account, wanted.course.name)
        return wanted

    def write_status(self, task_id: int, status: str) -> None:
        """Set a task's status, whatever it is now; only a completed one is left alone."""
        self._prepare(task_id, status)
        self.execute(
            f"UPDATE download_tasks SET status = '{status}' "
            f"WHERE id = {task_id} AND status <> 'completed'"
        )

    def flip(self, task_id: int, random: Random) -> None:
        """Set a task to any status that an application writes."""
        statuses = [*WAITING, *["enrolled"] * 4, "failed", ODD]
        self.write_status(task_id, random.choice(statuses))
        self.done["flip"] += 1

    def delete(self, task_id: int) -> None:
        """Delete a task's row."""
        self.execute(f"DELETE FROM download_tasks WHERE id = {task_id}")
        self.done["delete"] += 1

    def refuse(self, task_id: int) -> None:
        """Let the database refuse what operators write to this row."""
        self.execute(f"UPDATE download_tasks SET note = '{REFUSED}' WHERE id = {task_id}")
        self.done["refuse"] += 1

    def accept_all(self) -> None:
        """Let the database accept everything again."""
        self.execute(f"UPDATE download_tasks SET note = 'Node.js' WHERE note = '{REFUSED}'")

    # What happened

    def history(self) -> list[Write]:
        """Return every write so far."""
        return [
            Write(
                int(str(task_id)),
                str(author).startswith(f"{OPERATOR}@"),
                _row(images[: len(_COLUMNS)]) if existed else None,
                _row(images[len(_COLUMNS) :]) if exists_now else None,
            )
            for author, task_id, existed, exists_now, *images in self.query(
                "SELECT author, task_id, existed, exists_now, "
                + ", ".join(f"{image}_{column}" for image in ("old", "new") for column in _COLUMNS)
                + " FROM history ORDER BY number"
            )
        ]

    def completed(self) -> list[Wanted]:
        """Return what operators have completed, as their rows were at that moment."""
        found = list[Wanted]()
        for write in self.history():
            if write.by_operator and write.after and write.after.status == "completed":
                match = re.search(r"/courses/(\d+)-(\d+)/feed$", write.after.course_url or "")
                assert match, f"no course has the URL {write.after.course_url}"
                course = Course(int(match[1]), int(match[2]))
                found.append(Wanted(course, write.after.email or ""))
        return found

    def all_courses(self) -> list[Course]:
        """Return every course that a row has ever named."""
        return [
            Course(task_id, version)
            for task_id, wanted in self.wanted.items()
            for version in range(1, wanted.course.version + 1)
        ]

    def count_open(self) -> int:
        """Return how many tasks are open, and how many runs unfinished."""
        statuses = ", ".join(f"'{status}'" for status in OPEN)
        [(count,)] = self.query(
            f"SELECT (SELECT COUNT(*) FROM download_tasks WHERE status IN ({statuses})) "
            "+ (SELECT COUNT(*) FROM enrollgate_runs WHERE active = 1)"
        )
        return int(str(count))

    def wait_until_quiet(self, watch: Callable[[], object]) -> None:
        """Wait until no task is open and no run unfinished, however slow the machine is.

        `watch` is called again and again. It returns what changes while runs make progress. Raises
        AssertionError if neither that nor a row has changed for QUIET_TIME.
        """
        seen, changed_at = None, time.monotonic()
        while self.count_open():
            now = watch(), self.query("SELECT COUNT(*) FROM history")
            if now != seen:
                seen, changed_at = now, time.monotonic()
            if time.monotonic() - changed_at > QUIET_TIME:
                rows = self.query("SELECT id, status FROM download_tasks WHERE id < 900000")
                runs = self.query("SELECT name, state FROM enrollgate_runs WHERE active = 1")
                raise AssertionError(f"nothing moves: rows {rows}; unfinished runs {runs}")
            time.sleep(0.3)


def _row(images: list[object]) -> Row:
    return Row(*(None if image is None else str(image) for image in images))


def _account(task_id: int, version: int) -> str:
    return f"account-{task_id}-{version}@example.com"
