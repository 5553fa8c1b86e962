"""How long a server asks us to wait, by HTTP's Retry-After header."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Seconds. A longer wait is shortened to this.
_MAX_WAIT = 30 * 86400.0


def retry_after(header: str | None, date: str | None = None) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), None if it cannot be parsed.

    A date in it is compared with `date`, the response's Date header: the clocks may differ.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), _MAX_WAIT)
    until, now = _parse_date(text), _parse_date(date or "")
    if until is None or now is None:
        return None
    return min(max(0.0, (until - now).total_seconds()), _MAX_WAIT)


def _parse_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
