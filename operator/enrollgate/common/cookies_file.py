"""Read cookies files in the Netscape format as browsers and their extensions write them.

What goes in: a file. What comes out: lines of seven fields between tabs that every reader of the
format accepts, and the numbers of the lines that are no cookies. A content never reaches an error.
The format: https://curl.se/docs/http-cookies.html.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path

# Bytes of a file. All cookies of a browser take less.
_MAX_SIZE = 32 << 20
_HTTP_ONLY = "#HttpOnly_"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
# Domain, subdomains, path, secure, expiry, name, value. Editors replace tabs by spaces, and cut
# the last tab of a cookie without a value.
_EXPIRY = r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?"
_TABS = re.compile(rf"([^\t ]+)\t(\w+)\t([^\t]*)\t(\w+)\t((?:{_EXPIRY})?)\t([^\t]*)(?:\t([^\t]*))?")
_SPACES = re.compile(
    rf"(\S+) +(TRUE|FALSE) +(/\S*) +(TRUE|FALSE) +({_EXPIRY}) +(\S+)(?: +(\S.*))?",
    re.IGNORECASE,
)
# Expiries above these are in milliseconds and microseconds since 1970, and in Chrome's
# microseconds since 1601.
_MILLISECONDS, _MICROSECONDS, _CHROME = 1e11, 1e14, 1e16
_SECONDS_FROM_1601 = 11_644_473_600


class NotCookies(ValueError):
    """A file is no cookies file. The message says what it is, to follow the file's name."""


def read_cookies(path: Path) -> str:
    """Return the text of a cookies file. Raises OSError and NotCookies.

    A pipe or a device might never end, so it is not read. Bytes that are not UTF-8 become single
    surrogates, so that only their lines are skipped.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise NotCookies("is not a regular file")
    with path.open("rb") as stream:
        content = stream.read(_MAX_SIZE + 1)
    if len(content) > _MAX_SIZE:
        raise NotCookies(f"has more than {_MAX_SIZE >> 20} MiB")
    if not content.startswith(_UTF16):
        return content.decode("utf-8-sig", "surrogateescape")
    try:
        return content.decode("utf-16")
    except UnicodeDecodeError as error:
        raise NotCookies("is not text") from error


def parse_cookies(text: str) -> tuple[list[str], list[int]]:
    """Return the cookies, a line each, and the numbers of the lines that are none (from 1).

    Raises NotCookies if there is no cookie.
    """
    cookies, skipped = list[str](), list[int]()
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), 1):
        if not line.strip() or (line.startswith("#") and not line.startswith(_HTTP_ONLY)):
            continue
        found = _TABS.fullmatch(line) or _SPACES.fullmatch(line.strip())
        if found is None or _NOT_UTF8.search(line):
            skipped.append(number)
        else:
            cookies.append(_normal(found))
    if not cookies:
        if not skipped:
            raise NotCookies("holds no cookie")
        if text.lstrip("\ufeff \t\r\n").startswith(("[", "{")):
            raise NotCookies("is a JSON export of a browser extension, not in the Netscape format")
        raise NotCookies("holds no line in the Netscape format (seven fields between tabs)")
    return cookies, skipped


def expiry(cookie: str) -> float:
    """Return when a cookie expires, in seconds since 1970; 0: with the session."""
    return float(cookie.split("\t")[4] or 0)


def last_expiry(cookies: Iterable[str]) -> float:
    """Return when the last one of these cookies expires, in seconds since 1970.

    Infinity, if one has no expiry: it ends with the browser's session, and nobody knows when.
    """
    return max((expiry(each) or math.inf for each in cookies), default=0.0)


def _normal(found: re.Match[str]) -> str:
    """Return a line that agrees with itself. Python refuses all of a file that does not."""
    domain, subdomains, path, secure, expires, name, value = found.groups(default="")
    prefix = _HTTP_ONLY if domain.startswith(_HTTP_ONLY) else ""
    host = domain.removeprefix(prefix)
    if subdomains.upper() == "TRUE" and not host.startswith("."):
        host = f".{host}"
    flag = "TRUE" if host.startswith(".") else "FALSE"
    if expires.startswith("-"):  # a session cookie
        expires = "0"
    elif expires and (number := float(expires)) > _CHROME:
        expires = str(int(number / 1e6 - _SECONDS_FROM_1601))
    elif expires and number > _MICROSECONDS:
        expires = str(int(number / 1e6))
    elif expires and number > _MILLISECONDS:
        expires = str(int(number / 1e3))
    fields = (prefix + host, flag, path or "/", secure.upper(), expires, name, value)
    return "\t".join(fields)
