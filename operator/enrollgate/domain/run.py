"""A run: one run_number to bring one task's course to its destination."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from enrollgate.domain.reasons import Reason
from enrollgate.domain.task import TaskState


class RunState(StrEnum):
    """How far a run has come. Every state but the last is *unfinished*, and a task has at most one unfinished run."""

    CLAIMED = "claimed"
    """Intended: recorded, and perhaps already launched."""
    LAUNCHED = "launched"
    """Known to exist at its launcher."""
    STOPPING = "stopping"
    """To be stopped; finished once its launcher shows it no longer live."""
    FINISHED = "finished"


class Outcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    """Stopped, or never launched, because its task no longer wanted it."""
    LOST = "lost"
    """Vanished without a verdict; a new run_number is made."""


@dataclass(frozen=True, slots=True)
class UnfinishedRun:
    """A run that is not finished, with its task as the same statement saw it."""

    run_id: int
    task_id: int
    run_number: int
    name: str
    state: RunState
    task: TaskState
    task_status: str | None
    email: str | None
    course_url: str | None
    lost_before: int = 0
    """Runs of this task that were lost, in a row, before this one."""
    stop_reason: Reason | None = None
    """Why it is being stopped, once it is."""
    stop_message: str = ""
    since: datetime | None = None
    """When its task was first seen at the gate (UTC); None once the task has left it."""


def run_name(installation: str, task_id: int, run_number: int) -> str:
    """The name of a run at its launcher (the Job's name): it follows from the task and the run_number alone."""
    return f"{installation}-{task_id}-{run_number}"


def is_run_of(installation: str, name: str) -> bool:
    """Whether `run_name` gives this name for this installation: `a-1-2-3` is a run of `a-1`, and none of `a`."""
    return (
        re.fullmatch(rf"{re.escape(installation)}-(0|-?[1-9][0-9]*)-[1-9][0-9]*", name) is not None
    )
