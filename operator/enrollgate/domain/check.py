"""One check of `enrollgate doctor`: what was checked, how it went, and what to do."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How a check went."""

    OK = "ok"
    # It works, but it could work better.
    WARNING = "warning"
    # Tasks cannot be done until this is fixed.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    severity: Severity
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Check:
    """Return a check that succeeded."""
    return Check(name, Severity.OK, detail)


def warning(name: str, detail: str, remedy: str) -> Check:
    """Return a check that found something to improve."""
    return Check(name, Severity.WARNING, detail, remedy)


def failed(name: str, detail: str, remedy: str) -> Check:
    """Return a check that found something to fix."""
    return Check(name, Severity.FAILED, detail, remedy)
