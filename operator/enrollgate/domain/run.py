"""A run: one numbered unit of work that brings one task's course to its destination."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from enrollgate.domain.reasons import Reason
from enrollgate.domain.task import TaskState


class RunState(StrEnum):
    """The state of a run.

    In every state but the last it is *unfinished*; a task has at most one unfinished run.
    """

    # Recorded in the database, and perhaps already launched.
    CLAIMED = "claimed"
    # Known to exist at its launcher.
    LAUNCHED = "launched"
    # Being stopped; finished once its launcher shows it no longer live.
    STOPPING = "stopping"
    # Its outcome is recorded, and nothing of it runs. Only the status of its task is still to be
    # written, because the database refused it.
    ENDED = "ended"
    FINISHED = "finished"


class Outcome(StrEnum):
    """How a run ended. Also the metric label `outcome`."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    # Stopped, or never launched, because its task no longer needed it.
    REVOKED = "revoked"
    # Disappeared without a result; a new run follows.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run is carried out, recorded at its claim. Only an operator there can observe it.

    `launcher` is `local` or `kubernetes`. `place_id` is the work directory's own id, or the
    namespace. `machine_id` is the host's machine id (empty if it has none), or the namespace's UID:
    another cluster may have a namespace of the same name, and so may this one after the first was
    deleted. Only a local place has the rest: the host's name, the work directory's path, and the
    id of the host's current boot.
    """

    launcher: str
    place_id: str
    host: str = ""
    machine_id: str = ""
    work_dir: str = ""
    boot_id: str = ""

    def __str__(self) -> str:
        """Describe the place to people."""
        if self.launcher == "local":
            return f"{self.work_dir} on host {self.host}"
        return f"{self.launcher} namespace {self.place_id}"

    @property
    def id(self) -> str:
        """Return what `mark-lost` takes, and no other place has."""
        return (self.machine_id if self.launcher == "kubernetes" else "") or self.place_id

    def seen_from(self, here: "RunPlace") -> str:
        """Describe this place to people at another one."""
        if self.launcher == "kubernetes" and str(self) == str(here):
            return f"{self} of another cluster, or before it was deleted and created again"
        return str(self)

    def shares_machine_with(self, other: "RunPlace") -> bool:
        """Return whether both places are local, and on one machine for certain.

        One boot id means one kernel: containers share it, and file locks work between them. After
        a reboot, the machine id and the host's name must both be the same, since copied machines
        and containers may share one of them.
        """
        if {self.launcher, other.launcher} != {"local"}:
            return False
        return self.boot_id == other.boot_id != "unknown" or (
            (self.machine_id, self.host) == (other.machine_id, other.host)
        )

    def can_observe(self, other: "RunPlace") -> bool:
        """Return whether an operator here sees every run that is recorded there.

        Only then is a run lost that it does not see.
        """
        if (self.launcher, self.place_id) != (other.launcher, other.place_id):
            return False
        if self.launcher == "local":
            return self.shares_machine_with(other)
        return self.machine_id == other.machine_id


@dataclass(frozen=True, slots=True)
class UnfinishedRun:
    """A run that is not finished, with its task as the same statement saw it.

    `email` and `course_url` are the row's now. `content_sha256` is their digest as they were
    claimed; `is_changed` says that they differ from it. `claim_id` is of this claim alone, also
    where a restored database gives its name again. `lost_before` is how many runs of this task were
    lost in a row before this one. `stop_reason` and `stop_message` say why it is being stopped,
    or why it waits.
    `since` is when its task was first seen at the gate (UTC), None once the task has left it.
    `is_ambiguous` says that several rows have the task's id. `place` is where the run is carried
    out. `outcome` is known if the run has `ENDED`. `refusals` is how often the database refused to
    write the task's status, `launch_refusals` how often the launcher refused to launch a run of
    this task in a row. `enrolled_since` is when the task was first seen as enrolled (UTC).
    `attempt` is the last attempt whose progress is known, 0 before the first one.
    `account` is the digest of its account and `course_host` the host of its course, as they were
    claimed at `claimed_at` (UTC).
    """

    run_id: int
    task_id: int
    run_number: int
    name: str
    state: RunState
    task: TaskState
    task_status: str | None
    email: str | None
    course_url: str | None
    place: RunPlace
    content_sha256: str | None = None
    is_changed: bool = False
    claim_id: str = ""
    lost_before: int = 0
    stop_reason: Reason | None = None
    stop_message: str = ""
    since: datetime | None = None
    is_ambiguous: bool = False
    outcome: Outcome | None = None
    refusals: int = 0
    launch_refusals: int = 0
    enrolled_since: datetime | None = None
    attempt: int = 0
    account: str | None = None
    course_host: str | None = None
    claimed_at: datetime | None = None


def run_name(installation: str, task_id: int, run_number: int) -> str:
    """Return the name of a run at its launcher; for a Job, the Job's name.

    It follows from the installation, the task and the run number alone.
    """
    return f"{installation}-{task_id}-{run_number}"


def parse_run_name(installation: str, name: str) -> tuple[int, int] | None:
    """Return the task's id and the run number; None if `run_name` does not build this name so.

    For example, `a-1-2-3` is a run of `a-1` and not of `a`.
    """
    pattern = rf"{re.escape(installation)}-(0|-?[1-9][0-9]*)-([1-9][0-9]*)"
    match = re.fullmatch(pattern, name)
    return (int(match[1]), int(match[2])) if match else None


def is_run_of(installation: str, name: str) -> bool:
    """Return whether `run_name` builds this name for this installation."""
    return parse_run_name(installation, name) is not None
