"""A thousand enrolled rows at once."""

from tests.cluster.job_watch import JobWatch
from tests.cluster.pod_runner import FakeKubelet
from tests.cluster.test_kills import finished
from tests.cluster.world import ClusterWorld

ROWS = 1000
LIMIT = 50


def test_a_thousand_rows_have_a_thousand_jobs_and_never_more_than_the_limit_at_once(
    world: ClusterWorld, watch: JobWatch, mimic: FakeKubelet
) -> None:
    """Pods end as soon as the API server has them, so that all the hurry is the operator's."""
    tasks = world.add(count=ROWS)
    world.start_operator(MAX_CONCURRENT_RUNS=str(LIMIT), LOG_LEVEL="warning")
    finished(world, watch, tasks, timeout=280)
    assert watch.most_active <= LIMIT
    assert watch.most_active > LIMIT // 2, (
        "the slots were hardly used: the limit was not put to the test"
    )
    assert len(watch.ever) == ROWS and watch.active == 0
