"""The lease while the API server hangs: no replica works on without it. Tests set the clock."""

from datetime import UTC, datetime
from typing import Any

import pytest

from enrollgate.control.leader_election import LeaderElector
from enrollgate.launchers import LauncherUnavailable

DURATION = 15.0


class Server:
    """An API server with one Lease. While it hangs, a request takes its timeout (default 35 s)."""

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


def candidate(server: Server, duration: float = DURATION) -> LeaderElector:
    return LeaderElector(
        server,  # type: ignore[arg-type]  # the part of Api that leader election uses
        namespace="courses",
        name="school",
        identity="first",
        duration=duration,
        monotonic=lambda: server.now,
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("duration", [1.0, 15.0, 60.0, 3600.0])
def test_lease_when_server_hangs_is_lost_before_others_may_take_it(
    server: Server, duration: float
) -> None:
    lease = candidate(server, duration)
    assert lease.try_acquire_or_renew()
    renewed, server.hangs = server.now, True
    while True:  # as the runner does
        server.now += lease.interval
        if not lease.try_acquire_or_renew():
            break
    assert server.now < renewed + duration and not lease.is_held()


@pytest.mark.parametrize("duration", [15.0, 3600.0])
def test_standby_when_server_hangs_still_answers_its_probe_in_time(
    server: Server, duration: float
) -> None:
    lease = candidate(server, duration)
    server.hangs = True
    assert not lease.try_acquire_or_renew()
    assert server.now + lease.interval <= 60


def test_lease_when_server_hangs_briefly_is_kept(server: Server) -> None:
    lease = candidate(server)
    assert lease.try_acquire_or_renew()
    server.now += lease.interval
    server.now += 4
    assert lease.try_acquire_or_renew()
    server.hangs = True
    lease.release()
    assert not lease.is_held() and server.now <= 15
