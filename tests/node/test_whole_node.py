"""A node that is drained, loses its kubelet or is lost: what becomes of a run, and what is read.

Each test has the node alone.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture
from tests.node.faults import dead_kubelet
from tests.node.installation import Installation, every_task_has_one_job
from tests.node.node import NODE

Install = Callable[..., Installation]
pytestmark = pytest.mark.whole_node


@contextmanager
def uncordoned_at_the_end(installation: Installation) -> Iterator[None]:
    try:
        yield
    finally:
        installation.kubectl("uncordon", NODE)


def drain(installation: Installation, *options: str) -> None:
    """Drain the node as an administrator does. That ends when all its pods are gone."""
    needed = ("--delete-emptydir-data", "--ignore-daemonsets", "--force", "--timeout=3m")
    installation.kubectl("drain", NODE, *needed, *options)


def test_a_drained_run_waits_for_a_node_and_costs_no_attempt(
    install: Install, site: FaultySite
) -> None:
    site.rate = 20_000
    installation = install(maxAttempts=1, stopGrace="20s")
    installation.enroll(f"{site.url}/feed")
    first = installation.wait_for_running_worker()["metadata"]["name"]
    with uncordoned_at_the_end(installation):
        drain(installation, "--pod-selector=app.kubernetes.io/component=worker")
        installation.wait_for(
            lambda: "node(s) were unschedulable" in installation.explain(),
            "the new pod waits for a node, and that is explained",
        )
        assert "Unschedulable" in installation.explain()
        assert installation.runs() == [(None, None, None)]
        drain(installation)  # the operator, too
    site.rate = 0
    assert installation.wait_until_final() == "completed", installation.runs()
    assert [outcome for outcome, *_ in installation.runs()] == ["succeeded"]
    assert first not in [pod["metadata"]["name"] for pod in installation.worker_pods()]
    files = sorted(installation.courses.rglob("*.mp4"))
    assert [path.read_bytes() for path in files] == [each.content for each in site.lectures]


def test_a_course_ends_once_though_the_kubelet_was_killed(
    install: Install, site: FaultySite
) -> None:
    site.rate = 20_000
    installation = install()
    with every_task_has_one_job(installation):
        installation.enroll(f"{site.url}/feed")
        first = installation.wait_for_running_worker()["metadata"]["uid"]
        with dead_kubelet():
            site.rate = 0
            installation.wait_for(
                lambda: len(list(installation.courses.rglob("*.mp4"))) == len(site.lectures),
                "the worker goes on without a kubelet",
            )
            assert installation.runs() == [(None, None, None)], "nobody knows yet that it has ended"
        assert installation.wait_until_final() == "completed", installation.runs()
    assert [outcome for outcome, *_ in installation.runs()] == ["succeeded"]
    (pod,) = installation.worker_pods()
    assert pod["metadata"]["uid"] == first
    assert [each["restartCount"] for each in pod["status"]["containerStatuses"]] == [0]


@pytest.mark.slow_node
def test_a_run_on_a_lost_node_waits_until_its_remedy_is_carried_out(
    install: Install, site: FaultySite
) -> None:
    """The kubelet is away for longer than the grace: no one confirms that the pod has ended."""
    site.lectures, site.rate = [Lecture("Long", lecture(30_000_000, 1))], 60_000
    sent = list[int]()
    site.on_bytes = sent.append
    evicted = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    keys = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
    pod = {"tolerations": [evicted | {"key": key} for key in keys]}
    installation = install(
        startTimeout="2m",
        stopGrace="5s",
        worker={"jobTemplate": {"spec": {"template": {"spec": pod}}}},
    )
    with every_task_has_one_job(installation):
        installation.enroll(f"{site.url}/feed")
        first = installation.wait_for_running_worker()["metadata"]["name"]
        with dead_kubelet():
            installation.wait_for(_is_lost(installation), "the control plane notices")
            # It taints so only while another node is ready: else it takes its own network for lost.
            installation.kubectl("taint", "nodes", NODE, "node.kubernetes.io/unreachable:NoExecute")
            installation.wait_for(
                lambda: [reason for _, reason, _ in installation.runs()] == ["NodeLost"],
                "the row says why it waits",
            )
            begun = len(sent)
            installation.wait_for(lambda: len(sent) > begun, "its worker runs all the time")
            assert [each["metadata"]["name"] for each in installation.worker_pods()] == [first]
            assert "running, but its node is away" in installation.explain()
            ((remedy,),) = installation.sql("SELECT remedy FROM enrollgate_runs")
            (taint,) = re.findall(r"`kubectl (taint [^`]+)`", str(remedy))
            installation.kubectl(*taint.split())
            try:
                installation.wait_for(
                    lambda: (
                        first not in [pod["metadata"]["name"] for pod in installation.worker_pods()]
                    ),
                    "the control plane removes the pod",
                )
            finally:
                installation.kubectl(*taint.split()[:3], "node.kubernetes.io/out-of-service-")
            site.rate = 0
        assert installation.wait_until_final() == "completed", installation.runs()
    assert [(outcome, reason) for outcome, reason, _ in installation.runs()] == [
        ("succeeded", None)
    ]
    files = sorted(installation.courses.rglob("*.mp4"))
    assert [path.read_bytes() for path in files] == [each.content for each in site.lectures]


def _is_lost(installation: Installation) -> Callable[[], bool]:
    status = ("-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
    return lambda: installation.kubectl("get", "node", NODE, *status) == "Unknown"
