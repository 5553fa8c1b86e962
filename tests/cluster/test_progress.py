"""Progress of live runs by `pods/log`: the API server forwards each request to a pod's kubelet."""

import threading
from collections import Counter

from sqlalchemy import RowMapping
from tests.cluster.fault_proxy import FaultProxy
from tests.cluster.pod_runner import FakeKubelet, LogAnswer, PodRunner
from tests.cluster.pod_runner.logs import LogRequest
from tests.cluster.world import ClusterWorld
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture

from enrollgate.control.progress import INTERVAL
from enrollgate.database import DatabaseMisconfigured
from enrollgate.database.task_status import task_status
from enrollgate.domain.progress import MARKER, RunProgress
from enrollgate.launchers.kubernetes.job_client import JOBS_PER_LISTING
from enrollgate.launchers.kubernetes.launcher import LOGS_AT_ONCE
from enrollgate.settings.kubernetes import KubernetesSettings

JOBS = 200
# Requests a second.
RATE = 50


def task_statuses(world: ClusterWorld) -> dict[int, RowMapping]:
    """Return the rows of `enrollgate_task_status` by task; none before the operator creates it."""
    try:
        with world.database.read_transaction() as connection:
            rows = connection.execute(task_status.select()).mappings().all()
    except DatabaseMisconfigured:
        return {}
    return {int(row["task_id"]): row for row in rows}


def log_with(items: int) -> bytes:
    """Return a worker's log that says how many items are done."""
    line = RunProgress(1, 3, items_done=items, items_total=1000).encode()
    return f"2 of 3: Clay\n{line}\ndelivered: Clay\n".encode()


def test_progress_of_a_real_worker_arrives_while_it_downloads(
    world: ClusterWorld, pod_runner: PodRunner
) -> None:
    world.template.write_text("{}")  # the image's own program
    lectures = [Lecture(f"Clay {number}", lecture(600_000, number)) for number in (1, 2)]
    with FaultySite(lectures) as site:
        site.rate = 60_000
        (task,) = world.add(url=f"{site.url}/feed")
        world.start_operator(
            ALLOWED_HOSTS=f"['{site.host}']", DESTINATION_VOLUME="{existingClaim: courses}"
        )
        seen = set[int]()

        def moves() -> bool:
            row = task_statuses(world).get(task)
            if row is not None and row["state"] == "running" and row["bytes_done"]:
                assert row["items_total"] == 2 and (row["attempt"], row["attempts"]) == (1, 3)
                assert row["bytes_done"] < site.size
                if "Clay" in (row["current_item"] or "") and row["bytes_per_second"]:
                    seen.add(row["bytes_done"])
            return len(seen) >= 2

        world.wait_for(moves, "its progress moves")
        (run,) = world.runs(task)
        assert run.outcome is None, "that was a live run"
        requests = [each for each in pod_runner.logs.requests if each.namespace == world.namespace]
        assert requests and requests[0].query.keys() == {"tailLines", "limitBytes"}
        site.rate = 0
        world.wait_for_status(task, "completed")
    row = task_statuses(world)[task]
    assert (row["percent"], row["items_done"], row["bytes_done"]) == (100, 2, site.size)
    assert row["destination_url"].startswith("file:///courses/"), row["destination_url"]


def test_progress_of_200_jobs_is_fresh_within_the_rate_and_delays_no_pass(
    world: ClusterWorld, fake_kubelet: FakeKubelet, pod_runner: PodRunner, fault_proxy: FaultProxy
) -> None:
    """Each log says how often it was read, so the database shows how old its progress is."""
    reads = Counter[str]()
    held: threading.Event | None = None

    def answer(pod: str) -> LogAnswer:
        reads[pod] += 1
        return LogAnswer(log_with(reads[pod]), hold=held)

    logs = pod_runner.logs
    logs.answers[world.namespace] = answer
    fake_kubelet.binds = True
    fake_kubelet.hold.set()
    world.add(count=JOBS)
    world.start_operator(
        fault_proxy.kubeconfig(world.kubeconfig),
        MAX_CONCURRENT_RUNS=str(JOBS + 1),
        KUBERNETES__PROGRESS_RATE=str(RATE),
        LOG_LEVEL="warning",
    )
    world.wait_for(lambda: len(fake_kubelet.running) == JOBS, "all pods run", timeout=280)
    before, first_exchange = len(logs.requests), len(fault_proxy.exchanges)
    least = max(reads.values(), default=0) + 2
    world.wait_for(
        lambda: len(reads) == JOBS and min(reads.values()) >= least, "each is read twice"
    )
    requests, exchanges = logs.requests[before:], fault_proxy.exchanges[first_exchange:]
    _check_rate_and_order(requests)
    listings = sum("/pods?" in each.path for each in exchanges)
    sent = sum("/log?" in each.path for each in exchanges)
    assert listings <= (sent / JOBS + 2) * JOBS / JOBS_PER_LISTING
    known = dict(reads)
    stored = {row["run_name"]: row["items_done"] or 0 for row in task_statuses(world).values()}
    # The name of a pod begins with that of its Job: `school-7-1-0-x7k2p`.
    ages = {pod: count - stored["-".join(pod.split("-")[:3])] for pod, count in known.items()}
    late = {pod: age for pod, age in ages.items() if age > 1}
    assert not late, f"the database has older progress than that of the last round: {late}"

    held = threading.Event()
    world.wait_for(lambda: logs.held >= LOGS_AT_ONCE, "all logs hang")
    (task,) = world.add()
    world.wait_for(lambda: len(fake_kubelet.running) == JOBS + 1, "a pass launches it")
    fake_kubelet.finish(
        [each for each in fake_kubelet.running if each.startswith(f"school-{task}-")]
    )
    world.wait_for_status(task, "completed")
    assert logs.held >= 1
    held.set()
    fake_kubelet.finish()
    world.wait_for(
        lambda: world.statuses() == {"completed": JOBS + 1}, "all are recorded", timeout=200
    )
    assert "progress is not read" not in world.log and "Traceback" not in world.log


