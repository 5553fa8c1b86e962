"""The data and the protocols between a downloader, the pipeline and a destination.

Separate from all three, so that each of them can be replaced and tested alone.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.domain.report import LeftOutItem

# Called with the bytes of an item that this delivery has moved so far. It may block, to keep the
# bandwidth limit.
OnBytes = Callable[[int], None]


def digits(count: int, least: int = 2) -> int:
    """Return how many digits the numbers of a list of this length have."""
    return max(least, len(str(count)))


class OnFetched(Protocol):
    """Called with the progress of a download.

    It may block, to keep the limits of scratch and of bandwidth. A downloader must not catch what
    it raises.
    """

    def __call__(self, current: int, expected: int | None, arrived: int | None = None) -> None:
        """Take the bytes of a download.

        `current`: what the item takes in scratch, or is about to take. `expected`: what it takes
        when it is complete; None: unknown. `arrived`: the bytes of the item itself, with those of
        earlier attempts, if that is another number.
        """
        ...


class ItemKind(StrEnum):
    """What an item is. The words are those of `course.json`."""

    LECTURE = "lecture"
    SUBTITLE = "subtitle"
    ATTACHMENT = "attachment"  # a file that belongs to a lecture
    LINK = "link"  # an address that belongs to a lecture
    ARTICLE = "article"  # a lecture that is a text
    THUMBNAIL = "thumbnail"
    INDEX = "index"  # of the course: written by us


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a course: a lecture, a subtitle, an attachment."""

    item_id: str  # the same in every attempt: the item is found again by it at the destination
    index: int  # counts from 1, in the course's order
    title: str
    section: str  # the chapter's title; empty if there is none
    section_index: int
    source_url: str
    # Its place in the lecture that it is a part of, from 1, and so on inwards. Empty for a whole
    # lecture.
    part: tuple[int, ...] = ()
    # The digits of its index and of its places, so that names sort as the course does.
    widths: tuple[int, ...] = ()
    section_width: int = 2
    kind: ItemKind = ItemKind.LECTURE
    # What tells files of one lecture apart, such as a subtitle's language. It is in the file name.
    label: str = ""
    description: str = ""  # plain text
    duration: float | None = None  # seconds; None: unknown
    left_out: str = ""  # why it is not downloaded, if it is left out on purpose

    @property
    def key(self) -> str:
        """Return a name for folders, file names and Drive: 32 safe characters.

        These are the first 32 hexadecimal digits of the SHA-256 of `item_id`: the same in every
        attempt.
        """
        return hashlib.sha256(self.item_id.encode(errors="replace")).hexdigest()[:32]

    @property
    def number(self) -> str:
        """Return the start of its file name:

        `03`, or `03.2` for the second part of the third lecture. `003` in a course of 100.
        """
        places = (self.index, *self.part)
        defaults = (2, *[1] * len(self.part))
        widths = self.widths + defaults[len(self.widths) :]
        return ".".join(f"{place:0{width}d}" for place, width in zip(places, widths, strict=True))


@dataclass(frozen=True, slots=True)
class Course:
    """A course as its downloader lists it."""

    title: str
    items: Iterator[Item]  # read once, and lazily; it may raise Failure
    total: int | None  # the number of items, if it is known before they are listed
    description: str = ""  # plain text
    # Asks the site whether it still grants the course. Raises Failure if it does not. None: there
    # is no site to ask.
    check: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Validators:
    """What a site says of one version of a file (RFC 9110, 8.6 and 8.8)."""

    length: int | None = None  # bytes; None: unknown
    etag: str = ""  # empty if unknown
    last_modified: str = ""  # an HTTP date; empty if unknown


