"""What a worker reports at its end: one JSON object of at most 4 KiB.

The size is the limit of a Kubernetes termination message
(https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/); local runs
use the same file.

A report comes from outside (a container wrote it), so `from_dict` checks every field. `to_dict` is
what the database and the run directory keep.
"""

import json
import math
from dataclasses import asdict, dataclass, fields, replace

from enrollgate.common.redaction import redact
from enrollgate.domain.reasons import Reason

# Bytes of an encoded report, at most.
REPORT_LIMIT = 4096
_MAX_FAILED_ITEMS = 10
_TITLE_LIMIT = 80
_NOTE = " failed items are not named here, only in the worker's log"


class MalformedReport(ValueError):
    """What was found in place of a report is not one."""


@dataclass(frozen=True, slots=True)
class FailedItem:
    """One item of a course that was not delivered. `item` is its title as the site gives it."""

    item: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class LeftOutItem:
    """One item that is left out on purpose, by its title, and why."""

    item: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """How one attempt of a run ended.

    `reason` is None exactly when the course is complete at its destination, but for what is left
    out on purpose. `bytes_delivered` and
    `items_delivered` count what this attempt moved, `items_skipped` what was there already.
    `remedy` says what to do about this very failure; if it is empty, the reason's own remedy
    applies. `retry_after` is how many seconds the site asked us to wait before the next attempt.
    """

    reason: Reason | None
    message: str
    items_delivered: int = 0
    items_skipped: int = 0
    items_failed: int = 0
    bytes_delivered: int = 0
    seconds: float = 0.0
    destination_id: str = ""
    destination_url: str = ""
    failed_items: tuple[FailedItem, ...] = ()
    remedy: str = ""
    retry_after: float | None = None
    items_left_out: int = 0
    left_out_items: tuple[LeftOutItem, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain data for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: object) -> "Report":
        """Build a report from plain data.

        Raises MalformedReport if a field is missing, unknown or of another type.
        """
        try:
            if not isinstance(raw, dict) or not raw.keys() <= _FIELDS:
                raise TypeError("not an object with a report's fields")
            wait = raw.get("retry_after")
            return cls(
                reason=None if raw["reason"] is None else Reason(raw["reason"]),
                message=_parse_text(raw["message"]),
                items_delivered=_parse_count(raw.get("items_delivered", 0)),
                items_skipped=_parse_count(raw.get("items_skipped", 0)),
                items_failed=_parse_count(raw.get("items_failed", 0)),
                bytes_delivered=_parse_count(raw.get("bytes_delivered", 0)),
                seconds=_parse_seconds(raw.get("seconds", 0.0)),
                destination_id=_parse_text(raw.get("destination_id", "")),
                destination_url=_parse_text(raw.get("destination_url", "")),
                failed_items=tuple(
                    FailedItem(
                        _parse_text(each["item"]),
                        Reason(each["reason"]),
                        _parse_text(each["message"]),
                    )
                    for each in raw.get("failed_items", ())
                ),
                items_left_out=_parse_count(raw.get("items_left_out", 0)),
                left_out_items=tuple(
                    LeftOutItem(_parse_text(each["item"]), _parse_text(each["why"]))
                    for each in raw.get("left_out_items", ())
                ),
                remedy=_parse_text(raw.get("remedy", "")),
                retry_after=None if wait is None else _parse_seconds(wait),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise _malformed(raw, error) from error

    def bounded(self) -> "Report":
        """Return the report without secrets, and short enough to encode.

        Failed items are dropped first, then the message is cut. The message says how many failed
        items are not named.
        """
        report = replace(
            self,
            message=redact(self.message),
            remedy=redact(self.remedy),
            failed_items=tuple(
                FailedItem(redact(each.item, _TITLE_LIMIT), each.reason, redact(each.message, 200))
                for each in self.failed_items
            )[:_MAX_FAILED_ITEMS],
            left_out_items=tuple(
                LeftOutItem(redact(each.item, _TITLE_LIMIT), redact(each.why, 200))
                for each in self.left_out_items
            )[:_MAX_FAILED_ITEMS],
        )
        while True:
            result = report
            unnamed = report.items_failed - len(report.failed_items)
            if unnamed > 0 and _NOTE not in report.message:
                result = replace(report, message=f"{report.message}; {unnamed}{_NOTE}")
            if len(_to_json(result)) <= REPORT_LIMIT:
                return result
            if report.left_out_items:
                report = replace(report, left_out_items=report.left_out_items[:-1])
            elif report.failed_items:
                report = replace(report, failed_items=report.failed_items[:-1])
            elif len(report.message) > 40:
                report = replace(report, message=report.message[: len(report.message) // 2])
            else:
                report = replace(report, destination_url="", destination_id="")

    def encode(self) -> str:
        """Return the bounded report as JSON of at most REPORT_LIMIT bytes."""
        return _to_json(self.bounded())

    @classmethod
    def decode(cls, text: str) -> "Report":
        """Read an encoded report. Raises MalformedReport if it is not one."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _malformed(text, error) from error
        return cls.from_dict(raw)


_FIELDS = frozenset(field.name for field in fields(Report))


def _to_json(report: Report) -> str:
    return json.dumps(report.to_dict(), separators=(",", ":"))


def _malformed(raw: object, error: Exception) -> MalformedReport:
    kind = type(error).__name__
    # Cut first: redacting takes quadratic time, and a report that is not one may be large.
    return MalformedReport(f"not a worker's report ({kind}): {redact(str(raw)[:1000], 120)!r}")


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _parse_count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("not a count")
    return value


def _parse_seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("not a number")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError("not a number of seconds")
    return float(value)
