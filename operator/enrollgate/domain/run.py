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
class UnfinishedRun:
    """A run that is not finished, with its task as the same statement saw it.

    `email` and `course_url` are the row's now. `content_sha256` is their digest as they were
    claimed; `is_changed` says that they differ from it. `claim_id` is of this claim alone, also
    where a restored database gives its name again. `lost_before` is how many runs of this task were
    lost in a row before this one. `stop_reason` and `stop_message` say why it is being stopped.
    `since` is when its task was first seen at the gate (UTC), None once the task has left it.
    `is_ambiguous` says that several rows have the task's id.
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
    content_sha256: str | None = None
    is_changed: bool = False
    claim_id: str = ""
    lost_before: int = 0
    stop_reason: Reason | None = None
    stop_message: str = ""
    since: datetime | None = None
    is_ambiguous: bool = False


def run_name(installation: str, task_id: int, run_number: int) -> str:
    """Return the name of a run at its launcher; for a Job, the Job's name.

    It follows from the installation, the task and the run number alone.
    """
    return f"{installation}-{task_id}-{run_number}"


def is_run_of(installation: str, name: str) -> bool:
    """Return whether `run_name` builds this name for this installation.

    For example, `a-1-2-3` is a run of `a-1` and not of `a`.
    """
    return (
        re.fullmatch(rf"{re.escape(installation)}-(0|-?[1-9][0-9]*)-[1-9][0-9]*", name) is not None
    )
