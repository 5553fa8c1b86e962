"""Keeps e-mail addresses and credentials out of what people and databases read, and control characters off their terminals."""

import re
import traceback

_EMAIL = re.compile(r"[^\s@<>\"'(),;:/=&?]+@[^\s@<>\"'(),;:/=&?]+\.[A-Za-z]{2,}")
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/\s?#@]*@", re.IGNORECASE)
_QUERY = re.compile(r"(?P<url>[a-z][a-z0-9+.-]*://[^\s?#\"'<>]*)\?[^\s\"'<>]*", re.IGNORECASE)


def redact(text: str, limit: int = 1000) -> str:
    """The text without e-mail addresses, user names in URLs, URL queries (signed URLs are bearer credentials) and halves of
    surrogate pairs (no database takes them), cut to `limit` characters.
    """
    text = text.encode("utf-8", "replace").decode()
    text = _QUERY.sub(r"\g<url>?...", text)
    text = _USERINFO.sub(r"\g<scheme>", text)
    text = _EMAIL.sub("<e-mail>", text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def redacted_traceback() -> str:
    """The traceback of the exception that is being handled, each of its lines redacted."""
    return "".join(redact(line) for line in traceback.format_exc().splitlines(keepends=True))


def printable(text: str) -> str:
    """The text in one line, without control characters: what a row or a site says cannot command a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
