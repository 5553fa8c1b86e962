"""Keep e-mail addresses, credentials and control characters out of logs and databases."""

import re
import traceback

# Each pattern begins where a word begins, and gives nothing back: its time is linear in the text.
_LOCAL_PART = r"(?<![^\s@<>\"'(),;:/=&?])[^\s@<>\"'(),;:/=&?]++@"
_ENCODED_LOCAL_PART = r"(?<![^\s@%<>\"'(),;:/=&?])[^\s@%<>\"'(),;:/=&?]++%40"
_DOMAIN = r"[^\s@<>\"'(),;:/=&?]{1,255}\.[A-Za-z]{2,}"
_EMAIL = re.compile(f"(?:{_LOCAL_PART}|{_ENCODED_LOCAL_PART}){_DOMAIN}")
_USERINFO = re.compile(r"(?<![a-z0-9+.-])([a-z0-9+.-]++://)[^/\s?#]*@", re.IGNORECASE)
_WORD = re.compile(r"[^\s\"'<>]++")
# How many characters are looked at for each one that may be returned.
_LOOKED_AT = 16


def redact(text: str, limit: int = 1000) -> str:
    """Return the text without secrets, cut to `limit` characters.

    E-mail addresses, user names in URLs and URL queries are removed: a signed URL is a credential.
    Single surrogates are replaced, since no database stores them. The time is linear in `limit`,
    however long the text is.
    """
    if len(text) > _LOOKED_AT * limit:
        text = text[: _LOOKED_AT * limit]
        # The cut may have parted an address or a URL: its rest is not shown.
        kept = max(text.rfind(space) for space in " \t\n")
        text = f"{text[: kept + 1]}..."
    text = text.encode("utf-8", "replace").decode()
    text = _WORD.sub(_without_query, text)
    text = _USERINFO.sub(r"\1", text)
    text = _EMAIL.sub("<e-mail>", text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _without_query(word: re.Match[str]) -> str:
    scheme = word[0].find("://")
    query = word[0].find("?", scheme) if scheme >= 0 else -1
    return word[0] if query < 0 else f"{word[0][:query]}?..."


def redacted_traceback() -> str:
    """Return the traceback of the current exception, each of its lines redacted."""
    return "".join(redact(line) for line in traceback.format_exc().splitlines(keepends=True))


def printable(text: str) -> str:
    """Return the text in one line, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)
