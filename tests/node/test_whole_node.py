"""A drained node: what becomes of a run, and what people then read.

Each test has the node alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.faulty_site import FaultySite
from tests.node.installation import Installation
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
