"""A web page in place of media: a site that wants a login sends its login page, and calls that a success (HTTP 200)."""

import re
from pathlib import Path

from enrollgate.domain.reasons import Failure, Reason

_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
HEAD = 1024
"""Bytes that are looked at."""


def is_page(file: Path) -> bool:
    """Whether the file begins as HTML does. No media do."""
    with file.open("rb") as stream:
        return _PAGE.match(stream.read(HEAD)) is not None


def refuse_page(file: Path) -> None:
    """Raises Failure if the file is a page, and removes it, or the next try would take it for what is there already."""
    if is_page(file):
        file.unlink()
        raise _not("the media")


def refuse_page_as_key(key: bytes) -> None:
    """Raises Failure if what should be a stream's key is a page."""
    if _PAGE.match(key):
        raise _not("a stream's key")


def _not(wanted: str) -> Failure:
    return Failure(
        Reason.COOKIES_EXPIRED, f"the site sent a web page (a login?) in place of {wanted}"
    )
