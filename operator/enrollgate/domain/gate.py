"""The log lines and messages of the gate.

Each decision is one line with the tag `ENROLL CHECK`, which people search for.
"""


def waiting_line(task_id: int, status: str, elapsed: float, limit: float) -> str:
    """Return the line: the task waits for its enrollment. Times in seconds."""
    return f"ENROLL CHECK task={task_id} status={status} waiting... ({elapsed:.0f}s/{limit:.0f}s)"


def open_line(task_id: int, status: str, elapsed: float, limit: float) -> str:
    """Return the line: the task is enrolled, its run may start."""
    timing = f"({elapsed:.0f}s/{limit:.0f}s)"
    return f"ENROLL CHECK task={task_id} status={status} enrolled, gate open {timing}"


def closed_line(task_id: int, status: str, why: str, elapsed: float, limit: float) -> str:
    """Return the line: Node.js or Enrollgate finished the task."""
    return f"ENROLL CHECK task={task_id} status={status} {why} ({elapsed:.0f}s/{limit:.0f}s)"


def timeout_message(limit: float) -> str:
    """Return the message of reason EnrollmentTimeout. `limit` in seconds."""
    return f"enrollment timeout after {limit:g}s"


def unexpected_status_message(status: str | None) -> str:
    """Return the message of reason UnexpectedStatus."""
    shown = "NULL" if status is None else repr(status)
    return f"status became {shown}, which is none of the configured statuses"
