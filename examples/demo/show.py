"""The four cases of the contract, live on this machine: a real course site, real media, SQLite, the operator as its users run it.

The clock runs ten times as fast as in production: enrolled after 3 s and 12 s, a timeout of 30 s. What is shown is also
checked: the demo succeeds only if each case ended as the contract says, and the site's own access log shows no request of an
account before its row was `enrolled`.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.demo.site import CourseSite
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from enrollgate.domain.account import cookies_name

TIMEOUT = 30
"""Seconds; 300 in production."""
PATIENCE = 90
"""Seconds after which the demo gives up on cases that have not ended."""

_ENDINGS = ("completed", "failed")
_CREATE = """
CREATE TABLE download_tasks (
  id INTEGER PRIMARY KEY, status TEXT NOT NULL, email TEXT NOT NULL, course_url TEXT NOT NULL
)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the contract: what Node.js writes and when, and how it must end."""

    task_id: int
    title: str
    account: str
    writes: tuple[tuple[float, str], ...]
    """Seconds after the start, and the status written then."""
    ends_as: str
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
class ExitResult:
    """How a case ended, and what is wrong with that (nothing, if all is well)."""

    case: Case
    status: str
    outcome: str
    problem: str


def show(folder: Path, console: Console) -> bool:
    """Plays the demo in `folder` (which it empties first). True if every case ended as the contract says."""
    folder = folder.resolve()
    _make_empty(folder)
    console.print("Making lectures and starting the course site ...")
    with CourseSite() as site:
        _prepare(folder, site)
        enrolled_at: dict[int, float] = {}
        over = threading.Event()
        with _operator(folder, site) as operator:
            node = threading.Thread(
                target=_play_node, args=(folder, site, enrolled_at, over), daemon=True
            )
            node.start()
            try:
                _watch(folder, console, operator)
                died = operator.poll() is not None
            finally:
                over.set()
                node.join()
        if died:
            _report_crash(operator, folder, console)
            return False
        endings = [_evaluate(case, folder, site, enrolled_at) for case in CASES]
    _summarise(endings, folder, console)
    return all(not ending.problem for ending in endings)


def _make_empty(folder: Path) -> None:
    marker = folder / ".enrollgate-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SystemExit(
            f"enrollgate: {folder} is not empty and not a demo's: name another with --folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def _prepare(folder: Path, site: CourseSite) -> None:
    cookies = folder / "cookies"
    cookies.mkdir()
    with closing(_connect(folder)) as connection:
        connection.execute(_CREATE)
        for case in CASES:
            (cookies / cookies_name(case.account)).write_text(site.cookies_file(case.account))
            connection.execute(
                "INSERT INTO download_tasks (id, status, email, course_url) VALUES (?, 'pending', ?, ?)",
                (case.task_id, case.account, site.course_url(_course(site, case))),
            )


def _course(site: CourseSite, case: Case) -> str:
    return site.courses[(case.task_id - 1) % len(site.courses)]


def _connect(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "tasks.db", timeout=10, isolation_level=None)


@contextmanager
def _operator(folder: Path, site: CourseSite) -> Iterator[subprocess.Popen[bytes]]:
    """`enrollgate run`, as anyone would start it, stopped at the end."""
    settings = {
        "ENROLLGATE_DATABASE_URL": f"sqlite:///{folder / 'tasks.db'}",
        "ENROLLGATE_ENROLLMENT_TIMEOUT": str(TIMEOUT),
        "ENROLLGATE_CHECK_INTERVAL": "1",
        "ENROLLGATE_DESTINATION": f"directory:{folder / 'courses'}",
        "ENROLLGATE_COOKIES_DIR": str(folder / "cookies"),
        "ENROLLGATE_WORK_DIR": str(folder / "work"),
        "ENROLLGATE_ALLOWED_HOSTS": site.host,
    }
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("ENROLLGATE_")
    }
    with (folder / "operator.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "enrollgate", "run"], env=others | settings, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def _report_crash(operator: subprocess.Popen[bytes], folder: Path, console: Console) -> None:
    code = operator.returncode
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    console.print(
        f"The operator ended before its time ({how}). The end of its log, {folder / 'operator.log'}:",
        markup=False,
    )
    for line in (folder / "operator.log").read_text(errors="replace").splitlines()[-5:]:
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _play_node(
    folder: Path, site: CourseSite, enrolled_at: dict[int, float], over: threading.Event
) -> None:
    """What the Node.js application does: enroll at the site, and write the status. Nothing but SQL on its own table."""
    start = time.monotonic()
    script = sorted(
        (after, case.task_id, status) for case in CASES for after, status in case.writes
    )
    by_id = {case.task_id: case for case in CASES}
    with closing(_connect(folder)) as connection:
        for after, task_id, status in script:
            if over.wait(max(0.0, start + after - time.monotonic())):
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


def _runs(folder: Path) -> dict[int, tuple[str, str | None, str | None]]:
    """The latest run of each task: state, outcome, reason."""
    with closing(_connect(folder)) as connection:
        try:
            rows = connection.execute(
                "SELECT task_id, state, outcome, reason FROM enrollgate_runs ORDER BY run_number"
            ).fetchall()
        except sqlite3.OperationalError:  # the operator has not created its tables yet
            rows = []
    return {task: (state, outcome, reason) for task, state, outcome, reason in rows}


def _watch(folder: Path, console: Console, operator: subprocess.Popen[bytes]) -> None:
    """Shows the rows until all have ended, or the operator has: a live table on a terminal, a line for each change otherwise."""
    start = time.monotonic()
    last: dict[int, tuple[str, str]] = {}
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    if live:
        live.start()
    try:
        while time.monotonic() - start < PATIENCE:
            statuses, runs = _statuses(folder), _runs(folder)
            now = {
                case.task_id: (statuses[case.task_id], _describe(runs.get(case.task_id)))
                for case in CASES
            }
            elapsed = time.monotonic() - start
            if live:
                live.update(_table(now, elapsed), refresh=True)
            else:
                _print_changes(console, last, now, elapsed)
            last = now
            if (
                all(statuses[case.task_id] in _ENDINGS for case in CASES)
                or operator.poll() is not None
            ):
                return
            time.sleep(0.2)
    finally:
        if live:
            live.stop()


def _describe(run: tuple[str, str | None, str | None] | None) -> str:
    if run is None:
        return "no run"
    state, outcome, reason = run
    return " ".join(
        part for part in (f"run {outcome or state}", f"({reason})" if reason else "") if part
    )


def _table(now: dict[int, tuple[str, str]], elapsed: float) -> Table:
    table = Table(
        title=f"{elapsed:4.0f} s of at most {TIMEOUT} s for an enrollment", title_justify="left"
    )
    for heading in ("task", "case", "status", "run"):
        table.add_column(heading)
    for case in CASES:
        status, run = now[case.task_id]
        table.add_row(str(case.task_id), case.title, status, run)
    return table


def _print_changes(
    console: Console,
    last: dict[int, tuple[str, str]],
    now: dict[int, tuple[str, str]],
    elapsed: float,
) -> None:
    for case in CASES:
        if last.get(case.task_id) != now[case.task_id]:
            status, run = now[case.task_id]
            console.print(f"{elapsed:5.1f} s  task {case.task_id} ({case.title}): {status}, {run}")


def _evaluate(
    case: Case, folder: Path, site: CourseSite, enrolled_at: dict[int, float]
) -> ExitResult:
    status = _statuses(folder)[case.task_id]
    run = _runs(folder).get(case.task_id)
    requests = [record for record in site.records if record.account == case.account]
    early = [
        record for record in requests if record.time < enrolled_at.get(case.task_id, float("inf"))
    ]
    delivered = [path for path in _delivered(folder, case) if path.suffix == ".mp4"]
    problems = []
    if status != case.ends_as:
        problems.append(f"ended as {status}, not {case.ends_as}")
    if early:
        problems.append(f"{len(early)} requests before it was enrolled")
    if (run[2] if run else None) != case.reason:
        problems.append(f"reason {run[2] if run else None}, not {case.reason}")
    expected = len(site.lectures(_course(site, case))) if case.ends_as == "completed" else 0
    if len(delivered) != expected:
        problems.append(f"{len(delivered)} lectures delivered, not {expected}")
    outcome = (
        f"{len(delivered)} lectures, {len(requests)} requests, none before `enrolled`"
        if requests
        else "no request"
    )
    return ExitResult(
        case,
        status,
        outcome if run is None or not run[2] else f"{run[2]}, {outcome}",
        "; ".join(problems),
    )


def _delivered(folder: Path, case: Case) -> list[Path]:
    return [
        path
        for root in (folder / "courses").glob(f"*task-{case.task_id}*")
        for path in root.rglob("*")
    ]


def _summarise(endings: list[ExitResult], folder: Path, console: Console) -> None:
    table = Table(title="How the four cases ended", title_justify="left")
    for heading in ("task", "case", "status", "what happened", "as the contract says"):
        table.add_column(heading, overflow="fold")
    for ending in endings:
        verdict = Text(f"no: {ending.problem}", "red") if ending.problem else Text("yes", "green")
        table.add_row(
            str(ending.case.task_id),
            ending.case.title,
            Text(ending.status),
            ending.outcome,
            verdict,
        )
    console.print(table)
    console.print(_tree(folder / "courses"))
    console.print(
        f"The operator's log is {folder / 'operator.log'}; see its ENROLL CHECK lines.",
        soft_wrap=True,
        markup=False,
    )


def _tree(folder: Path) -> Tree:
    tree = Tree(folder.name + "/")
    branches = {folder: tree}
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        size = "/" if path.is_dir() else Text(f"  {path.stat().st_size:,} bytes", "dim")
        branches[path] = branches[path.parent].add(Text.assemble(path.name, size))
    return tree