@dataclass(frozen=True, slots=True)
class Expected:
    """What the file of an item must be, as far as its downloader knows."""

    # From the site's or the program's name for it, with the dot; empty: it has no telling name.
    extension: str = ""
    is_media: bool = False  # it came as a stream, or as one of several formats of a video
    seconds: float | None = None  # how long it plays, by the listing or the playlist
    # Seconds that a stream may be shorter than its playlist says. None: `seconds` is the listing's.
    slack: float | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """An item in scratch."""

    file: Path  # complete
    validators: Validators = Validators()  # of the version that `file` has
    expected: Expected | None = None  # None: the file's own name says what it is
    extension: str = ""  # by its content, with the dot; empty: that of `file`
    md5: str = ""  # of the file that was verified, hexadecimal; empty: not calculated yet

    @property
    def suffix(self) -> str:
        """Return the extension that the file has at the destination, with the dot."""
        return self.extension or self.file.suffix


class LoginRequired(Failure):
    """An answer that asks for a login.

    Of the course it means that the account has no valid cookies. Of one lecture it means that this
    lecture is locked (some open on a later day), unless the site says it of all lectures.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retry_after: float | None = None,
        course_reason: Reason = Reason.COOKIES_EXPIRED,
    ) -> None:
        """`course_reason` is the reason if the course as a whole asks for a login."""
        super().__init__(reason, message, retry_after=retry_after)
        self.course_reason = course_reason

    def of_course(self) -> Failure:
        """Return what it means if the site says it of the course itself."""
        return Failure(self.course_reason, self.message, retry_after=self.retry_after)


class PlaylistFound(Exception):
    """An item that is a list. `items` take its place in the course, in their order."""

    def __init__(self, items: list[Item]) -> None:
        super().__init__()
        self.items = items


@dataclass(frozen=True, slots=True)
class Delivered:
    """An item at its destination."""

    item_id: str
    size: int  # bytes
    md5: str  # hexadecimal
    validators: Validators = Validators()  # of the version that was delivered
    path: str = ""  # below the course's folder, with slashes
    url: str = ""  # its address for a browser, if it has one


class Downloader(Protocol):
    """Bring the items of a course to scratch. All errors are Failures.

    The constructor takes the event `stop`. Once it is set, Failure (Stopped) is raised soon, and
    partial files are kept.
    """

    def open(self) -> Course:
        """List the course."""
        ...

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Fetched:
        """Bring one item into its folder, and return the complete file.

        Resume what an earlier attempt left there.

        Called from several threads at once, also while the items are listed. Raises PlaylistFound,
        before it downloads anything, if the item is a list.
        """
        ...

    def is_current(self, item: Item, delivered: Delivered) -> bool:
        """Return whether what was delivered of an item is what would be downloaded now.

        In doubt, False: the item is then downloaded again. Called from several threads at once.
        """
        ...

    def discard(self, item: Item) -> None:
        """Remove what it keeps of the item outside of the item's folder: it was not whole."""
        ...

    def close(self) -> None:
        """Release all connections and files."""
        ...


class Destination(Protocol):
    """Keep courses. All errors are Failures.

    The constructor takes the event `stop`. Once it is set, Failure (Stopped) is raised soon. What
    has been delivered of a file is then kept, if the next attempt can resume it, or removed.
    """

    def open(self, title: str) -> None:
        """Find the course's folder, or create it."""
        ...

    def find(self, item: Item) -> Delivered | None:
        """Return the item if it is there, complete. Called from several threads at once."""
        ...

    def deliver(self, item: Item, fetched: Fetched, on_bytes: OnBytes) -> Delivered:
        """Put the file there, complete or not at all. Called from several threads at once.

        If the same bytes are there, as an item that this attempt has not looked for, then that file
        becomes this item's: the site gives some items another id in each attempt.

        `on_bytes` gets the bytes that this call has moved. They count from 0, even if an earlier
        upload is resumed; bytes that are sent again count again.
        """
        ...

    def finish(self, left_out: Sequence[LeftOutItem]) -> None:
        """Check that all items that were found or delivered are still there, each once.

        `left_out` is what the manifest names as left out, if the destination has a manifest.
        Called once at the end of the run. A destination that two workers may write to at once
        merges what the other one delivered.
        """
        ...

    @property
    def location(self) -> tuple[str, str]:
        """Return the id and the URL of the course's folder."""
        ...
