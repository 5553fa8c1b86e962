"""The words of the table that Node.js owns, and what a status means to the gate."""

from dataclasses import dataclass
from enum import StrEnum


class TaskState(StrEnum):
    """What a task's status means to Enrollgate. The database decides which word is which, by its own collation."""

    WAITING = "waiting"
    ENROLLED = "enrolled"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """A word that is none of the configured ones, or NULL."""
    MISSING = "missing"
    """The row was deleted."""


@dataclass(frozen=True, slots=True)
class StatusWords:
    """The status words as this deployment spells them."""

    waiting: tuple[str, ...] = ("pending", "paid", "processing")
    enrolled: str = "enrolled"
    completed: str = "completed"
    failed: str = "failed"

    @property
    def open(self) -> tuple[str, ...]:
        """The words of a task that is not over: waiting or enrolled."""
        return (*self.waiting, self.enrolled)

    @property
    def known(self) -> tuple[str, ...]:
        """All words that have a meaning."""
        return (*self.open, self.completed, self.failed)

    def state(self, word: str | None) -> TaskState:
        """The meaning of a word as configured (exact spelling), `UNKNOWN` for any other and for None."""
        if word in self.waiting:
            return TaskState.WAITING
        meanings = {
            self.enrolled: TaskState.ENROLLED,
            self.completed: TaskState.COMPLETED,
            self.failed: TaskState.FAILED,
        }
        return TaskState.UNKNOWN if word is None else meanings.get(word, TaskState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class TaskColumns:
    """Where Node.js keeps its tasks."""

    table: str = "download_tasks"
    id: str = "id"
    status: str = "status"
    email: str = "email"
    course_url: str = "course_url"
