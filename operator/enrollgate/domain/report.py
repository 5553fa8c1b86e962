"""What a worker reports at its end: one JSON object of at most 4 KiB.

The size is the limit of a Kubernetes termination message
(https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/); local runs
use the same file.

A report comes from outside (a container wrote it), so `from_dict` checks every field and bounds it.
A field of a wrong type makes the whole report malformed: nothing of it is believed. A newer worker
may add what this version does not know: unknown fields are ignored, and an unknown reason becomes
`WorkerCrashed` with the reason's name in the message. `to_dict` is what the database and the run
directory keep.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from enrollgate.common.redaction import redact
from enrollgate.common.strict_json import parse_json
from enrollgate.domain.destination import folder_link
from enrollgate.domain.reasons import Reason

# Bytes of an encoded report, at most.
REPORT_LIMIT = 4096
# Characters that are looked at for a report. No worker writes as many.
READ_LIMIT = 2**16
_MAX_FAILED_ITEMS = 10
_TITLE_LIMIT = 80
# Characters of the destination's id, at most.
_ID_LIMIT = 500
# Of each count: the largest BIGINT. Of seconds: some 30 years.
_LARGEST_COUNT = 2**63 - 1
_LONGEST_TIME = 1e9
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
    `attempt` is the attempt's number, from 1; 0 if a launcher made the report.
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
    attempt: int = 0

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain data for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: object) -> "Report":
        """Build a report from plain data. Unknown fields are ignored.

        Raises MalformedReport if a field is missing, of another type or out of range.
        """
        try:
            fields = _parse_object(raw)
            reason, message = None, _parse_text(fields["message"])
            if fields["reason"] is not None:
                reason, message = _parse_reason(fields["reason"], message)
            wait = fields.get("retry_after")
            return cls(
                reason=reason,
                message=message,
                items_delivered=_parse_count(fields.get("items_delivered", 0)),
                items_skipped=_parse_count(fields.get("items_skipped", 0)),
                items_failed=_parse_count(fields.get("items_failed", 0)),
                bytes_delivered=_parse_count(fields.get("bytes_delivered", 0)),
                seconds=_parse_seconds(fields.get("seconds", 0.0)),
                destination_id=_parse_text(fields.get("destination_id", "")),
                destination_url=_parse_text(fields.get("destination_url", "")),
                failed_items=tuple(
                    FailedItem(
                        _parse_text(each["item"]),
                        *_parse_reason(each["reason"], _parse_text(each["message"])),
                    )
                    for each in _parse_objects(fields.get("failed_items", ()))
                ),
                items_left_out=_parse_count(fields.get("items_left_out", 0)),
                left_out_items=tuple(
                    LeftOutItem(_parse_text(each["item"]), _parse_text(each["why"]))
                    for each in _parse_objects(fields.get("left_out_items", ()))
                ),
                remedy=_parse_text(fields.get("remedy", "")),
                retry_after=None if wait is None else _parse_seconds(wait),
                attempt=_parse_count(fields.get("attempt", 0)),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise MalformedReport(
                f"not a worker's report: {redact(str(error.args[0]), 120)}"
            ) from error

    def bounded(self) -> "Report":
        """Return the report without secrets, and short enough to encode.

        Failed items are dropped first, then the message is cut. The message says how many failed
        items are not named.
        """
        report = replace(
            self,
            message=redact(self.message),
            remedy=redact(self.remedy),
            destination_id=_parse_text(self.destination_id)[:_ID_LIMIT],
            destination_url=folder_link(_parse_text(self.destination_url)),
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
            elif report.remedy:
                report = replace(report, remedy="")
            else:
                report = replace(report, destination_url="", destination_id="")

    def encode(self) -> str:
        """Return the bounded report as JSON of at most REPORT_LIMIT bytes."""
        return _to_json(self.bounded())

    @classmethod
    def decode(cls, text: str) -> "Report":
        """Read an encoded report. Raises MalformedReport if it is not one."""
        try:
            raw = parse_json(text, READ_LIMIT)
        except ValueError as error:
            # Only a part is shown, and never the value: its `repr` may be deep.
            shown = redact(text[:1000], 120)
            kind = type(error).__name__
            raise MalformedReport(f"not a worker's report ({kind}): {shown!r}") from error
        return cls.from_dict(raw)


def _to_json(report: Report) -> str:
    return json.dumps(report.to_dict(), separators=(",", ":"))


def _parse_object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _parse_objects(value: object) -> list[Mapping[str, object]]:
    """Return the first objects of a list: as many as are kept."""
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    return [_parse_object(each) for each in value[:_MAX_FAILED_ITEMS]]


def _parse_reason(value: object, message: str) -> tuple[Reason, str]:
    """Return the reason and the message. The message names a reason of a newer version."""
    if not isinstance(value, str):
        raise TypeError("not a reason")
    try:
        return Reason(value), message
    except ValueError:
        return Reason.WORKER_CRASHED, f"{_parse_text(value)[:_TITLE_LIMIT]}: {message}"


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value[:REPORT_LIMIT].encode("utf-8", "replace").decode()


def _parse_count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_COUNT:
        raise TypeError("not a count")
    return value


def _parse_seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("not a number")
    if not 0 <= value <= _LONGEST_TIME:  # false for NaN, too
        raise ValueError("not a number of seconds")
    return float(value)
