"""The words of the gate: one line for each decision, tagged `ENROLL CHECK`, as people have always grepped for it."""


def waiting_line(task_id: int, status: str, elapsed: float, limit: float) -> str:
    """The task waits for its enrollment."""
    return f"ENROLL CHECK task={task_id} status={status} waiting... ({elapsed:.0f}s/{limit:.0f}s)"


def open_line(task_id: int, status: str, elapsed: float, limit: float) -> str:
    """The task is enrolled: its run may start."""
    return f"ENROLL CHECK task={task_id} status={status} enrolled, gate open ({elapsed:.0f}s/{limit:.0f}s)"


def closed_line(task_id: int, status: str, why: str, elapsed: float, limit: float) -> str:
    """The task is over for the gate: Node.js ended it, or we did."""
    return f"ENROLL CHECK task={task_id} status={status} {why} ({elapsed:.0f}s/{limit:.0f}s)"


def timeout_message(limit: float) -> str:
    """The message of reason EnrollmentTimeout."""
    return f"enrollment timeout after {limit:g}s"


def unexpected_status_message(status: str | None) -> str:
    """The message of reason UnexpectedStatus."""
    word = "NULL" if status is None else repr(status)
    return f"status became {word}, which is none of the configured status words"
