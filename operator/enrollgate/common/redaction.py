"""Keep e-mail addresses, credentials and control characters out of logs and databases."""

import re
import traceback

# What ends a part of an e-mail address.
_END = r"\s<>\"'(),;:/=&?"
_DOMAIN = rf"(?:[^@%.{_END}]++\.)+[A-Za-z]{{2,}}"
# Each pattern begins where a word or a host begins and looks at no character twice: its time is
# linear in the text.
_EMAIL = re.compile(
    rf"(?<![^@{_END}])[^@{_END}]++@{_DOMAIN}|(?<![^@%{_END}])[^@%{_END}]++%40{_DOMAIN}"
)
# A URL's host with a user name, its path, and its query to the end of the word.
_URL = re.compile(r"://([^/\s?#\"'<>]*+)([^\s?\"'<>]*+)(\?[^\s\"'<>]*+)?")
_SPACE = re.compile(r"(\s+)")
# What a terminal or a log viewer would obey: control characters, other line ends, and marks that
# change the direction of text. Joiners stay, since Persian, Indic scripts and emoji need them.
_CONTROLS = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x61C, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
# Common characters are in it as well: `str.translate` is slow for those that are not.
_ESCAPES: dict[int, int | str] = {character: character for character in range(0x250)}
_ESCAPES |= {control: chr(control).encode("unicode_escape").decode() for control in _CONTROLS}
# How many characters are looked at for each one that may be returned.
_LOOKED_AT = 16


def redact(text: str, limit: int = 1000) -> str:
    """Return the text without secrets, cut to `limit` characters.

    E-mail addresses, user names in URLs and URL queries are removed: a signed URL is a credential.
    Control characters are escaped (`\\n`, `\\x1b`), so the result is one line. Single surrogates
    are replaced, since no database stores them. The time is linear in `limit`, however long the
    text is.
    """
    if len(text) > _LOOKED_AT * limit:
        text = text[: _LOOKED_AT * limit]
        # The cut may have parted an address or a URL: its rest is not shown.
        kept = max(text.rfind(space) for space in " \t\n")
        text = f"{text[: kept + 1]}..."
    text = text.encode("utf-8", "replace").decode()
    if "://" in text or "@" in text or "%40" in text:
        text = "".join(
            _EMAIL.sub("<e-mail>", _URL.sub(_shorten_url, word))
            if "://" in word or "@" in word or "%40" in word
            else word
            for word in _SPACE.split(text)
        )
    if not text.isprintable():
        text = text.translate(_ESCAPES)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _shorten_url(url: re.Match[str]) -> str:
    """Return a URL from its `://` on, without user name and query."""
    _, _, host = url[1].rpartition("@")
    return f"://{host}{url[2]}{'?...' if url[3] else ''}"


def redacted_traceback() -> str:
    """Return the traceback of the current exception, each of its lines redacted."""
    return "".join(f"{redact(line)}\n" for line in traceback.format_exc().splitlines())


def printable(text: str) -> str:
    """Return the text in one line, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)
