"""Run the worker in tests: from a course URL to a report and a folder of delivered files.

The work orders are those of production; only the folders and the defaults are the tests' own.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.faulty_site import FaultySite

from enrollgate.domain.report import Report
from enrollgate.settings.worker import WorkerSettings
from enrollgate.worker.order import WorkOrder
from enrollgate.worker.work import work


def make_order(tmp_path: Path, **changes: Any) -> WorkOrder:
    """Return an order of task 7. `changes` name fields of WorkOrder or WorkerSettings.

    The account has a cookies file, with a cookie that no site of the tests looks at.
    """
    cookies = tmp_path / "cookies-of-all"
    if "cookies_dir" not in changes:
        cookies.mkdir(parents=True, exist_ok=True)
        line = "courses.example.com\tFALSE\t/\tTRUE\t0\tvisited\tyes\n"
        (cookies / "cookies.txt").write_text(f"# Netscape HTTP Cookie File\n{line}")
    settings: dict[str, Any] = {
        "destination": f"directory:{tmp_path / 'out'}",
        "scratch_limit": 10_000_000,
        "cookies_dir": cookies,
    }
    values: dict[str, Any] = {
        "task_id": 7,
        "run_number": 1,
        "attempt": 1,
        "max_attempts": 3,
        "course_url": "https://courses.example.com/course/1",
        "cookies_name": "cookies-x.txt",
        "scratch_dir": tmp_path / "scratch",
        "report_path": tmp_path / "report.json",
        "progress_path": tmp_path / "progress.json",
    }
    for name, value in changes.items():
        (settings if name in WorkerSettings.model_fields else values)[name] = value
    return WorkOrder(**values, settings=WorkerSettings(**settings))


def order_for(site: FaultySite, tmp_path: Path, **changes: object) -> WorkOrder:
    """Return an order for the course of this site."""
    defaults = {"course_url": f"{site.url}/feed", "allowed_hosts": (site.host,)}
    return make_order(tmp_path, **(defaults | changes))


def run(order: WorkOrder) -> Report:
    """Carry out the order in this process, without a way to stop it."""
    return work(order, stop=threading.Event())


def delivered(tmp_path: Path) -> dict[str, bytes]:
    """Return the files at the destination by their paths, without those about the course."""
    root = tmp_path / "out"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "course.json", "index.html")
    }


def manifest(tmp_path: Path) -> list[dict[str, object]]:
    """Return the items of the only manifest at the destination, without the course's index."""
    (path,) = (tmp_path / "out").rglob("manifest.json")
    items: list[dict[str, object]] = json.loads(path.read_text())["items"]
    return [item for item in items if item["kind"] != "index"]


WORKER = """
import sys, threading, signal
from pathlib import Path
from enrollgate.worker.work import work, write_report
from tests.orders import make_order
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
url, host, base = sys.argv[1:]
base = Path(base)
order = make_order(base, course_url=url, allowed_hosts=(host,), scratch_limit=10**8)
report = work(order, stop=stop)
write_report(order.report_path, report)
"""


def start_worker(
    site: FaultySite, tmp_path: Path, page: str = "/feed", before: str = ""
) -> subprocess.Popen[bytes]:
    """Start a worker as a process of its own, which first runs the Python code `before`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", before + WORKER, f"{site.url}{page}", site.host, str(tmp_path)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
