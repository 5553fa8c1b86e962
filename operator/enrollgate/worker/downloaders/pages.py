"""A web page in place of media: a site that wants a login sends its login page, and calls that a success (HTTP 200)."""

import re
from pathlib import Path

from enrollgate.domain.reasons import Failure, Reason

_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_HEAD = 1024
"""Bytes that are looked at."""


def is_page(file: Path) -> bool:
    """Whether the file begins as HTML does. No media do."""
    with file.open("rb") as stream:
        return _PAGE.match(stream.read(_HEAD)) is not None


def refuse_page(file: Path) -> None:
    """Raises Failure if the file is a page, and removes it, or the next try would take it for what is there already."""
    if is_page(file):
        file.unlink()
        raise Failure(Reason.COOKIES_EXPIRED, "the site sent a web page (a login?) in place of the media")