def _check_rate_and_order(requests: list[LogRequest]) -> None:
    """Check that logs are read in turns, at the rate that is set."""
    seconds = requests[-1].at - requests[0].at
    assert len(requests) <= RATE * seconds * 1.1 + LOGS_AT_ONCE
    last = dict[str, int]()
    most = 0
    for number, request in enumerate(requests):
        if request.pod in last:
            most = max(most, number - last[request.pod])
        last[request.pod] = number
    assert most <= JOBS + LOGS_AT_ONCE, "between two reads of a log, each other log is read once"
    # What that is at the rate that users have.
    rate = KubernetesSettings.model_fields["progress_rate"].get_default()
    listings = 2 * JOBS / JOBS_PER_LISTING
    assert rate < 6 and (most + listings) / rate + 2 * INTERVAL < 60


def test_log_that_cannot_be_read_leaves_the_progress_of_others_alone(
    world: ClusterWorld, fake_kubelet: FakeKubelet, pod_runner: PodRunner
) -> None:
    never = threading.Event()
    good = log_with(7)
    line = good.splitlines()[1] + b"\n"
    bad = {
        "no such container": LogAnswer(b"container not found", 404),
        "an error of the kubelet": LogAnswer(good, 500),
        "a kubelet that refuses the API server": LogAnswer(
            b"Forbidden (user=kube-apiserver, verb=get, resource=nodes, subresource=proxy)", 403
        ),
        "a kubelet that does not know the API server": LogAnswer(b"Unauthorized", 401),
        "a node that is overloaded": LogAnswer(b"Too Many Requests", 429),
        "a node that hangs": LogAnswer(good, hold=never),
        "another node that hangs": LogAnswer(good, hold=never),
        "no HTTP": LogAnswer(b"\x16\x03\x01 not http\r\n\r\n" + good, is_http=False),
        "lines of a megabyte": LogAnswer(39 * (b"x" * 2**20 + b"\n") + line),
        "no end of a line": LogAnswer(MARKER.encode() + b"{" * 2**20),
        "broken JSON": LogAnswer(line[:-20] + b"\n" + MARKER.encode() + b"[" * 900 + b"\n"),
        "odd values": LogAnswer(MARKER.encode() + b'{"attempt": -1, "items_done": 1e99}\n'),
        "invalid UTF-8": LogAnswer(MARKER.encode() + b'{"attempt": \xff\xfe}\n'),
        "nothing": LogAnswer(b""),
    }
    noisy = LogAnswer(b"\xff\xfe\x00 \xed\xa0\x80\n" + good + MARKER.encode() + b"{\n")
    answers = [*bad.values(), noisy, LogAnswer(good)]
    reads = Counter[int]()
    tasks = world.add(count=len(answers))

    def answer(pod: str) -> LogAnswer:
        task = int(pod.split("-")[1])
        reads[task] += 1
        return answers[tasks.index(task)]

    pod_runner.logs.answers[world.namespace] = answer
    fake_kubelet.binds = True
    fake_kubelet.hold.set()
    world.start_operator(MAX_CONCURRENT_RUNS=str(len(answers)), KUBERNETES__PROGRESS_RATE=str(RATE))
    world.wait_for(lambda: len(fake_kubelet.running) == len(answers), "all pods run")
    world.wait_for(
        lambda: all(reads[task] >= 3 for task in tasks), "each log is asked for three times"
    )
    found = task_statuses(world)
    known = {
        name: dict(found[task])
        for name, task in zip(bad, tasks, strict=False)
        if found[task]["progress_at"] is not None or found[task]["items_done"] is not None
    }
    assert not known, "what cannot be read is unknown"
    assert [found[task]["items_done"] for task in tasks[len(bad) :]] == [7, 7]
    assert {row["state"] for row in found.values()} == {"running"}
    assert "progress is not read" not in world.log and "Traceback" not in world.log
    fake_kubelet.finish()
    world.wait_for(lambda: world.statuses() == {"completed": len(tasks)}, "all are recorded")
    never.set()
