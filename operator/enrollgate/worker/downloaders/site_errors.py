"""What yt-dlp's errors mean: a pure function from an exception and its causes to one reason of the closed list.

yt-dlp raises `DownloadError` for everything; the truth is in `exc_info[1]` and the `cause`s below it. A body that ended early and
an HLS fragment that failed have no cause, only a message.
"""

import errno
import re
from collections.abc import Iterator

from yt_dlp.cookies import CookieLoadError
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import GeoRestrictedError, UnsupportedError

from enrollgate.common.redaction import redact
from enrollgate.common.retry_after import retry_after
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import LoginRequired

_BY_STATUS = {
    401: (Reason.COOKIES_EXPIRED, "the site asks for a login (HTTP 401)"),
    403: (Reason.ACCESS_DENIED, "the site refuses this account (HTTP 403)"),
    404: (Reason.COURSE_NOT_FOUND, "the site has no such page (HTTP 404)"),
    410: (Reason.COURSE_NOT_FOUND, "the page is gone from the site (HTTP 410)"),
    429: (Reason.RATE_LIMITED, "the site asks to slow down (HTTP 429)"),
}
_BY_TYPE: tuple[tuple[type[BaseException], Reason, str], ...] = (
    (CookieLoadError, Reason.COOKIES_UNREADABLE, "the cookies file is not in the Netscape format"),
    (UnsupportedError, Reason.UNSUPPORTED_COURSE, "yt-dlp finds nothing to download on this page"),
    (GeoRestrictedError, Reason.ACCESS_DENIED, "the site refuses this country"),
    (IncompleteRead, Reason.INCOMPLETE_DOWNLOAD, "the file ended before its announced length"),
    (TransportError, Reason.NETWORK_ERROR, ""),
)
_LOGIN_WANTED = ("account credentials", "registered users", "for the authentication")
"""What yt-dlp's readers say where a site wants a login."""
_BY_WORDS = (
    ("drm protected", Reason.DRM_PROTECTED),
    ("drm-protected", Reason.DRM_PROTECTED),
    ("known to use drm", Reason.DRM_PROTECTED),
    ("is not free", Reason.ACCESS_DENIED),
    ("not enrolled", Reason.ACCESS_DENIED),
    *((words, Reason.COOKIES_EXPIRED) for words in _LOGIN_WANTED),
    ("http error 401", Reason.COOKIES_EXPIRED),
    ("http error 429", Reason.RATE_LIMITED),
    ("http error 5", Reason.SITE_ERROR),
    ("no space left", Reason.DISK_FULL),
    # without a cause it is one piece of a stream whose page was granted: its signature is old, the next try gets a new one
    ("http error 4", Reason.INCOMPLETE_DOWNLOAD),
    ("fragment", Reason.INCOMPLETE_DOWNLOAD),
    ("downloaded", Reason.INCOMPLETE_DOWNLOAD),
    ("bytes read", Reason.INCOMPLETE_DOWNLOAD),
    ("did not get any data blocks", Reason.INCOMPLETE_DOWNLOAD),
    ("giving up after", Reason.NETWORK_ERROR),
    ("timed out", Reason.NETWORK_ERROR),
    ("no video formats", Reason.UNSUPPORTED_COURSE),
    ("unsupported url", Reason.UNSUPPORTED_COURSE),
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything below it, each once."""
    seen = set[int]()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        information = getattr(each, "exc_info", None)
        waiting += [information[1] if isinstance(information, tuple) else None]
        waiting += [
            getattr(each, "cause", None),
            each.__cause__,
            each.__context__,
            getattr(each, "reason", None),
        ]


def classify(error: BaseException) -> Failure:
    """The Failure that an error of yt-dlp amounts to."""
    errors = list(chain(error))
    for each in errors:
        if isinstance(each, Failure):
            return each
    for each in errors:
        found = _classify_one(each)
        if found is not None:
            return found
    text = str(error)
    for words, reason in _BY_WORDS:
        if words in text.lower():
            if words in _LOGIN_WANTED:
                return LoginRequired(reason, f"the site asks for a login: {_clean(text)}")
            return Failure(reason, _clean(text))
    return Failure(Reason.UNSUPPORTED_COURSE, _clean(text))


def _classify_one(error: BaseException) -> Failure | None:
    if isinstance(error, HTTPError):
        return _by_status(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(Reason.DISK_FULL, "no space is left for scratch files")
    for kind, reason, message in _BY_TYPE:
        if isinstance(error, kind):
            return Failure(reason, message or _clean(str(error)))
    return None


def _by_status(error: HTTPError) -> Failure:
    status = int(error.status)
    if status in _BY_STATUS:
        reason, message = _BY_STATUS[status]
        return Failure(reason, message, retry_after=_asked_for(error))
    if status >= 500:
        return Failure(
            Reason.SITE_ERROR, f"the site failed (HTTP {status})", retry_after=_asked_for(error)
        )
    return Failure(Reason.UNSUPPORTED_COURSE, f"the site answered HTTP {status}")


def _asked_for(error: HTTPError) -> float | None:
    headers = error.response.headers
    return retry_after(headers.get("Retry-After"), headers.get("Date"))


def _clean(text: str) -> str:
    text = text.removeprefix("ERROR: ").partition("; please report this issue")[0]
    text = text.partition(". Use --")[
        0
    ]  # options of yt-dlp's command line, which nobody here can give
    text = re.sub(r"\[download\] Got error: |\[Errno \d+\] ", "", text)
    return redact(text.strip(), 300)
