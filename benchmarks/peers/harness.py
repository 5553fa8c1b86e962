"""Measure one system at a time: the same rows, pods, watcher and clock for all.

The k-th Job that a watch shows is matched with the k-th commit. So a Job that is not tied to a row
can be measured, too. The mean is the same however they are matched.
"""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import pymysql
from sqlalchemy import make_url, text
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import FakeKubelet
from tests.cluster.world import ClusterWorld
from tests.databases import Server

from benchmarks.cluster.burst import REPORT
from benchmarks.cluster.cluster_env import JobWatch, cluster_env
from benchmarks.cpu import cpu_seconds
from benchmarks.memory import peak
from benchmarks.peers.load import Load, enroll_at_once, insert
from benchmarks.peers.system import Running, System

Row = dict[str, object]
# Seconds after the last Job or row whose CPU time still counts: work that was put off.
_TAIL = 3.0
# Seconds without a new Job, beside the system's interval, after which no more are expected.
_QUIET = 45.0
# Seconds after which a row without a Job counts as lost, even if others still get theirs.
_LAUNCHES_LIMIT = 600
_TIMEOUT = 1200
# Seconds that a system may take until its first Job.
_START_TIMEOUT = 300


@dataclass(frozen=True)
class Stage:
    """Where all systems are measured."""

    cluster: Cluster
    database: Server
    url: str


@dataclass
class Scene:
    """One system that works in a fresh namespace, with fresh tables and pods that keep running."""

    world: ClusterWorld
    system: System
    running: Running
    watch: JobWatch
    kubelet: FakeKubelet
    # Jobs that existed before the measurement, by uid.
    before: frozenset[str] = field(default_factory=frozenset)

    @property
    def cpu(self) -> float:
        """CPU seconds of the system's processes since they started."""
        return sum(cpu_seconds(pid) for pid in self.running.pids)

    @property
    def peak(self) -> float:
        """The most memory of each process, added up, in MB."""
        return sum(peak(pid) for pid in self.running.pids)

    def appeared(self) -> list[float]:
        """Return when each new Job appeared, sorted."""
        return sorted(at for uid, at in self.watch.created.copy().items() if uid not in self.before)

    def new_jobs(self) -> list[str]:
        """Return the names of the new Jobs. A Job created twice is listed twice."""
        return [name for uid, name in self.watch.names.copy().items() if uid not in self.before]

    def wait_for_jobs(self, rows: int) -> None:
        """Wait until there are so many new Jobs, until no more appear, or for ten minutes."""
        quiet = _QUIET + self.system.interval
        known, since = -1, time.monotonic()
        end = since + _LAUNCHES_LIMIT
        while (now := len(self.new_jobs())) < rows and time.monotonic() < min(since + quiet, end):
            if now != known:
                known, since = now, time.monotonic()
            time.sleep(0.05)


@contextmanager
def scene(stage: Stage, system: System, rows: int, waiting: int = 0) -> Iterator[Scene]:
    """Start the system, and wait until it has created the Job of a first row, which is not
    measured. `rows` more may have Jobs, and so many others are waiting.
    """
    hold = threading.Event()
    hold.set()
    with cluster_env(stage.cluster, stage.url) as world:
        if waiting:
            insert(world, "processing", waiting)
        watch = JobWatch(stage.cluster, world.namespace)
        kubelet = FakeKubelet(stage.cluster, world.namespace, REPORT.encode(), hold=hold)
        kubelet.start()
        running = system.start(world, rows + 1)
        current = Scene(world, system, running, watch, kubelet)
        try:
            enroll_at_once(world, 1)
            world.wait_for(
                lambda: kubelet.running, f"{system.name} creates its first Job", _START_TIMEOUT
            )
            current.before = frozenset(watch.names)
            time.sleep(_TAIL)
            yield current
        finally:
            running.stop()
            kubelet.stop()
            watch.close()


def measure_load(stage: Stage, system: System, load: Load) -> tuple[Row, Row | None]:
    """Measure rows to Jobs, and then finished Jobs to rows if the system writes back."""
    with scene(stage, system, load.rows) as current:
        launched = _launch(current, load)
        written = _write_back(current, load) if system.writes_back else None
    return launched, written


def _launch(current: Scene, load: Load) -> Row:
    cpu = current.cpu
    committed = load.enroll(current.world)
    current.wait_for_jobs(load.rows)
    time.sleep(_TAIL)
    cpu = current.cpu - cpu
    appeared, first = current.appeared(), min(committed.values())
    waits = match(list(committed.values()), appeared)
    twice, lost = count(current.new_jobs(), list(committed), current.system.task_of)
    p50, p99 = percentiles(waits)
    return {
        "system": current.system.name,
        "load": load.name,
        "rows": load.rows,
        "to_job_p50_s": p50,
        "to_job_p99_s": p99,
        "jobs_per_second": len(appeared) / (appeared[-1] - first) if appeared else 0.0,
        "twice": twice,
        "lost": lost,
        "cpu_s_per_1000": cpu / load.rows * 1000,
        "peak_mb": current.peak,
    }


