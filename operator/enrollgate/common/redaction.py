"""Keep e-mail addresses, credentials and control characters out of logs and databases."""

import re
import traceback

_EMAIL = re.compile(r"[^\s@<>\"'(),;:/=&?]+@[^\s@<>\"'(),;:/=&?]+\.[A-Za-z]{2,}")
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/\s?#@]*@", re.IGNORECASE)
_QUERY = re.compile(r"(?P<url>[a-z][a-z0-9+.-]*://[^\s?#\"'<>]*)\?[^\s\"'<>]*", re.IGNORECASE)


def redact(text: str, limit: int = 1000) -> str:
    """Return the text without secrets, cut to `limit` characters.

    E-mail addresses, user names in URLs and URL queries are removed: a signed URL is a credential.
    Single surrogates are replaced, since no database stores them.
    """
    text = text.encode("utf-8", "replace").decode()
    text = _QUERY.sub(r"\g<url>?...", text)
    text = _USERINFO.sub(r"\g<scheme>", text)
    text = _EMAIL.sub("<e-mail>", text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def redacted_traceback() -> str:
    """Return the traceback of the current exception, each of its lines redacted."""
    return "".join(redact(line) for line in traceback.format_exc().splitlines(keepends=True))


def printable(text: str) -> str:
    """Return the text in one line, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)
