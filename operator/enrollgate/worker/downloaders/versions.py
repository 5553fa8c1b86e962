"""Tell the versions of a file on a site apart, by the headers of the site's answers.

What goes in: headers of an answer, and what was noted of an earlier one. What comes out: whether
bytes of both may be put together (`Version.may_continue`), and whether a file that was delivered
is still the one that the site has (`is_current`). Pure.
"""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

from enrollgate.common.strict_json import parse_json
from enrollgate.worker.course import Validators

# Seconds from a Last-Modified to the Date of its answer, after which the file cannot have changed
# twice within the second that the Last-Modified names (RFC 9110, 8.8.2.2).
_STRONG_AGE = 60
_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.IGNORECASE)
# Characters of a validator that are kept.
_MAX_LENGTH = 1000


class Headers(Protocol):
    """The headers of an answer. Names have no case."""

    def get(self, name: str, /) -> str | None:
        """Return a header's value."""
        ...


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The bytes of an answer 206, from `start` to before `stop`. `total`: None if unknown."""

    start: int
    stop: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a file, as an answer describes it."""

    validators: Validators
    # The value of If-Range that stands for exactly this version; empty if there is none.
    condition: str = ""

    def may_continue(self, earlier: "Version") -> bool:
        """Return whether an answer 206 is of the version that an earlier answer was of.

        It must say so: some servers ignore If-Range. An answer 206 repeats the ETag (RFC 9110,
        15.3.7); without an ETag the date must be the same.
        """
        ours, theirs = self.validators, earlier.validators
        if None not in (ours.length, theirs.length) and ours.length != theirs.length:
            return False
        if theirs.etag:
            return ours.etag == theirs.etag
        return ours.last_modified == theirs.last_modified

    def encode(self) -> str:
        """Return the version as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def decode(text: str) -> "Version | None":
        """Return the version of this JSON; None if it is none."""
        try:
            content = parse_json(text)
        except ValueError:
            return None
        match content:
            case {
                "validators": {
                    "length": int() | None as length,
                    "etag": str(etag),
                    "last_modified": str(last_modified),
                },
                "condition": str(condition),
            }:
                return Version(Validators(length, etag, last_modified), condition)
        return None


def read_version(headers: Headers) -> Version:
    """Return the version that an answer 200 or 206 is of."""
    encoded = bool(headers.get("Content-Encoding"))
    content_range = read_content_range(headers)
    if content_range is not None:
        length = content_range.total
    else:
        announced = headers.get("Content-Length") or ""
        length = int(announced) if re.fullmatch(r"[0-9]{1,18}", announced) else None
    etag = (headers.get("ETag") or "").strip()[:_MAX_LENGTH]
    last_modified = (headers.get("Last-Modified") or "").strip()[:_MAX_LENGTH]
    # The length of compressed bytes says nothing of the file.
    validators = Validators(None if encoded else length, etag, last_modified)
    if encoded:
        return Version(validators)
    if etag.startswith('"'):
        return Version(validators, etag)
    age = _seconds(headers.get("Date")), _seconds(last_modified)
    strong = None not in age and (age[0] or 0) - (age[1] or 0) >= _STRONG_AGE
    return Version(validators, last_modified if strong else "")


def read_content_range(headers: Headers) -> ContentRange | None:
    """Return the range of an answer 206; None if it has none, or several."""
    match = _CONTENT_RANGE.fullmatch((headers.get("Content-Range") or "").strip())
    if match is None:
        return None
    start, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < start or (total is not None and last >= total):
        return None
    return ContentRange(start, last + 1, total)


def is_current(recorded: Validators, now: Validators) -> bool:
    """Return whether a file that was delivered is the one that the site has now.

    Only what both sides know is compared. An ETag decides over a date.
    """
    if None not in (recorded.length, now.length) and recorded.length != now.length:
        return False
    if recorded.etag and now.etag:
        return _opaque(recorded.etag) == _opaque(now.etag)
    if recorded.last_modified and now.last_modified:
        return recorded.last_modified == now.last_modified
    return True


def _opaque(etag: str) -> str:
    """Return an ETag without what servers add to it when they compress.

    See https://bz.apache.org/bugzilla/show_bug.cgi?id=39727.
    """
    return re.sub(r"[-;]+(?:gzip|br|zstd|deflate)$", "", etag.removeprefix("W/").strip('"'))


def _seconds(date: str | None) -> float | None:
    try:
        parsed = parsedate_to_datetime(date or "")
    except (ValueError, TypeError, IndexError):
        return None
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