def _write_back(current: Scene, load: Load) -> Row:
    """Let the pods end: one by one in a trickle, all at once after a burst."""
    rows = RowWatch(current.world)
    current.world.wait_for(
        lambda: len(current.kubelet.running) >= len(current.watch.names), "all pods run", _TIMEOUT
    )
    random, cpu, begin = Random(load.rows), current.cpu, time.monotonic()
    pods = list(current.kubelet.running)
    if load.gap:
        for pod in pods:
            time.sleep(random.uniform(0, load.gap))
            current.kubelet.finish([pod])
    else:
        current.kubelet.finish(pods)
    current.world.wait_for(lambda: len(rows.written) >= len(pods), "all rows written", _TIMEOUT)
    time.sleep(_TAIL)
    cpu = current.cpu - cpu
    rows.close()
    finished = {
        task: at
        for name, at in current.watch.complete.items()
        if (task := current.system.task_of(name)) is not None
    }
    waits = [at - finished[task] for task, at in rows.written.items()]
    p50, p99 = percentiles(waits)
    return {
        "system": current.system.name,
        "load": "one by one" if load.gap else load.name,
        "rows": len(pods),
        "to_row_p50_s": p50,
        "to_row_p99_s": p99,
        "rows_per_second": len(pods) / (max(rows.written.values()) - begin),
        "cpu_s_per_1000": cpu / len(pods) * 1000,
        "peak_mb": current.peak,
    }


def measure_rest(stage: Stage, system: System, waiting: int, seconds: float) -> Row:
    """Measure what a system costs while rows wait and nothing happens."""
    with scene(stage, system, 1, waiting) as current:
        time.sleep(2 * max(5.0, system.interval))
        pid = stage.database.process.pid if stage.database.process else 0
        own, theirs, commands = current.cpu, cpu_seconds(pid), read_commands(stage.url)
        time.sleep(seconds)
        # The first of the two readings counts in the second.
        commands = read_commands(stage.url) - commands - 1
        return {
            "system": system.name,
            "waiting": waiting,
            "seconds": seconds,
            "database_commands_per_second": commands / seconds,
            "database_percent_of_a_core": (cpu_seconds(pid) - theirs) / seconds * 100,
            "system_percent_of_a_core": (current.cpu - own) / seconds * 100,
            "peak_mb": current.peak,
        }


def measure_kill(stage: Stage, system: System, rows: int) -> Row:
    """Kill the process that creates Jobs, with SIGKILL, once a third of a burst has Jobs."""
    with scene(stage, system, rows) as current:
        tasks = list(enroll_at_once(current.world, rows))
        current.wait_for_jobs(rows // 3)
        current.running.kill_launcher()
        current.wait_for_jobs(rows)
        time.sleep(_TAIL + 2 * system.interval)  # time for Jobs that should not be
        twice, lost = count(current.new_jobs(), tasks, system.task_of)
        return {
            "system": system.name,
            "fault": "kill -9 in a burst",
            "rows": rows,
            "jobs": len(current.new_jobs()),
            "twice": twice,
            "lost": lost,
            "wrong": twice + lost,
        }


class RowWatch:
    """Records when rows become `completed`, by reading the table 50 times a second."""

    def __init__(self, world: ClusterWorld) -> None:
        # time.monotonic() of each row's completion, by task.
        self.written: dict[int, float] = {}
        self._world = world
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(60)

    def _run(self) -> None:
        query = text("SELECT id FROM download_tasks WHERE status = 'completed'")
        while not self._closed.wait(0.02):
            with self._world.database.read_transaction() as connection:
                found = [int(task) for (task,) in connection.execute(query)]
            now = time.monotonic()
            for task in found:
                self.written.setdefault(task, now)


def match(committed: Sequence[float], appeared: Sequence[float]) -> list[float]:
    """Return the wait of each row: the k-th Job belongs to the k-th commit.

    Surplus Jobs and rows without a Job are left out.
    """
    pairs = zip(sorted(committed), sorted(appeared), strict=False)
    return [job - commit for commit, job in pairs]


def count(
    jobs: Sequence[str], tasks: Sequence[int], task_of: Callable[[str], int | None]
) -> tuple[int, int]:
    """Count the surplus Jobs, and the tasks without a Job.

    If Jobs are not tied to rows, only their number can be compared.
    """
    found = [task_of(name) for name in jobs]
    if None in found:
        return max(0, len(jobs) - len(tasks)), max(0, len(tasks) - len(jobs))
    by_task = Counter(found)
    return sum(by_task.values()) - len(by_task), len(set(tasks) - set(by_task))


def percentiles(waits: Sequence[float]) -> tuple[float, float]:
    """Return the 50th and the 99th percentile."""
    if len(waits) < 2:
        return (waits[0], waits[0]) if waits else (0.0, 0.0)
    return (
        statistics.median(waits),
        statistics.quantiles(waits, n=100, method="inclusive")[98],
    )


def read_commands(url: str) -> int:
    """Return how many commands the server has received, pings included.

    `Questions` leaves out pings and the like, which `Com_admin_commands` counts:
    https://mariadb.com/kb/en/server-status-variables/
    """
    arguments = make_url(url).translate_connect_args(username="user")
    connection = pymysql.connect(**arguments)
    with connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS")
        return sum_commands(dict(cursor))


def sum_commands(status: Mapping[str, str]) -> int:
    """Add up the counters of a SHOW GLOBAL STATUS."""
    return int(status["Questions"]) + int(status["Com_admin_commands"])


def median_row(rows: Sequence[Row]) -> Row:
    """Return the median of each number of repeated measurements; of counts the greatest."""
    merged: Row = {}
    for column, first in rows[0].items():
        values = [row[column] for row in rows]
        if isinstance(first, float):
            merged[column] = statistics.median(float(str(value)) for value in values)
        elif isinstance(first, int):
            merged[column] = max(int(str(value)) for value in values)
        else:
            merged[column] = first
    return merged
