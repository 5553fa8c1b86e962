"""Detect a web page where media was requested.

A site that requires a login often answers with its login page and HTTP 200. Such a page must never
be delivered as a lecture, and its beginning must never be continued with media bytes. A page that
is no login may be there for maintenance: a retry can help.
"""

import re
from pathlib import Path

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.downloaders.site_answers import (
    LOOKED_AT,
    Answer,
    explain_answer,
    explain_page,
)
from enrollgate.worker.file_types import (
    HTML,
    Family,
    family_by_extension,
    recognise_file,
)
from enrollgate.worker.identity import is_signed

# Bytes that are enough to recognise a page.
HEAD_SIZE = 1024
# Bytes of JSON that can be an answer of an API, although a file of data was announced.
_BRIEF = 2_000
_PAGE_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)


def is_page(file: Path) -> bool:
    """Return whether the file starts as HTML does. No media file does."""
    with file.open("rb") as stream:
        return _PAGE_START.match(stream.read(HEAD_SIZE)) is not None


def refuse_page(file: Path) -> None:
    """Remove the file and raise Failure if it is a web page.

    If it stayed, the next attempt would continue it as a partial download.
    """
    if is_page(file):
        with file.open("rb") as stream:
            head = stream.read(LOOKED_AT)
        file.unlink()
        raise _explain(head, "the media")


def refuse_answer(file: Path, extension: str, url: str) -> None:
    """Remove the file and raise Failure if it is an answer in words that says why it is there.

    An API answers so, with HTTP 200, instead of a file. `extension` is what the site and the
    listing say of the file: a text that was announced is none. Nor is what a site says of a signed
    address, whose signature may have expired.
    """
    kind = recognise_file(file)
    is_json = ".json" in (extension, *kind.extensions)
    is_brief_json = is_json and file.stat().st_size < _BRIEF
    is_announced = family_by_extension(extension) is Family.TEXT and not is_brief_json
    if kind.family is not Family.TEXT or is_announced or is_signed(url):
        return
    with file.open("rb") as stream:
        head = stream.read(LOOKED_AT)
    content_type = "text/html" if kind is HTML else "text/plain"
    failure = explain_page(Answer(200, url, url, {"content-type": content_type}, head))
    if failure is not None:
        file.unlink()
        raise failure


def refuse_page_as_key(key: bytes) -> None:
    """Raise Failure if a stream's key is a web page."""
    if _PAGE_START.match(key):
        raise _explain(key, "a stream's key")


def _explain(head: bytes, what: str) -> Failure:
    """Return the failure of a page in place of `what`: a login, a bot check, or maintenance."""
    answer = Answer(200, "", "", {"content-type": "text/html"}, head)
    failure = explain_answer(answer) or explain_page(answer)
    message = f"the site sent a web page instead of {what}"
    return failure or Failure(Reason.SITE_ERROR, message)
