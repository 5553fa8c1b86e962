"""Recognise a course or a file in every attempt, by its URL without the parameters that sign it.

A signature changes with every attempt and every row. The rest of the URL says what it is about.
"""

import hashlib
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

# Names of URL parameters that sign a URL. They change in every attempt, and they are secrets.
_SIGNATURE = re.compile(
    r"(x-(amz|goog)-.*|.*(sig|signature|token|hmac|hash|auth|session).*|expires?|exp|policy"
    r"|key-pair-id|hdn\w+|e|st|ts)",
    re.IGNORECASE,
)


def unsigned(url: str) -> str:
    """Return the URL without the parameters that sign it.

    The others may tell one lecture from another.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # `https://[oops/` is not a URL, but still a name
        return url.partition("?")[0]
    kept = [
        (name, value) for name, value in parse_qsl(parts.query) if not _SIGNATURE.fullmatch(name)
    ]
    return parts._replace(query=urlencode(kept), fragment="").geturl()


def is_signed(url: str) -> bool:
    """Return whether the URL carries a signature, which may expire."""
    _, _, query = url.partition("#")[0].partition("?")
    return any(_SIGNATURE.fullmatch(name) for name, _ in parse_qsl(query))


def course_key(course_url: str) -> str:
    """Return 32 hexadecimal digits that name the course.

    A task whose `course_url` is corrected names another course. Files of the first course do not
    belong to the second, whatever their names are.
    """
    return hashlib.sha256(unsigned(course_url).encode(errors="replace")).hexdigest()[:32]
