"""Limit the bytes in scratch between download and delivery.

Several downloads write to scratch at once. Together they must never exceed the limit, and none may
wait forever. A downloader reports bytes after it has written them, at most `CHUNK_SIZE` at a time,
so the pipeline takes that much per download off the limit. The files themselves belong to the
pipeline: this module only counts.

    kept      partial files of failed items; the oldest is removed when room is needed
    active    downloads in progress, the oldest first
    complete  whole files that wait for their delivery

The rules:

1. A download reserves its expected size with its first bytes, and waits until that fits. The older
   one gets room first.
2. A download of unknown size starts only if no other has started, and no other starts beside it.
3. A download that turns out larger than expected waits for the difference.
4. A file larger than the limit passes once nothing else is in scratch.
5. If all downloads wait and no delivery will make room, the youngest that has started is
   preempted: its files are removed and it is fetched again.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

# The most bytes that a downloader writes before it reports them.
CHUNK_SIZE = 1 << 16
_POLL_INTERVAL = 0.5  # seconds: the stop event cannot notify a condition


class Preempted(Exception):
    """The files of this download must be removed, so that an older one has room. Fetch it again."""


@dataclass(frozen=True, slots=True)
class ActiveDownload:
    """A download in progress. All sizes are bytes."""

    held: int  # what it has on disk
    expected: int | None = None  # its size when it is complete; None: unknown
    started: bool = False  # it has been given room

    @property
    def reserved(self) -> int:
        """Return the room that no other download may take."""
        return max(self.held, self.expected or 0)

    @property
    def runs_alone(self) -> bool:
        """Return whether no other download may start beside this one."""
        return self.started and self.expected is None


class Scratch:
    """Count the bytes in scratch and make downloads wait for room. Safe for several threads.

    `limit` is in bytes. `discard` removes the files of an item, by its key. All waits end when
    `stop` is set, or after `stop_waiting`.
    """

    def __init__(self, limit: int, stop: threading.Event, discard: Callable[[str], None]) -> None:
        self._limit = limit
        self._stop = stop
        self._discard = discard
        self._kept = dict[str, int]()
        self._active = dict[str, ActiveDownload]()
        self._complete = dict[str, int]()
        self._waiting = set[str]()  # the active downloads that wait for room
        self._wait_no_more = False
        self._changed = threading.Condition()

    def start(self, key: str) -> None:
        """Begin a download, as the youngest.

        Wait while others wait, or while complete files fill scratch.
        """
        with self._changed:
            while not self._is_over() and (
                self._waiting or sum(self._complete.values()) >= self._limit
            ):
                self._changed.wait(_POLL_INTERVAL)
            self._active[key] = ActiveDownload(self._kept.pop(key, 0))

    def grow(self, key: str, current: int, expected: int | None) -> None:
        """Record that a download has `current` bytes of `expected` (None: unknown).

        Wait until they fit.

        Raises Preempted.
        """
        with self._changed:
            if expected is None:
                expected = self._active[key].expected
            wanted = ActiveDownload(current, expected, started=True)
            self._waiting.add(key)
            try:
                if not self._is_over() and not self._fits(key, wanted):
                    self._changed.notify_all()  # this may have been the last that did not wait
                while not self._is_over() and not self._fits(key, wanted):
                    if self._must_yield(key):
                        raise Preempted
                    self._changed.wait(_POLL_INTERVAL)
            finally:
                self._waiting.remove(key)
            self._active[key] = wanted
            self._make_room()

    def complete(self, key: str, size: int) -> None:
        """Record that a download is complete and waits for its delivery."""
        with self._changed:
            self._forget(key)
            self._complete[key] = size
            self._make_room()

    def keep(self, key: str, size: int) -> None:
        """Record a partial file that nobody works on. It stays as long as there is room."""
        with self._changed:
            self._forget(key)
            self._kept[key] = size
            self._make_room()

    def release(self, key: str) -> None:
        """Record that nothing of the item is left in scratch."""
        with self._changed:
            self._forget(key)
            self._changed.notify_all()

    def stop_waiting(self) -> None:
        """End all waits: nothing will be delivered any more, so no room will come."""
        with self._changed:
            self._wait_no_more = True
            self._changed.notify_all()

    def _is_over(self) -> bool:
        return self._wait_no_more or self._stop.is_set()

    def _fits(self, key: str, wanted: ActiveDownload) -> bool:
        """Return whether a download may grow to the size that it asks for.

        Kept files do not count: they can be removed.
        """
        older = list(self._active)[: list(self._active).index(key)]
        others = [download for name, download in self._active.items() if name != key]
        if any(other.runs_alone for other in others):
            return False
        if wanted.runs_alone and any(other.started for other in others):
            return False
        if not self._active[key].started and not self._waiting.isdisjoint(older):
            return False
        taken = sum(self._complete.values()) + sum(other.reserved for other in others)
        return taken == 0 or taken + wanted.reserved <= self._limit

    def _must_yield(self, key: str) -> bool:
        """Return whether this waiting download is the one to preempt (rule 5)."""
        if self._complete or len(self._waiting) < len(self._active):
            return False
        younger = list(self._active)[1:]
        holding = [
            name for name in younger if self._active[name].started or self._active[name].held
        ]
        return key in holding[-1:]

    def _make_room(self) -> None:
        """Remove kept files, the oldest first, until the limit holds. Wake all that wait."""
        used = sum(download.held for download in self._active.values())
        used += sum(self._complete.values()) + sum(self._kept.values())
        while self._kept and used > self._limit:
            key = next(iter(self._kept))
            self._discard(key)
            used -= self._kept.pop(key)
        self._changed.notify_all()

    def _forget(self, key: str) -> None:
        self._active.pop(key, None)
        self._complete.pop(key, None)
        self._kept.pop(key, None)
