"""What passes between a downloader, the pipeline and a destination."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from enrollgate.domain.reasons import Failure

OnBytes = Callable[[int], None]
"""Told how many bytes of an item this delivery has moved so far. May block: that is the bandwidth limit."""


class OnFetched(Protocol):
    """Told how far a download is. May block: that is the back-pressure, and the bandwidth limit. What it raises is to be passed
    through."""

    def __call__(self, current: int, expected: int | None, arrived: int | None = None) -> None:
        """`current`: the bytes that the item takes in scratch, or is about to take; `expected`: those it will take in the end
        (None: nobody knows); `arrived`: those of the item itself, earlier tries' included, if that is another number."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One lecture, or whatever a course is made of."""

    item_id: str
    """The same on every try: what is at the destination is found again by it."""
    index: int
    """Counts from 1, in the course's order."""
    title: str
    section: str
    """The chapter's title, empty if there is none."""
    section_index: int
    source_url: str
    part: tuple[int, ...] = ()
    """Its place, counted from 1, in the lecture that it is a part of, and so on inwards; empty for a whole lecture."""

    @property
    def key(self) -> str:
        """Name the item for file names, folders and Drive: 32 harmless characters.

        The first 32 hexadecimal digits of the SHA-256 of `item_id`, so the same in every attempt.
        """
        return hashlib.sha256(self.item_id.encode(errors="replace")).hexdigest()[:32]

    @property
    def number(self) -> str:
        """What its name begins with: `03`, or `03.2` for the second part of the third lecture."""
        return ".".join((f"{self.index:02d}", *map(str, self.part)))


@dataclass(frozen=True, slots=True)
class Course:
    """A course as its downloader found it. `items` is read once and lazily; iterating it may raise Failure."""

    title: str
    items: Iterator[Item]
    total: int | None
    """How many items there are, if that is known before they are listed."""


class LoginRequired(Failure):
    """A site's words, no HTTP 401. Of the course: the cookies have expired. Of one lecture: it is locked (some open on a later
    day), which says nothing of the others; unless the site says so of all of them.
    """


class PlaylistFound(Exception):
    """An item that turns out to be a list: these are the items, in its order. They have its place in the course."""

    def __init__(self, items: list[Item]) -> None:
        super().__init__()
        self.items = items


@dataclass(frozen=True, slots=True)
class Delivered:
    """An item at its destination."""

    item_id: str
    size: int
    """Bytes."""
    md5: str


class Downloader(Protocol):
    """Brings items to scratch. All errors are Failures. `fetch` is called from several threads at once, also while the course's
    items are listed.
    """

    def open(self) -> Course:
        """Lists the course."""
        ...

    def fetch(self, item: Item, folder: Path, on_bytes: OnFetched) -> Path:
        """Brings one item into its folder, and gives the complete file. Goes on with what an earlier try left there.
        Raises PlaylistFound, before any of them is downloaded, if the item is a list.
        """
        ...

    def close(self) -> None:
        """Lets go of everything."""
        ...


class Destination(Protocol):
    """Where a course goes. All errors are Failures. `find` and `deliver` are called from several threads at once."""

    def open(self, title: str) -> None:
        """Finds or makes the course's place."""
        ...

    def find(self, item: Item) -> Delivered | None:
        """The item, if it is there already, complete."""
        ...

    def deliver(self, item: Item, file: Path, on_bytes: OnBytes) -> Delivered:
        """Puts the file there, complete or not at all.

        `on_bytes` is told how many bytes this call has moved (from 0, also where it goes on with an earlier upload; what is
        sent again counts again) and may block: that is the bandwidth limit. Once `stop` is set, Failure (Stopped) is raised
        soon, and what was begun is kept where the next try goes on with it, or removed.
        """
        ...

    @property
    def location(self) -> tuple[str, str]:
        """The id and the URL of the course's place."""
        ...
