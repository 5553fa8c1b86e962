"""The log lines and messages of the gate.

Each decision is one line with the tag `ENROLL CHECK`, which people search for. Node.js may write
any text as a status. One that is more than a word is quoted and escaped, so that it cannot pass for
another part of the line, or for another line.
"""

import re
from collections.abc import Mapping

from enrollgate.common.redaction import redact

_WORD = re.compile(r"[\w.-]{1,64}")
# Characters of a quoted status, at most.
_STATUS_LIMIT = 100


def waiting_line(task_id: int, status: str, elapsed: float, limit: float) -> str:
    """Return the line: the task waits for its enrollment. Times in seconds."""
    timing = f"({elapsed:.0f}s/{limit:.0f}s)"
    return f"ENROLL CHECK task={task_id} status={_shown(status)} waiting... {timing}"


def open_line(task_id: int, status: str, elapsed: float, limit: float) -> str:
    """Return the line: the task is enrolled, its run may start."""
    timing = f"({elapsed:.0f}s/{limit:.0f}s)"
    return f"ENROLL CHECK task={task_id} status={_shown(status)} enrolled, gate open {timing}"


def closed_line(task_id: int, status: str, why: str, elapsed: float, limit: float) -> str:
    """Return the line: Node.js or Enrollgate finished the task."""
    shown, timing = _shown(status), f"({elapsed:.0f}s/{limit:.0f}s)"
    return f"ENROLL CHECK task={task_id} status={shown} {redact(why)} {timing}"


def unlisted_line(counts: Mapping[str, int]) -> str:
    """Return the line that sums up the decisions of a pass that got no line of their own."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"ENROLL CHECK {sum(counts.values())} more tasks in this pass: {kinds}"


def timeout_message(limit: float) -> str:
    """Return the message of reason EnrollmentTimeout. `limit` in seconds."""
    return f"enrollment timeout after {limit:g}s"


def unexpected_status_message(status: str | None) -> str:
    """Return the message of reason UnexpectedStatus."""
    shown = "NULL" if status is None else _quote(status)
    return f"status became {shown}, which is none of the configured statuses"


def _shown(status: str) -> str:
    return status if _WORD.fullmatch(status) else _quote(status)


def _quote(status: str) -> str:
    return redact(repr(status[:_STATUS_LIMIT]), 4 * _STATUS_LIMIT)
