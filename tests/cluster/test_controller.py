"""The watch survives errors of a handler. An operator that breaks exits with an error and frees
its Lease.
"""

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.control_plane import Cluster
from tests.cluster.jobs import ORDER, delete, ended, make_job, wait_until_gone
from tests.cluster.steps import wait_for_log
from tests.cluster.world import ClusterWorld

from enrollgate.control.kopf_controller import _watch


def test_an_error_in_a_handler_never_stops_the_watch(world: ClusterWorld, cluster: Cluster) -> None:
    """The handler raises at the first event. Events of the next Job still arrive.

    A finished Job that is deleted needs no pass, a live one does.
    """
    woken: list[str] = []
    listed: list[None] = []

    def wake(name: str | None) -> None:
        if name is None:
            listed.append(None)
            return
        woken.append(name)
        raise ZeroDivisionError("nobody foresaw this")

    connection = Cluster.api_for(world.kubeconfig).connection_details
    with running(_watch(connection, world.namespace, "harness", wake)) as thread:
        for number in range(3):
            job = make_job(cluster, world.namespace, "exit 0", world.image)
            ended(cluster, job)
            wait_for_calls(woken, 2 * number + 1)
            delete(cluster, job)
            wait_until_gone(cluster, job)
            job = make_job(cluster, world.namespace, "sleep 600", world.image)
            delete(cluster, job)
            wait_for_calls(woken, 2 * number + 2)
            wait_until_gone(cluster, job)
        assert woken == [ORDER.name] * 6 and thread.is_alive()
        assert listed == [None]


def wait_for_calls(calls: list[str], count: int) -> None:
    Cluster.wait_for(lambda: len(calls) >= count, what=f"{count} calls")


@contextmanager
def running(watching: Callable[[asyncio.Event, asyncio.Event], Any]) -> Iterator[threading.Thread]:
    """Run the real watch in a thread and an event loop of its own."""
    loop, ready, stop = asyncio.new_event_loop(), asyncio.Event(), asyncio.Event()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(watching(ready, stop),), daemon=True
    )
    thread.start()
    try:
        Cluster.wait_for(ready.is_set, what="the watch is ready")
        yield thread
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()
        # kopf does not wait until its TLS connections are closed. An operator's process ends
        # then; this process goes on and
        # would report them as unclosed in another test.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def test_an_operator_whose_loop_crashes_exits_1_and_releases_its_lease(
    world: ClusterWorld, cluster: Cluster
) -> None:
    """A value in Enrollgate's own table is no date: no code expects that."""
    (task,) = world.add("processing")
    process = world.start_operator(
        KUBERNETES__LEADER_ELECTION="true", KUBERNETES__LEASE_DURATION="3600"
    )
    wait_for_log(world, f"ENROLL CHECK task={task}")
    world.sql("UPDATE enrollgate_tasks SET first_seen_at = 'soon'")
    world.set(task, "paid")
    assert process.wait(120) == 1
    assert "the loop failed; the operator ends, and Kubernetes restarts it" in world.log
    assert "ValueError: Invalid isoformat string: 'soon'" in world.log
    lease = cluster.api.request(
        "GET", f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/leases/school"
    )
    assert lease["spec"]["holderIdentity"] == ""
