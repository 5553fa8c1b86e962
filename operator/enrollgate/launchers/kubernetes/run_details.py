"""What a cluster knows of one run: its Job, the Job's pods, and their Events.

For people who ask about one run (`enrollgate explain`), with their own kubeconfig.
"""

from dataclasses import dataclass, field
from random import Random

from enrollgate.launchers.base import LauncherUnavailable
from enrollgate.launchers.kubernetes.api import Api, ApiError, ClusterNotConfigured, connect
from enrollgate.launchers.kubernetes.job_client import JobClient
from enrollgate.launchers.kubernetes.request_pool import RequestPool
from enrollgate.launchers.kubernetes.views import EventView, JobView, PodView

# Events that are returned, at most; the newest ones.
_MAX_EVENTS = 12


@dataclass(frozen=True, slots=True)
class RunDetails:
    """One run in its namespace.

    `problem` says why the cluster could not be asked; the rest is empty then. `quotas` describes
    each ResourceQuota that is used up; it is read only while there is no Job.
    """

    problem: str = ""
    job: JobView | None = None
    pods: list[PodView] = field(default_factory=list)
    events: list[EventView] = field(default_factory=list)
    quotas: list[str] = field(default_factory=list)


def read_run_details(namespace: str, name: str) -> RunDetails:
    """Ask the cluster of this process, or of the current kubeconfig, about one run."""
    random = Random()  # noqa: S311 -- only spreads retries
    try:
        # Nobody waits in front of a terminal for a server that is away: one attempt is enough.
        api, _ = connect(random=random, sleep=lambda _seconds: True, connections=2)
    except ClusterNotConfigured as error:
        return RunDetails(problem=str(error))
    pool = RequestPool(2)
    try:
        return _read(api, JobClient(api, namespace, pool, lambda: None), namespace, name)
    except LauncherUnavailable as error:
        return RunDetails(problem=str(error))
    finally:
        pool.close()
        api.close()


def _read(api: Api, client: JobClient, namespace: str, name: str) -> RunDetails:
    job = client.find(name)
    pods = client.pods_by_job({name: job.uid if job else None})[name]
    events = client.events(name)
    for pod in pods:
        events += client.events(pod.name)
    quotas = list[str]()
    if job is None:
        try:
            for page in api.pages(f"/api/v1/namespaces/{namespace}/resourcequotas", query={}):
                quotas += [text for raw in page for text in exhausted_quotas(raw)]
        except ApiError as error:
            quotas.append(f"the quotas cannot be read: HTTP {error.status} {error.reason}")
    events.sort(key=lambda event: event.last_seen)
    pods.sort(key=lambda pod: pod.created)
    return RunDetails(job=job, pods=pods, events=events[-_MAX_EVENTS:], quotas=quotas)


def exhausted_quotas(raw: dict[str, object]) -> list[str]:
    """Describe each resource of a ResourceQuota of which no more may be used.

    https://kubernetes.io/docs/concepts/policy/resource-quotas/
    """
    match raw:
        case {
            "metadata": {"name": str(name)},
            "status": {"hard": dict(hard), "used": dict(used)},
        }:
            return [
                f"{name}: {resource}: {used[resource]} of {limit} used"
                for resource, limit in hard.items()
                if used.get(resource) == limit
            ]
    return []
