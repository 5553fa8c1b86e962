"""The tests' control plane and nodes behave as real ones do, so that the other tests mean
something.
"""

import pytest
from tests.cluster.control_plane import Cluster
from tests.cluster.job_watch import JobWatch
from tests.cluster.jobs import UP, delete, ended, list_logs, list_pods, make_job, wait_until_gone
from tests.cluster.pod_runner.runner import changes_of_pods

from enrollgate.launchers.kubernetes import ApiError
from enrollgate.launchers.kubernetes.job_client import parse_pod

pytestmark = pytest.mark.usefixtures("nodes")


def test_a_job_runs_once_as_its_spec_says(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.secret(namespace, "cookies", **{"cookies.txt": "secret-cookie"})
    script = """
        id -u; cat /etc/enrollgate/cookies/cookies.txt; touch /scratch/a /tmp/b && echo writable
        touch /etc/c 2>&1; touch /etc/enrollgate/cookies/d 2>&1; grep CapEff /proc/self/status
        enrollgate --help >/scratch/help && echo "process $$$$ on $(hostname)"
        said="task $ENROLLGATE_TASK_ID, failed before: $ENROLLGATE_FAILED_ATTEMPTS"
        printf '%s' "$said" > /dev/termination-log
    """
    job = ended(cluster, make_job(cluster, namespace, script, image, cookies_secret="cookies"))
    assert job.result is not None and job.result.succeeded
    (pod,) = list_pods(cluster, namespace)
    assert pod.termination is not None
    assert (pod.termination.exit_code, pod.termination.reason, pod.termination.message) == (
        0,
        "Completed",
        "task 1, failed before: 0",
    )
    (log,) = list_logs(cluster, namespace)
    assert (
        "10001\nsecret-cookie" in log
        and "writable" in log
        and log.count("Read-only file system") == 2
    )
    assert "CapEff:\t0000000000000000" in log and "process 1 on harness-1-1-0\n" in log


def test_a_job_without_a_report_is_read_from_its_log(
    cluster: Cluster, namespace: str, image: str
) -> None:
    ended(cluster, make_job(cluster, namespace, "echo no such course; exit 69", image))
    (pod,) = list_pods(cluster, namespace)
    assert pod.termination is not None and pod.termination.message == "no such course\n"


def test_a_permanent_exit_code_fails_the_job_at_once(
    cluster: Cluster, namespace: str, image: str
) -> None:
    job = ended(cluster, make_job(cluster, namespace, "exit 69", image))
    assert (
        job.result is not None
        and not job.result.succeeded
        and job.result.reason == "PodFailurePolicy"
    )
    assert len(list_pods(cluster, namespace)) == 1


def test_a_retried_pod_knows_how_many_failed_before_it(
    cluster: Cluster, namespace: str, image: str
) -> None:
    script = 'printf %s "$ENROLLGATE_FAILED_ATTEMPTS" > /dev/termination-log; exit 75'
    job = ended(cluster, make_job(cluster, namespace, script, image, max_attempts=2))
    assert job.result is not None and job.result.reason == "BackoffLimitExceeded"
    assert [
        pod.termination.message for pod in list_pods(cluster, namespace) if pod.termination
    ] == [
        "0",
        "1",
    ]


def test_a_deleted_jobs_process_is_asked_to_end(
    cluster: Cluster, namespace: str, image: str
) -> None:
    job = make_job(cluster, namespace, UP.replace("echo asked;", "echo asked; sleep 3;"), image)
    cluster.wait_for(lambda: list_logs(cluster, namespace) == ["up\n"])
    delete(cluster, job)
    cluster.wait_for(lambda: list_logs(cluster, namespace) == ["up\nasked\n"])
    cluster.wait_for(lambda: not list_pods(cluster, namespace))
    assert cluster.find(job) is None


def test_a_watch_ended_by_the_api_server_continues_where_it_was(
    cluster: Cluster, namespace: str, image: str
) -> None:
    watch = JobWatch(cluster, namespace, seconds=1)
    for _ in range(3):
        job = make_job(cluster, namespace, "sleep 1", image)
        ended(cluster, job)
        delete(cluster, job)
        wait_until_gone(cluster, job)
    cluster.wait_for(lambda: len(watch.ever) == 3 and watch.active == 0)
    watch.close()
    assert watch.tasks == [(1, 1)] * 3 and watch.most_active == 1


@pytest.mark.parametrize(
    ("as_volume", "waiting", "event", "text"),
    [
        (False, "CreateContainerConfigError", "Failed", 'Error: secret "gone" not found'),
        (True, "ContainerCreating", "FailedMount", 'secret "gone" not found'),
    ],
)
def test_a_pod_waits_for_its_secret(
    cluster: Cluster,
    namespace: str,
    image: str,
    as_volume: bool,
    waiting: str,
    event: str,
    text: str,
) -> None:
    from_secret = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "word"}}}
    template = {
        "spec": {"template": {"spec": {"containers": [{"name": "worker", "env": [from_secret]}]}}}
    }
    settings = {"cookies_secret": "gone"} if as_volume else {"template": template}
    job = make_job(cluster, namespace, "true", image, **settings)
    cluster.wait_for(
        lambda: [pod.waiting_reason for pod in list_pods(cluster, namespace)] == [waiting]
    )
    cluster.wait_for(
        lambda: [each for each in cluster.events(namespace) if each["reason"] == event]
    )
    (message, *_) = [
        each["message"] for each in cluster.events(namespace) if each["reason"] == event
    ]
    assert text in message
    cluster.secret(namespace, "gone", word="here")
    result = ended(cluster, job).result
    assert result is not None and result.succeeded


def test_a_deleted_pod_that_never_started_fails_before_it_is_gone(
    cluster: Cluster, namespace: str, image: str
) -> None:
    from_secret = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "word"}}}
    worker = {"name": "worker", "env": [from_secret]}
    template = {"spec": {"template": {"spec": {"containers": [worker]}}}}
    job = make_job(cluster, namespace, "true", image, template=template)
    cluster.wait_for(
        lambda: (
            [pod.waiting_reason for pod in list_pods(cluster, namespace)]
            == ["CreateContainerConfigError"]
        )
    )
    pods = cluster.api.request("GET", f"/api/v1/namespaces/{namespace}/pods")
    delete(cluster, job)
    last = None
    for kind, pod in changes_of_pods(cluster, pods["metadata"]["resourceVersion"]):
        if pod["metadata"]["namespace"] == namespace:
            last = parse_pod(pod)
            if kind == "DELETED":
                break
    assert last is not None and last.phase == "Failed" and last.termination is not None
    state = (last.termination.exit_code, last.termination.reason)
    assert state == (137, "ContainerStatusUnknown") and last.started_at is None


def test_an_account_without_a_role_is_refused(cluster: Cluster, namespace: str) -> None:
    api = cluster.api_for(cluster.kubeconfig_for(namespace, "default"))
    with pytest.raises(ApiError, match="cannot list resource"):
        api.request("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs")


def test_a_pod_that_may_be_root_is_refused(cluster: Cluster, namespace: str) -> None:
    pod = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    with pytest.raises(ApiError, match="violates PodSecurity"):
        cluster.create(f"/api/v1/namespaces/{namespace}/pods", pod)
