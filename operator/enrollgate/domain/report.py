"""What a worker says at its end: one JSON object of at most 4 KiB.

The size is the limit of a Kubernetes termination message
(https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/); local runs use the same file.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from enrollgate.common.redaction import redact
from enrollgate.domain.reasons import Reason

REPORT_LIMIT = 4096
"""Bytes of an encoded report, at most."""
_MAX_FAILED_ITEMS = 10


class MalformedReport(ValueError):
    """What was found where a report should be is not one."""


@dataclass(frozen=True, slots=True)
class FailedItem:
    """One item of a course that did not arrive."""

    item: str
    """Its title, as the site gives it, cut to 80 characters."""
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """How one try of a run ended.

    `bytes_delivered` and `items_delivered` count what this try moved; `items_skipped` what was there already.
    `reason` is None exactly when the course is complete at its destination.
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
    """What to do about this very failure; empty: what the reason's own remedy says."""
    retry_after: float | None = None
    """Seconds the site asked us to wait before the next try, if it did."""

    def encode(self) -> str:
        """The report as JSON of at most REPORT_LIMIT bytes: failed items, then the message, give way. The message says how many
        failed items are not named."""
        report = replace(
            self,
            message=redact(self.message),
            remedy=redact(self.remedy),
            failed_items=tuple(
                FailedItem(redact(f.item, 80), f.reason, redact(f.message, 200))
                for f in self.failed_items
            )[:_MAX_FAILED_ITEMS],
        )
        while len(text := _text(report)) > REPORT_LIMIT:
            if report.failed_items:
                report = replace(report, failed_items=report.failed_items[:-1])
            elif len(report.message) > 40:
                report = replace(report, message=report.message[: len(report.message) // 2])
            else:
                report = replace(report, destination_url="", destination_id="")
        return text

    @classmethod
    def decode(cls, text: str) -> "Report":
        """Reads an encoded report. Raises MalformedReport if it is not one."""
        try:
            raw: dict[str, Any] = json.loads(text)
            failed = tuple(
                FailedItem(str(f["item"]), Reason(f["reason"]), str(f["message"]))
                for f in raw.pop("failed_items", ())
            )
            reason = raw.pop("reason")
            return cls(
                reason=None if reason is None else Reason(reason), failed_items=failed, **raw
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MalformedReport(
                f"not a worker's report ({error.__class__.__name__}): {redact(text, 120)!r}"
            ) from error


def _text(report: Report) -> str:
    unnamed = report.items_failed - len(report.failed_items)
    if unnamed > 0:
        note = f"; {unnamed} failed items are not named here, only in the worker's log"
        report = replace(report, message=report.message + note)
    return json.dumps(asdict(report), separators=(",", ":"))
