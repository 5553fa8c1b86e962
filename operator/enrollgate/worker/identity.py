"""What tells one course, and one file, from another on every try: URLs without what signs them.

A signature changes from try to try and from row to row; the rest of a URL is what it is about.
"""

import hashlib
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

_CREDENTIAL = re.compile(
    r"(x-(amz|goog)-.*|.*(sig|signature|token|hmac|hash|auth|session).*|expires?|exp|policy|key-pair-id|hdn\w+|e|st|ts)",
    re.IGNORECASE,
)
"""Names of URL parameters that sign a URL: other on every try, and nobody's business."""


def unsigned(url: str) -> str:
    """The URL without the parameters that sign it; the others may be what tells one lecture from another."""
    try:
        parts = urlsplit(url)
    except ValueError:  # `https://[oops/`: no URL, but a name all the same
        return url.partition("?")[0]
    kept = [
        (name, value) for name, value in parse_qsl(parts.query) if not _CREDENTIAL.fullmatch(name)
    ]
    return parts._replace(query=urlencode(kept), fragment="").geturl()


def is_signed(url: str) -> bool:
    """Whether the URL carries what signs it, which may expire."""
    _, _, query = url.partition("#")[0].partition("?")
    return any(_CREDENTIAL.fullmatch(name) for name, _ in parse_qsl(query))


def course_key(course_url: str) -> str:
    """32 hexadecimal digits for a course. A task whose `course_url` is corrected names another course: what was delivered of
    the first is no part of it, whatever its files are called.
    """
    return hashlib.sha256(unsigned(course_url).encode(errors="replace")).hexdigest()[:32]
