"""Classify yt-dlp's errors: a pure function from an exception to one reason of the closed list.

yt-dlp raises `DownloadError` for almost everything. The real error is in its `exc_info` or in the
`cause` of one of the errors below it. Some errors, such as a body that ended early or an HLS
fragment that failed, have no cause; only their message says what happened.
"""

import errno
import re
from collections.abc import Iterator
from typing import NamedTuple

from yt_dlp.utils import GeoRestrictedError, UnsupportedError

from enrollgate.common.redaction import redact
from enrollgate.common.retry_after import retry_after
from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import LoginRequired
from enrollgate.worker.downloaders.yt_dlp_compat import (
    CookieLoadError,
    HTTPError,
    IncompleteRead,
    TransportError,
)


class _Rule(NamedTuple):
    """What an error must be, and the failure that it then is."""

    # Integers are HTTP statuses, a set is error numbers of the operating system, a string is words
    # in the outermost error's message, in lower case.
    match: int | range | frozenset[int] | type[BaseException] | str
    reason: Reason
    # `{status}` is the HTTP status, `{text}` is yt-dlp's own message.
    message: str = "{text}"
    failure: type[Failure] = Failure


# In words a site says it of single lectures, too, which are only locked.
_LOGIN = (Reason.ACCESS_DENIED, "the site asks for a login: {text}", LoginRequired)

_NO_PLAYLIST = "the site sent something else instead of a playlist"

# The first rule that matches applies. Rules of words come last: they are used only if no error in
# the chain matches one of the others.
_RULES = (
    _Rule(401, Reason.COOKIES_EXPIRED, "the site asks for a login (HTTP {status})", LoginRequired),
    _Rule(403, Reason.ACCESS_DENIED, "the site refuses this account (HTTP {status})"),
    _Rule(404, Reason.COURSE_NOT_FOUND, "the site has no such page (HTTP {status})"),
    _Rule(410, Reason.COURSE_NOT_FOUND, "the page is gone from the site (HTTP {status})"),
    _Rule(429, Reason.RATE_LIMITED, "the site asks to slow down (HTTP {status})"),
    _Rule(408, Reason.SITE_ERROR, "the site gave up waiting (HTTP {status})"),
    _Rule(425, Reason.SITE_ERROR, "the site is not ready (HTTP {status})"),
    _Rule(range(500, 1000), Reason.SITE_ERROR, "the site failed (HTTP {status})"),
    _Rule(range(1000), Reason.UNSUPPORTED_COURSE, "the site answered HTTP {status}"),
    _Rule(
        frozenset({errno.ENOSPC, errno.EDQUOT}),
        Reason.DISK_FULL,
        "no space is left for scratch files",
    ),
    _Rule(MemoryError, Reason.OOM_KILLED, "the worker needed more memory than it may take"),
    _Rule(
        CookieLoadError,
        Reason.COOKIES_UNREADABLE,
        "the cookies file is not in the Netscape format",
    ),
    _Rule(
        UnsupportedError,
        Reason.UNSUPPORTED_COURSE,
        "yt-dlp finds nothing to download on this page",
    ),
    _Rule(GeoRestrictedError, Reason.ACCESS_DENIED, "the site refuses this country"),
    _Rule(
        IncompleteRead,
        Reason.INCOMPLETE_DOWNLOAD,
        "the file ended before its announced length",
    ),
    _Rule(TransportError, Reason.NETWORK_ERROR),
    _Rule("drm protected", Reason.DRM_PROTECTED),
    _Rule("drm-protected", Reason.DRM_PROTECTED),
    _Rule("known to use drm", Reason.DRM_PROTECTED),
    _Rule("is not free", Reason.ACCESS_DENIED),
    _Rule("not enrolled", Reason.ACCESS_DENIED),
    # What yt-dlp's extractors write if a site requires a login.
    _Rule("account credentials", *_LOGIN),
    _Rule("registered users", *_LOGIN),
    _Rule("for the authentication", *_LOGIN),
    _Rule("http error 401", Reason.COOKIES_EXPIRED, "{text}", LoginRequired),
    _Rule("http error 429", Reason.RATE_LIMITED),
    _Rule("http error 5", Reason.SITE_ERROR),
    _Rule("no space left", Reason.DISK_FULL),
    # Without a cause it is a fragment of a stream whose page was granted. The signature in its URL
    # has expired, and the next attempt gets a new one.
    _Rule("http error 4", Reason.INCOMPLETE_DOWNLOAD),
    _Rule("fragment", Reason.INCOMPLETE_DOWNLOAD),
    _Rule("downloaded", Reason.INCOMPLETE_DOWNLOAD),
    _Rule("bytes read", Reason.INCOMPLETE_DOWNLOAD),
    _Rule("did not get any data blocks", Reason.INCOMPLETE_DOWNLOAD),
    _Rule("giving up after", Reason.NETWORK_ERROR),
    _Rule("timed out", Reason.NETWORK_ERROR),
    _Rule("no m3u header", Reason.SITE_ERROR, _NO_PLAYLIST),
    _Rule("failed to parse xml", Reason.SITE_ERROR, _NO_PLAYLIST),
    _Rule("no video formats", Reason.UNSUPPORTED_COURSE),
    _Rule("unsupported url", Reason.UNSUPPORTED_COURSE),
    _Rule("", Reason.UNSUPPORTED_COURSE),
)


def classify(error: BaseException) -> Failure:
    """Return the Failure that an error of yt-dlp means."""
    chain = list(iter_chain(error))
    for each in chain:
        if isinstance(each, Failure):
            return each
    for each in chain:
        if isinstance(each, HTTPError) and each.redirect_loop:
            message = "the site redirects in a circle, as it does without a valid login"
            return LoginRequired(Reason.COOKIES_EXPIRED, message)
        for rule in _RULES:
            if _matches(each, rule):
                return _build_failure(each, rule)
    text = str(error).lower()
    rule = next(rule for rule in _RULES if isinstance(rule.match, str) and rule.match in text)
    return _build_failure(error, rule)


def iter_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and all errors below it, each once, the outermost first."""
    seen = set[int]()
    queue: list[object] = [error]
    while queue:
        each = queue.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        exc_info = getattr(each, "exc_info", None)
        queue += [
            exc_info[1] if isinstance(exc_info, tuple) else None,
            getattr(each, "cause", None),
            each.__cause__,
            each.__context__,
            getattr(each, "reason", None),
        ]


def _matches(error: BaseException, rule: _Rule) -> bool:
    """Return whether a rule without words matches this one error."""
    match rule.match:
        case int(status):
            return isinstance(error, HTTPError) and error.status == status
        case range() as statuses:
            return isinstance(error, HTTPError) and int(error.status) in statuses
        case frozenset() as numbers:
            return isinstance(error, OSError) and error.errno in numbers
        case type() as kind:
            return isinstance(error, kind)
        case _:
            return False


def _build_failure(error: BaseException, rule: _Rule) -> Failure:
    text = str(error).removeprefix("ERROR: ").partition("; please report this issue")[0]
    # Remove hints about options of yt-dlp's command line: nobody can set those here.
    text = text.partition(". Use --")[0]
    text = re.sub(r"\[download\] Got error: |\[Errno \d+\] ", "", text)
    text = redact(text.strip(), 300)
    status, seconds = None, None
    if isinstance(error, HTTPError):
        status = error.status
        if rule.reason is not Reason.UNSUPPORTED_COURSE:
            headers = error.response.headers
            seconds = retry_after(headers.get("Retry-After"), headers.get("Date"))
    message = rule.message.format(text=text, status=status)
    return rule.failure(rule.reason, message, retry_after=seconds)
