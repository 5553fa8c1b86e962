"""What `enrollgate doctor` finds: one line each, with what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well as it could."""
    FAILED = "failed"
    """Tasks will not be done until this is mended."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    severity: Severity
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Check:
    """A check that went well."""
    return Check(name, Severity.OK, detail)


def warning(name: str, detail: str, remedy: str) -> Check:
    """A check that found something to improve."""
    return Check(name, Severity.WARNING, detail, remedy)


def failed(name: str, detail: str, remedy: str) -> Check:
    """A check that found something to mend."""
    return Check(name, Severity.FAILED, detail, remedy)
