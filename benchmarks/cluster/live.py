"""The operator's cost for each number of live Jobs. They are suspended, so they have no pods."""

import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import yaml
from tests.cluster.control_plane import Cluster
from tests.cluster.pod_runner import FakeKubelet
from tests.cluster.world import ClusterWorld
from tests.databases.server import free_port

from benchmarks.cluster.burst import DEFAULT_INTERVAL, REPORT, enroll
from benchmarks.cluster.cluster_env import JobWatch, cluster_env
from benchmarks.cpu import cpu_seconds
from benchmarks.memory import peak

EVENTS = 1_000
# Fewer than the loop's FOCUS_LIMIT, beyond which one full pass is cheaper.
FINISHED = 100


def measure_live(cluster: Cluster, url: str, levels: tuple[int, ...]) -> list[dict[str, float]]:
    """Fill one namespace level by level, and start a new operator at each level."""
    rows = []
    with cluster_env(
        cluster, url, cleared=False, MAX_CONCURRENT_RUNS=str(levels[-1]), LOG_LEVEL="warning"
    ) as world:
        world.template.write_text(yaml.safe_dump({"spec": {"suspend": True}}))
        watch = JobWatch(cluster, world.namespace)
        fake_kubelet = FakeKubelet(cluster, world.namespace, REPORT.encode())
        fake_kubelet.start()
        finished = 0
        for level in levels:
            filling = world.start_operator()
            wanted = level + finished
            enroll(world, wanted - len(watch.appeared))
            _wait_for_jobs(world, watch, wanted)
            world.stop_operator(filling)
            rows.append(_measure(world, level, range(finished + 1, finished + FINISHED + 1)))
            finished += FINISHED
        fake_kubelet.stop()
        watch.close()
    return rows


def _wait_for_jobs(world: ClusterWorld, watch: JobWatch, count: int) -> None:
    world.wait_for(lambda: len(watch.appeared) >= count, f"{count} Jobs exist", timeout=1200)


def _measure(world: ClusterWorld, level: int, let_end: range) -> dict[str, float]:
    port = free_port()
    begin = time.perf_counter()
    process = world.start_operator(HTTP_PORT=str(port), CHECK_INTERVAL="86400")
    while not _is_ready(port):
        assert process.poll() is None, world.log[-3000:]
        time.sleep(0.02)
    start_up = time.perf_counter() - begin
    start_up_cpu = cpu_seconds(process.pid)
    idle = _cpu_until_quiet(process.pid)
    before = cpu_seconds(process.pid)
    _touch(world, EVENTS)
    _cpu_until_quiet(process.pid)
    events = cpu_seconds(process.pid) - before
    before = cpu_seconds(process.pid)
    for task in let_end:
        _patch(world, task, {"spec": {"suspend": False}})
    world.wait_for(
        lambda: world.statuses().get("completed") == let_end[-1], "the rows are completed"
    )
    _cpu_until_quiet(process.pid)
    finished = cpu_seconds(process.pid) - before
    memory = peak(process.pid)
    world.stop_operator(process)
    return {
        "live_jobs": level,
        "startup_to_ready_s": start_up,
        "startup_cpu_s": start_up_cpu + idle,
        "peak_mb": memory,
        "cpu_s_per_1000_events": events * 1000 / EVENTS,
        "cpu_ms_per_finished_job": finished * 1000 / len(let_end),
        "idle_percent_of_a_core": _steady(world),
    }


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _steady(world: ClusterWorld) -> float:
    """Return percent of one core that an idle operator uses at the default interval."""
    port = free_port()
    process = world.start_operator(HTTP_PORT=str(port), CHECK_INTERVAL=str(DEFAULT_INTERVAL))
    world.wait_for(lambda: _is_ready(port), "the operator is ready")
    time.sleep(DEFAULT_INTERVAL)
    begin = cpu_seconds(process.pid)
    time.sleep(6 * DEFAULT_INTERVAL)
    used = cpu_seconds(process.pid) - begin
    world.stop_operator(process)
    return used / (6 * DEFAULT_INTERVAL) * 100


def _cpu_until_quiet(pid: int) -> float:
    """Wait until the process is idle. Returns the processor seconds that it used until then."""
    begin = last = cpu_seconds(pid)
    quiet = 0
    deadline = time.monotonic() + 600
    while quiet < 3:
        assert time.monotonic() < deadline, "the operator does not come to rest"
        time.sleep(1)
        now = cpu_seconds(pid)
        quiet = quiet + 1 if now - last <= 0.04 else 0
        last = now
    return last - begin


def _touch(world: ClusterWorld, events: int) -> None:
    """Make this many changes of Jobs that need no action."""
    tasks = [run.task_id for run in world.runs() if run.outcome is None][:500]

    def touch(number: int) -> None:
        _patch(
            world, tasks[number % len(tasks)], {"metadata": {"annotations": {"bench": str(number)}}}
        )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(touch, range(events)))


def _patch(world: ClusterWorld, task: int, body: dict[str, object]) -> None:
    path = f"/apis/batch/v1/namespaces/{world.namespace}/jobs/school-{task}-1"
    world.cluster.api.request("PATCH", path, body=body)
