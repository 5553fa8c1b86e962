"""How the page writes numbers, times and what comes from outside: the filters of the templates."""

from datetime import datetime
from urllib.parse import urlsplit

from enrollgate.common.redaction import printable, redact
from enrollgate.domain.account import mask_account

_UNITS = ("kB", "MB", "GB", "TB", "PB")
# Seconds in each unit of a duration, and the unit below it.
_DURATIONS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def size(number: int | None) -> str:
    """Return a number of bytes: `1.5 GB`."""
    if number is None:
        return "unknown"
    if number < 1000:
        return f"{number} B"
    value = float(number)
    for unit in _UNITS:
        value /= 1000
        if value < 999.95 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Return a time span: `4 min 10 s`."""
    if seconds is None:
        return "unknown"
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for length, unit, smaller, smaller_unit in _DURATIONS:
        if whole >= length:
            rest = whole % length // smaller
            return f"{whole // length} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def between(begin: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from one instant to another, None if one is unknown."""
    return None if begin is None or end is None else (end - begin).total_seconds()


def number(value: int | None) -> str:
    """Return a number with separators: `100,000`."""
    return "unknown" if value is None else f"{value:,}"


def account(email: str | None) -> str:
    """Return an account that only its owner recognizes."""
    # Not redacted, which would take it for an address.
    return printable(mask_account(email))[:200] if email else "none"


def safe_link(url: str | None) -> str | None:
    """Return the URL if it may be a link: of the web, and without anything secret in it."""
    if url is None or redact(url, 2000) != url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.hostname else None


def shown(text: str | None, limit: int = 300) -> str:
    """Return a text from outside without secrets and control characters, in one line."""
    return redact(text or "", limit)
