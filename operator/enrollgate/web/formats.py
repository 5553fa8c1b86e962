"""How the page writes numbers, times and what comes from outside: the filters of the templates."""

from datetime import datetime
from urllib.parse import urlsplit

from enrollgate.common.redaction import printable, redact
from enrollgate.domain.account import mask_account


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
