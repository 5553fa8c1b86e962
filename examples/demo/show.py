"""The four cases of the contract, live on this machine.

A course site, generated media, SQLite, and the operator as users start it. The clock runs ten times
as fast as in production: enrolled after 3 s and 12 s, a timeout of 30 s. The demo also checks what
it shows. It succeeds only if each case ended as the contract says, and if the site's access log has
no request of an account before its row was `enrolled`.
"""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from examples.demo.site import CourseSite
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from enrollgate.domain.account import cookies_name

# Seconds that an enrollment may take; 300 in production.
ENROLLMENT_TIMEOUT = 30
# Seconds after which the demo stops waiting for cases that have not ended.
DEMO_TIMEOUT = 90

_CREATE = """
CREATE TABLE download_tasks (
  id INTEGER PRIMARY KEY, status TEXT NOT NULL, email TEXT NOT NULL, course_url TEXT NOT NULL
)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the contract: what Node.js writes and when, and how the case must end.

    `writes` has the seconds after the start, and the status that is written then.
    """

    task_id: int
    title: str
    account: str
    writes: tuple[tuple[float, str], ...]
    final_status: str
    reason: str | None = None


CASES = (
    Case(1, "quick enrollment", "ada@example.com", ((3, "enrolled"),), "completed"),
    Case(
        2,
        "slow enrollment",
        "bob@example.com",
        ((6, "paid"), (9, "processing"), (12, "enrolled")),
        "completed",
    ),
    Case(3, "enrollment failed", "cyd@example.com", ((5, "failed"),), "failed"),
    Case(4, "enrollment timeout", "dan@example.com", (), "failed", "EnrollmentTimeout"),
)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case ended, and what is wrong with that (empty: nothing)."""

    case: Case
    status: str
    outcome: str
    problem: str


@dataclass(frozen=True, slots=True)
class Run:
    """The latest run of a task, as the table `enrollgate_runs` has it."""

    state: str
    outcome: str | None
    reason: str | None

    def __str__(self) -> str:
        return f"run {self.outcome or self.state}" + (f" ({self.reason})" if self.reason else "")


def show(folder: Path, console: Console, *, keep_page: bool = False) -> bool:
    """Run the demo in `folder`, which is emptied first, and serve the page meanwhile.

    With `keep_page`, the operator and the page stay until Ctrl-C. Returns whether every case ended
    as the contract says.
    """
    folder = folder.resolve()
    _make_empty(folder)
    console.print("Generating lectures and starting the course site ...")
    with CourseSite() as site:
        _create_tasks(folder, site)
        enrolled_at: dict[int, float] = {}
        stop = threading.Event()
        with _operator(folder, site) as (operator, page_url):
            console.print(f"Watch the page: {page_url}")
            node = threading.Thread(
                target=_play_node, args=(folder, site, enrolled_at, stop), daemon=True
            )
            node.start()
            try:
                _watch(folder, console, operator)
                crashed = operator.poll() is not None
            finally:
                stop.set()
                node.join()
            if crashed:
                _report_crash(operator, folder, console)
                return False
            results = [_evaluate(case, folder, site, enrolled_at) for case in CASES]
            _print_results(results, folder, console)
            if keep_page:
                console.print(f"The page stays open until Ctrl-C: {page_url}")
                with suppress(KeyboardInterrupt):
                    operator.wait()
    return all(not result.problem for result in results)


def _make_empty(folder: Path) -> None:
    marker = folder / ".enrollgate-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SystemExit(
            f"enrollgate: {folder} is not empty and not of a demo: use another --folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def _create_tasks(folder: Path, site: CourseSite) -> None:
    cookies = folder / "cookies"
    cookies.mkdir()
    with closing(_connect(folder)) as connection:
        connection.execute(_CREATE)
        for case in CASES:
            (cookies / cookies_name(case.account)).write_text(site.cookies_file(case.account))
            connection.execute(
                "INSERT INTO download_tasks (id, status, email, course_url) "
                "VALUES (?, 'pending', ?, ?)",
                (case.task_id, case.account, site.course_url(_course(site, case))),
            )


def _course(site: CourseSite, case: Case) -> str:
    return site.courses[(case.task_id - 1) % len(site.courses)]


def _connect(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "tasks.db", timeout=10, isolation_level=None)


@contextmanager
def _operator(folder: Path, site: CourseSite) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start `enrollgate run` and `enrollgate web` as a user does, and stop them at the end.

    Gives the operator and the page's URL.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "ENROLLGATE_WEB__PORT": str(port),
        "ENROLLGATE_DATABASE_URL": f"sqlite:///{folder / 'tasks.db'}",
        "ENROLLGATE_ENROLLMENT_TIMEOUT": str(ENROLLMENT_TIMEOUT),
        "ENROLLGATE_CHECK_INTERVAL": "1",
        "ENROLLGATE_DESTINATION": f"directory:{folder / 'courses'}",
        "ENROLLGATE_COOKIES_DIR": str(folder / "cookies"),
        "ENROLLGATE_WORK_DIR": str(folder / "work"),
        "ENROLLGATE_ALLOWED_HOSTS": site.host,
    }
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")
    }
    processes = []
    for command, name in (("run", "operator.log"), ("web", "page.log")):
        with (folder / name).open("wb") as log:
            argv = [sys.executable, "-m", "enrollgate", command]
            processes.append(subprocess.Popen(argv, env=inherited | settings, stderr=log))
    try:
        yield processes[0], f"http://127.0.0.1:{port}/"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


def _report_crash(operator: subprocess.Popen[bytes], folder: Path, console: Console) -> None:
    code, log = operator.returncode, folder / "operator.log"
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    console.print(
        f"The operator ended too early ({how}). The last lines of its log, {log}:", markup=False
    )
    for line in log.read_text(errors="replace").splitlines()[-5:]:
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _play_node(
    folder: Path, site: CourseSite, enrolled_at: dict[int, float], stop: threading.Event
) -> None:
    """Do what the Node.js application does: enroll at the site, and write the status."""
    start = time.monotonic()
    writes = sorted(
        (after, case.task_id, status) for case in CASES for after, status in case.writes
    )
    by_id = {case.task_id: case for case in CASES}
    with closing(_connect(folder)) as connection:
        for after, task_id, status in writes:
            if stop.wait(max(0.0, start + after - time.monotonic())):
                return
            if status == "enrolled":
                case = by_id[task_id]
                site.enroll(case.account, _course(site, case))
                enrolled_at[task_id] = time.time()
            connection.execute(
                "UPDATE download_tasks SET status = ? WHERE id = ?", (status, task_id)
            )


def _statuses(folder: Path) -> dict[int, str]:
    with closing(_connect(folder)) as connection:
        return dict(connection.execute("SELECT id, status FROM download_tasks"))


def _latest_runs(folder: Path) -> dict[int, Run]:
    with closing(_connect(folder)) as connection:
        try:
            rows = connection.execute(
                "SELECT task_id, state, outcome, reason FROM enrollgate_runs ORDER BY run_number"
            ).fetchall()
        except sqlite3.OperationalError:  # the operator has not created its tables yet
            rows = []
    return {task_id: Run(state, outcome, reason) for task_id, state, outcome, reason in rows}


def _watch(folder: Path, console: Console, operator: subprocess.Popen[bytes]) -> None:
    """Show the rows until all cases have ended, or the operator has.

    A terminal shows a live table, anything else one line for each change.
    """
    start = time.monotonic()
    last: dict[int, str] = {}
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or nullcontext():
        while time.monotonic() - start < DEMO_TIMEOUT:
            statuses, runs = _statuses(folder), _latest_runs(folder)
            elapsed = time.monotonic() - start
            title = f"{elapsed:4.0f} s of at most {ENROLLMENT_TIMEOUT} s for an enrollment"
            table = Table("task", "case", "status", "run", title=title, title_justify="left")
            for case in CASES:
                status, run = statuses[case.task_id], str(runs.get(case.task_id, "no run"))
                table.add_row(str(case.task_id), case.title, status, run)
                line = f"task {case.task_id} ({case.title}): {status}, {run}"
                if live is None and last.get(case.task_id) != line:
                    console.print(f"{elapsed:5.1f} s  {line}")
                last[case.task_id] = line
            if live:
                live.update(table, refresh=True)
            has_ended = all(statuses[case.task_id] in ("completed", "failed") for case in CASES)
            if has_ended or operator.poll() is not None:
                return
            time.sleep(0.2)


def _evaluate(
    case: Case, folder: Path, site: CourseSite, enrolled_at: dict[int, float]
) -> CaseResult:
    """Compare how the case ended with what the contract says."""
    status = _statuses(folder)[case.task_id]
    run = _latest_runs(folder).get(case.task_id)
    reason = run.reason if run else None
    requests = [record for record in site.records if record.account == case.account]
    enrolled = enrolled_at.get(case.task_id, float("inf"))
    early = [record for record in requests if record.time < enrolled]
    delivered = list((folder / "courses").glob(f"*task-{case.task_id}*/**/*.mp4"))
    expected = len(site.lectures(_course(site, case))) if case.final_status == "completed" else 0
    problems = []
    if status != case.final_status:
        problems.append(f"ended as {status}, not {case.final_status}")
    if early:
        problems.append(f"{len(early)} requests before it was enrolled")
    if reason != case.reason:
        problems.append(f"reason {reason}, not {case.reason}")
    if len(delivered) != expected:
        problems.append(f"{len(delivered)} lectures delivered, not {expected}")
    outcome = (
        f"{len(delivered)} lectures, {len(requests)} requests, none before `enrolled`"
        if requests
        else "no request"
    )
    outcome = f"{reason}, {outcome}" if reason else outcome
    return CaseResult(case, status, outcome, "; ".join(problems))


def _print_results(results: list[CaseResult], folder: Path, console: Console) -> None:
    table = Table(title="How the four cases ended", title_justify="left")
    for heading in ("task", "case", "status", "what happened", "as the contract says"):
        table.add_column(heading, overflow="fold")
    for result in results:
        table.add_row(
            str(result.case.task_id),
            result.case.title,
            Text(result.status),
            result.outcome,
            Text(f"no: {result.problem}", "red") if result.problem else Text("yes", "green"),
        )
    console.print(table)
    courses = folder / "courses"
    tree = Tree(courses.name + "/")
    branches = {courses: tree}
    for path in sorted(courses.rglob("*")) if courses.exists() else ():
        size = "/" if path.is_dir() else Text(f"  {path.stat().st_size:,} bytes", "dim")
        branches[path] = branches[path.parent].add(Text.assemble(path.name, size))
    console.print(tree)
    console.print(
        f"The operator's log is {folder / 'operator.log'}. Look at its ENROLL CHECK lines.",
        soft_wrap=True,
        markup=False,
    )
