"""Leader election against the real API server's optimistic locking, on a driven clock."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.cluster.chart import grant
from tests.cluster.control_plane import Cluster

from enrollgate.control.leader_election import LeaderElectionForbidden, LeaderElector

DURATION = 15.0


class DrivenClock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def utc(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now)


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def operator_kubeconfig(cluster: Cluster, namespace: str) -> Path:
    grant(namespace, cluster.kubeconfig, replicas=2)
    return cluster.kubeconfig_for(namespace, "school")


@pytest.fixture
def candidate(
    namespace: str, operator_kubeconfig: Path, clock: DrivenClock
) -> Iterator[Callable[[str], LeaderElector]]:
    with closing(Cluster.api_for(operator_kubeconfig)) as api:

        def make(me: str) -> LeaderElector:
            return LeaderElector(
                api,
                namespace=namespace,
                name="school",
                identity=me,
                duration=DURATION,
                monotonic=clock.monotonic,
                clock=clock.utc,
            )

        yield make


@pytest.fixture
def path(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


Candidate = Callable[[str], LeaderElector]


def test_another_replica_takes_over_only_when_the_lease_has_expired(
    candidate: Candidate, clock: DrivenClock
) -> None:
    first, second = candidate("first"), candidate("second")
    assert (
        first.try_acquire_or_renew()
        and not second.try_acquire_or_renew()
        and second.holder == "first"
    )
    clock.now += DURATION  # the second has seen it unchanged for exactly its duration
    assert not first.is_held() and not second.try_acquire_or_renew()
    clock.now += 0.1
    assert (
        second.try_acquire_or_renew()
        and not first.try_acquire_or_renew()
        and first.holder == "second"
    )


def test_a_leader_that_renews_is_never_replaced(candidate: Candidate, clock: DrivenClock) -> None:
    first, second = candidate("first"), candidate("second")
    for _ in range(20):
        assert first.try_acquire_or_renew() and not second.try_acquire_or_renew()
        clock.now += first.interval


def test_only_one_of_two_candidates_acquires_an_expired_lease(
    candidate: Candidate, clock: DrivenClock
) -> None:
    gone, second, third = candidate("gone"), candidate("second"), candidate("third")
    assert (
        gone.try_acquire_or_renew()
        and not second.try_acquire_or_renew()
        and not third.try_acquire_or_renew()
    )
    clock.now += DURATION + 1
    assert [second.try_acquire_or_renew(), third.try_acquire_or_renew()] == [True, False]


def test_a_released_lease_is_acquired_at_once(candidate: Candidate) -> None:
    first, second = candidate("first"), candidate("second")
    assert first.try_acquire_or_renew() and not second.try_acquire_or_renew()
    first.release()
    assert not first.is_held() and second.try_acquire_or_renew()


def test_a_deleted_lease_is_recreated_only_after_its_duration(
    candidate: Candidate, clock: DrivenClock, cluster: Cluster, path: str
) -> None:
    first, second = candidate("first"), candidate("second")
    assert first.try_acquire_or_renew() and not second.try_acquire_or_renew()
    cluster.api.request("DELETE", f"{path}/school")
    for _ in range(2):
        assert not first.try_acquire_or_renew() and not second.try_acquire_or_renew()
        clock.now += DURATION
    assert cluster.find(f"{path}/school") is None
    clock.now += 0.1
    assert first.try_acquire_or_renew() and not second.try_acquire_or_renew()


def test_labels_and_annotations_of_an_existing_lease_are_kept(
    candidate: Candidate, cluster: Cluster, path: str
) -> None:
    metadata = {
        "name": "school",
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"a": "b"},
    }
    cluster.create(
        path, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
    )
    lease = candidate("first")
    assert lease.try_acquire_or_renew() and lease.try_acquire_or_renew()
    lease.release()
    kept = cluster.api.request("GET", f"{path}/school")["metadata"]
    assert kept["labels"] == metadata["labels"] and kept["annotations"] == {"a": "b"}


def test_a_lease_that_the_role_does_not_grant_raises_with_the_remedy(
    namespace: str, operator_kubeconfig: Path, clock: DrivenClock
) -> None:
    with closing(Cluster.api_for(operator_kubeconfig)) as api:
        lease = LeaderElector(
            api,
            namespace=namespace,
            name="other",
            identity="x",
            duration=DURATION,
            monotonic=clock.monotonic,
            clock=clock.utc,
        )
        with pytest.raises(
            LeaderElectionForbidden,
            match="forbidden.*grant the operator what the Role in the chart grants",
        ):
            lease.try_acquire_or_renew()
