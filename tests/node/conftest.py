"""One real node for all tests; for each test a namespace, a database, a volume and a course."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.control_plane import Cluster
from tests.conftest import absent
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture
from tests.node.installation import Installation, installed
from tests.node.node import ADDRESS, find_parts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and end with what needs the node alone."""

    def is_marked(item: pytest.Item, mark: str) -> bool:
        return item.get_closest_marker(mark) is not None

    items.sort(key=lambda item: (is_marked(item, "whole_node"), not is_marked(item, "slow_node")))


@pytest.fixture(scope="session")
def node() -> Cluster:
    """The node that `scripts/real-node` has started. All test processes share it."""
    parts = find_parts()
    if parts is None:
        absent("a real node", "make test-node (it needs root on Linux)")
    *_, folder = parts
    return Cluster(Path(os.environ["ENROLLGATE_TEST_KUBECONFIG"]), None, folder)


@pytest.fixture
def turn(request: pytest.FixtureRequest, node: Cluster) -> Iterator[None]:
    """Let tests share the node, except one that is marked `whole_node`: it has it alone."""
    is_alone = request.node.get_closest_marker("whole_node") is not None
    with (node.folder / "turn").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        yield


@pytest.fixture
def site() -> Iterator[FaultySite]:
    """A course of three lectures, under the address that pods reach."""
    lectures = [Lecture(f"Lecture {n}", lecture(200_000 + n, n)) for n in (1, 2, 3)]
    with FaultySite(lectures) as running:
        running.host = running.host.replace("127.0.0.1", ADDRESS)
        running.url = f"http://{running.host}"
        yield running


@pytest.fixture
def install(
    turn: None, node: Cluster, mariadb_server_url: str, site: FaultySite, tmp_path: Path
) -> Iterator[Callable[..., Installation]]:
    """Install the chart with these values on top of those that every test needs.

    `prepare` creates what else is in the namespace before that.
    """
    opened = []

    def make(
        prepare: Callable[[str], None] = lambda _namespace: None, **values: Any
    ) -> Installation:
        manager = installed(node, mariadb_server_url, site.host, tmp_path, values, prepare)
        opened.append(manager)
        return manager.__enter__()

    yield make
    for manager in reversed(opened):
        manager.__exit__(None, None, None)
