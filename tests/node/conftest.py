"""One real node for all tests; for each test a namespace, a database, a volume and a course."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.control_plane import Cluster, ControlPlaneAbsent
from tests.conftest import absent
from tests.databases import Server, ServerAbsent, start_mariadb
from tests.faulty_site import FaultySite, Lecture
from tests.media import lecture
from tests.node.installation import Installation, installed
from tests.node.node import ADDRESS, find_parts, running_node


@pytest.fixture(scope="session")
def node() -> Iterator[Cluster]:
    parts = find_parts()
    if parts is None:
        absent("a real node", "make test-node (it needs root on Linux)")
    try:
        with running_node(*parts) as cluster:
            yield cluster
    except ControlPlaneAbsent as error:
        absent("kube-apiserver", str(error))


@pytest.fixture(scope="session")
def mariadb(node: Cluster) -> Iterator[Server]:
    """A server that pods reach."""
    try:
        server = start_mariadb(node.folder / "mariadb")
    except ServerAbsent as error:
        absent("MariaDB", str(error))
    yield server
    server.kill()


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
    node: Cluster, mariadb: Server, site: FaultySite, tmp_path: Path
) -> Iterator[Callable[..., Installation]]:
    """Install the chart with these values on top of those that every test needs."""
    opened = []

    def make(**values: Any) -> Installation:
        manager = installed(node, mariadb, site.host, tmp_path, values)
        opened.append(manager)
        return manager.__enter__()

    yield make
    for manager in reversed(opened):
        manager.__exit__(None, None, None)
