"""Detect a web page where media was requested.

A site that requires a login often answers with its login page and HTTP 200. Such a page must never
be delivered as a lecture, and its beginning must never be continued with media bytes.
"""

import re
from pathlib import Path

from enrollgate.domain.reasons import Failure, Reason

# Bytes that are enough to recognise a page.
HEAD_SIZE = 1024
_PAGE_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)


def is_page(file: Path) -> bool:
    """Return whether the file starts as HTML does. No media file does."""
    with file.open("rb") as stream:
        return _PAGE_START.match(stream.read(HEAD_SIZE)) is not None


def refuse_page(file: Path) -> None:
    """Remove the file and raise Failure (CookiesExpired) if it is a web page.

    If it stayed, the next attempt would continue it as a partial download.
    """
    if is_page(file):
        file.unlink()
        raise Failure(
            Reason.COOKIES_EXPIRED, "the site sent a web page (a login?) instead of the media"
        )


def refuse_page_as_key(key: bytes) -> None:
    """Raise Failure (CookiesExpired) if a stream's key is a web page."""
    if _PAGE_START.match(key):
        raise Failure(
            Reason.COOKIES_EXPIRED, "the site sent a web page (a login?) instead of a stream's key"
        )
