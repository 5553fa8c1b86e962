"""A Lease at an API server that hangs: nobody works on in the belief that it is still theirs. The clock is driven."""

from datetime import UTC, datetime
from typing import Any

import pytest

from enrollgate.control.leader_election import Lease
from enrollgate.launchers import LauncherUnavailable

DURATION = 15.0


class Server:
    """Keeps one Lease. While it hangs, each request takes all the time that it is given, or half a minute."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hangs = False
        self.lease: dict[str, Any] | None = None
        self.asked = 0

    def request(
        self, method: str, path: str, *, body: Any = None, timeout: float | None = None
    ) -> Any:
        self.asked += 1
        if self.hangs:
            self.now += 35.0 if timeout is None else timeout
            raise LauncherUnavailable("it hangs")
        if method != "GET":
            version = str(self.asked)
            self.lease = body | {"metadata": body["metadata"] | {"resourceVersion": version}}
        assert self.lease is not None
        return self.lease


@pytest.fixture
def server() -> Server:
    made = Server()
    made.lease = {"metadata": {"name": "school", "resourceVersion": "0"}, "spec": {}}
    return made


def candidate(server: Server, duration: float = DURATION) -> Lease:
    return Lease(
        server,  # type: ignore[arg-type]  # as much of an Api as a Lease needs
        namespace="courses",
        name="school",
        me="first",
        duration=duration,
        monotonic=lambda: server.now,
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("duration", [1.0, 15.0, 60.0, 3600.0])
def test_a_holder_learns_that_it_lost_the_lease_before_anybody_else_may_take_it(
    server: Server, duration: float
) -> None:
    lease = candidate(server, duration)
    assert lease.try_acquire_or_renew()
    renewed, server.hangs = server.now, True
    while True:  # as the keeper does
        server.now += lease.interval
        if not lease.try_acquire_or_renew():
            break
    assert server.now < renewed + duration and not lease.is_held()


@pytest.mark.parametrize("duration", [15.0, 3600.0])
def test_one_that_stands_by_is_not_held_up_for_longer_than_a_probe_has_patience(
    server: Server, duration: float
) -> None:
    lease = candidate(server, duration)
    server.hangs = True
    assert not lease.try_acquire_or_renew()
    assert server.now + lease.interval <= 60


def test_a_server_that_hangs_for_a_moment_costs_no_lease(server: Server) -> None:
    lease = candidate(server)
    assert lease.try_acquire_or_renew()
    server.now += lease.interval
    server.now += 4
    assert lease.try_acquire_or_renew()
    server.hangs = True
    lease.release()
    assert not lease.is_held() and server.now <= 15
