"""The bounded space between download and delivery. PlaylistFound downloads grow in it at once; together they never exceed the limit.

A download tells of bytes when they are written, so `CHUNK_SIZE` is kept free for each.

    kept      partial files of items that failed, for the next try: the first to go when room is needed
    growing   downloads under way, the oldest first, each with what it has and what it is expected to become
    waiting   complete files, until they are delivered

The oldest download grows as long as there is room. A younger one grows only if, besides, all that is promised to the older ones
fits with all of its own: so the oldest can always become complete. Where more is needed than was promised (HLS only guesses, and
some sites say nothing) and the oldest finds the rest taken by younger ones, the youngest gives way: it is thrown away and fetched
again. A file larger than the limit passes when it is alone.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

CHUNK_SIZE = 1 << 16
"""Bytes that a downloader writes before it tells of them, at most."""


class Preempted(Exception):
    """This download must be thrown away, for an older one to go on; it is to begin anew."""


@dataclass(frozen=True, slots=True)
class ActiveDownload:
    """A download under way. Bytes."""

    actual: int
    expected: int | None
    """What it will have when it is complete; None if nobody knows."""
    wanted: int = 0
    """What it waits for room for."""

    def promised(self, share: int) -> int:
        """The room that it may count on: where nobody knows, an equal share. What it waits for is promised to it, or a younger
        one that gave way would take the room again."""
        return max(self.actual, self.wanted, share if self.expected is None else self.expected)


def may_grow(limit: int, taken: int, growing: Mapping[str, ActiveDownload], key: str) -> bool:
    """Whether this download may have the bytes that it says. `growing` is ordered by age; `taken` is what is not growing."""
    names = list(growing)
    older, younger = names[: names.index(key)], names[names.index(key) + 1 :]
    others = sum(growing[name].actual for name in (*older, *younger))
    fits = taken + others + growing[key].actual <= limit
    if not older:
        return fits or taken == others == 0
    if not fits:
        return False
    share = limit // len(growing)
    claimed = sum(growing[name].promised(share) for name in (*older, key))
    return taken + claimed + sum(growing[name].actual for name in younger) <= limit


class Scratch:
    """Counts the bytes in scratch, for all threads. `discard` removes what an item has there. Waits end when `stop` is set, or
    once it is abandoned."""

    def __init__(self, limit: int, stop: threading.Event, discard: Callable[[str], None]) -> None:
        self.limit = limit
        self.peak = 0
        """The most bytes there ever were, the kept ones included."""
        self._stop = stop
        self._discard = discard
        self._kept = dict[str, int]()
        self._growing = dict[str, ActiveDownload]()
        self._waiting = dict[str, int]()
        self._gives_way: str | None = None
        self._abandoned = False
        self._changed = threading.Condition()

    def keep(self, key: str, size: int) -> None:
        """A partial file lies there that nobody works on: it stays as long as there is room."""
        with self._changed:
            self._growing.pop(key, None)
            self._waiting.pop(key, None)
            self._kept[key] = size
            while self._kept and self._used() > self.limit:
                self._drop_oldest()
            self._told()

    def begin(self, key: str) -> None:
        """A download begins, the youngest of all; waits while complete files alone fill the space."""
        with self._changed:
            while sum(self._waiting.values()) >= self.limit and not self._is_over():
                self._changed.wait(timeout=0.5)
            self._growing[key] = ActiveDownload(self._kept.pop(key, 0), None)

    def grow(self, key: str, current: int, expected: int | None) -> None:
        """The download has `current` bytes; waits while they do not fit. Raises Preempted."""
        with self._changed:
            wanted = ActiveDownload(current, expected)
            while not self._is_over():
                if self._must_go(key):
                    raise Preempted
                growing, waiting = {**self._growing, key: wanted}, sum(self._waiting.values())
                if may_grow(self.limit, waiting + sum(self._kept.values()), growing, key):
                    break
                if self._kept and may_grow(self.limit, waiting, growing, key):
                    self._drop_oldest()
                else:
                    self._growing[key] = ActiveDownload(
                        self._growing[key].actual, expected, wanted=current
                    )
                    self._find_who_gives_way(key)
                    self._changed.wait(timeout=0.5)
            self._growing[key] = wanted
            self._told()

    def abandon(self) -> None:
        """Nothing will be delivered any more, so no room is worth waiting for."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def complete(self, key: str, size: int) -> None:
        """The download is complete and waits for delivery."""
        with self._changed:
            self._growing.pop(key, None)
            self._waiting[key] = size
            self._told()

    def gone(self, key: str) -> None:
        """Nothing of the item is left there: it was delivered, or thrown away."""
        with self._changed:
            self._growing.pop(key, None)
            self._waiting.pop(key, None)
            self._kept.pop(key, None)
            self._told()

    def _is_over(self) -> bool:
        return self._abandoned or self._stop.is_set()

    def _must_go(self, key: str) -> bool:
        """Whether this one still has to give way: room may have come since it was chosen."""
        if self._gives_way != key:
            return False
        oldest = next(iter(self._growing))
        each = self._growing[oldest]
        wanted = {
            **self._growing,
            oldest: ActiveDownload(max(each.actual, each.wanted), each.expected),
        }
        if may_grow(self.limit, sum(self._waiting.values()), wanted, oldest):
            self._gives_way = None
        return self._gives_way == key

    def _used(self) -> int:
        growing = sum(each.actual for each in self._growing.values())
        return growing + sum(self._waiting.values()) + sum(self._kept.values())

    def _told(self) -> None:
        if self._gives_way not in self._growing:
            self._gives_way = None
        self.peak = max(self.peak, self._used())
        self._changed.notify_all()

    def _drop_oldest(self) -> None:
        key = next(iter(self._kept))
        self._discard(key)
        del self._kept[key]

    def _find_who_gives_way(self, key: str) -> None:
        """If the oldest waits for what younger downloads have, and no delivery will make room, the youngest must go."""
        oldest, *younger = self._growing
        if key == oldest and not self._waiting and self._gives_way is None:
            self._gives_way = next(
                (name for name in reversed(younger) if self._growing[name].actual), None
            )
            self._changed.notify_all()
