"""Jobs, pods and Events as frozen dataclasses, with what decisions need and no more.

`job_client` reads them from the API server's answers. Our labels are here, too.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from enrollgate.domain.observation import Phase

DOMAIN = "enrollgate.io"
# Labels. The value of the first is the installation: a Job that has it is ours.
INSTALLATION = f"{DOMAIN}/installation"
TASK = f"{DOMAIN}/task-id"
RUN = f"{DOMAIN}/run"
# The claim that a Job was created for. A restored database gives the same name to another claim.
CLAIM = f"{DOMAIN}/claim"
# Set on a Job whose outcome is in the database: it is not listed again.
RECORDED = f"{DOMAIN}/recorded"
# The container that does the work.
WORKER = "worker"
# The time of an object that does not say when it was created: it is never late.
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a Job ended, from its `Complete` or `Failed` condition, and when."""

    succeeded: bool
    reason: str
    message: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """One Job.

    `installation` is None and `claim_id` empty without our labels; `started` is None while the Job
    is suspended;
    `result` is None while it is unfinished. `ready_pods` are ready. `current_pods` are active,
    terminating, or finished and not yet counted by the Job controller. `failed_pods` failed and
    were counted. `status_changed` is when the status last changed, as it does when a pod comes or
    goes; unlike an Event, it is kept.
    """

    name: str
    uid: str
    installation: str | None
    is_recorded: bool
    created: datetime
    started: datetime | None
    is_suspended: bool
    is_deleting: bool
    ready_pods: int
    current_pods: int
    failed_pods: int
    status_changed: datetime | None
    result: JobResult | None
    claim_id: str = ""

    @property
    def phase(self) -> Phase:
        """The phase of the Job's run: the only place where a Job's result becomes one."""
        if self.result is None:
            return Phase.LIVE
        return Phase.SUCCEEDED if self.result.succeeded else Phase.FAILED


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container ended, and when.

    `message` is its termination message, or the last lines of its log.
    """

    exit_code: int
    reason: str
    message: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of a Job.

    `job` and `job_uid` name the Job that owns it. Without an owner, `job` is what its label says,
    and `job_uid` is empty: a label alone proves nothing.
    `delete_by` is the time by which a deleted pod should be gone. `has_started` says whether the
    worker runs or has run. `waiting_reason` is the kubelet's word for why it does not run yet.
    `unscheduled` is the scheduler's message, empty once the pod has a node. `disruption` says why
    the pod was removed (drain, eviction, preemption), empty if it was not. `termination` is how the
    worker ended. `started_at` is when the worker began. `node` is the name of its node, empty until
    it has one.
    """

    name: str
    job: str
    job_uid: str
    phase: str
    reason: str
    message: str
    created: datetime
    delete_by: datetime | None
    has_started: bool
    waiting_reason: str
    waiting_message: str
    unscheduled: str
    disruption: str
    termination: Termination | None
    started_at: datetime | None = None
    claim_id: str = ""
    node: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether its containers will never run again."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class EventView:
    """One Kubernetes Event. `last_seen` is a timestamp as text, which sorts by time."""

    reason: str
    message: str
    is_warning: bool
    last_seen: str


def job_selector(installation: str) -> str:
    """Select the Jobs of an installation whose outcome is not in the database yet."""
    return f"{INSTALLATION}={installation},!{RECORDED}"


def task_label(task_id: int) -> str:
    """Build the value of the label TASK. A label begins with a letter or a digit."""
    return str(task_id).replace("-", "minus-")
