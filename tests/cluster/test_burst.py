"""A thousand enrolled rows at once."""

from tests.cluster.job_watch import JobWatch
from tests.cluster.pod_runner import FakeKubelet
from tests.cluster.steps import all_completed
from tests.cluster.world import ClusterWorld

ROWS = 1000
LIMIT = 50


def test_a_burst_of_1000_rows_never_exceeds_the_concurrency_limit(
    world: ClusterWorld, watch: JobWatch, fake_kubelet: FakeKubelet
) -> None:
    """Pods end as soon as the API server has them, so only the operator limits the speed."""
    tasks = world.add(count=ROWS)
    world.start_operator(MAX_CONCURRENT_RUNS=str(LIMIT), LOG_LEVEL="warning")
    all_completed(world, watch, tasks, timeout=280)
    assert watch.most_active <= LIMIT
    assert watch.most_active > LIMIT // 2, (
        "the slots were hardly used: the limit was not put to the test"
    )
    assert len(watch.ever) == ROWS and watch.active == 0
