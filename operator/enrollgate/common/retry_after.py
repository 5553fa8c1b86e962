"""How long another side asks to be left alone, by the header that HTTP has for it."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST_WAIT = 30 * 86400.0
"""Seconds: whoever asks for more gets as much."""


def retry_after(header: str | None, date: str | None = None) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, 10.2.3), if it can be understood.

    A point in time is reckoned from the answer's own `Date`: by the other side's clock, not by ours.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), _LONGEST_WAIT)
    until, now = _instant(text), _instant(date or "")
    if until is None or now is None:
        return None
    return min(max(0.0, (until - now).total_seconds()), _LONGEST_WAIT)


def _instant(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
