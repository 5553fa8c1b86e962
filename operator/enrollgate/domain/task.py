"""The table that Node.js owns: its columns, its statuses, and what a status means to the gate."""

from dataclasses import dataclass
from enum import StrEnum


class TaskState(StrEnum):
    """What a task's status means to Enrollgate.

    The database decides which configured status a row has, by the collation of its column.
    """

    WAITING = "waiting"
    ENROLLED = "enrolled"
    COMPLETED = "completed"
    FAILED = "failed"
    # The status is NULL or none of the configured ones.
    UNKNOWN = "unknown"
    # The row was deleted.
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Statuses:
    """The statuses as this deployment spells them."""

    waiting: tuple[str, ...] = ("pending", "paid", "processing")
    enrolled: str = "enrolled"
    completed: str = "completed"
    failed: str = "failed"

    @property
    def open(self) -> tuple[str, ...]:
        """Return the statuses of a task that is not finished: waiting or enrolled."""
        return (*self.waiting, self.enrolled)

    @property
    def known(self) -> tuple[str, ...]:
        """Return all configured statuses."""
        return (*self.open, self.completed, self.failed)

    def state(self, status: str | None) -> TaskState:
        """Return what a status means: `UNKNOWN` for None and for any that is not configured.

        The spelling must be exactly the configured one.
        """
        if status in self.waiting:
            return TaskState.WAITING
        states = {
            self.enrolled: TaskState.ENROLLED,
            self.completed: TaskState.COMPLETED,
            self.failed: TaskState.FAILED,
        }
        return TaskState.UNKNOWN if status is None else states.get(status, TaskState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class TaskColumns:
    """The names of the task table and of its columns."""

    table: str = "download_tasks"
    id: str = "id"
    status: str = "status"
    email: str = "email"
    course_url: str = "course_url"
    priority: str | None = None
