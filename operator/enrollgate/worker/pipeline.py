"""Download and delivery, overlapped: while some items are delivered, the next are downloaded.

    list ─▶ at the destination already? ─▶ fetch ─▶ [scratch, bounded] ─▶ deliver ─▶ remove
     ▲      └── skip                       N threads                      M threads
     └──────── several, where one was listed ──┘

Items end in whatever order they end. One failed item does not waste the others; what makes every further item pointless ends
the run.
"""

import contextlib
import queue
import shutil
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from enrollgate.domain.reasons import Failure, Reason, explain
from enrollgate.domain.report import FailedItem
from enrollgate.worker.bandwidth import Bandwidth, Meter
from enrollgate.worker.course import (
    Course,
    Destination,
    Downloader,
    Item,
    LoginRequired,
    OnFetched,
    PlaylistFound,
)
from enrollgate.worker.disk import scratch_failure
from enrollgate.worker.progress import Progress
from enrollgate.worker.scratch import CHUNK_SIZE, Preempted, Scratch

ENDS_THE_RUN = frozenset(
    {
        Reason.COOKIES_EXPIRED,
        Reason.COOKIES_UNREADABLE,
        Reason.RATE_LIMITED,
        Reason.CONFIGURATION_ERROR,
        Reason.COMMAND_FAILED,
        Reason.STOPPED,
    }
)
"""Failures of one item that every further item would meet as well."""
FAILURES_IN_A_ROW = 5
"""After so many items in a row failed in a way that a retry may mend, the site is left in peace until the next try. What is for
good (a refused or DRM-protected lecture) says nothing of the next item."""
DELIVERIES_IN_A_ROW = 3
"""The same for the destination: each of these was tried with all its patience."""
FATAL_DELIVERY_REASONS = frozenset(
    {
        Reason.DESTINATION_AUTH,
        Reason.DESTINATION_QUOTA,
        Reason.DESTINATION_NOT_FOUND,
        Reason.DESTINATION_RATE_LIMITED,
        Reason.DISK_FULL,
    }
)
"""These end the run as well, and what is downloaded already cannot be delivered either."""


@dataclass
class RunStats:
    """What has become of the items so far."""

    delivered: int = 0
    skipped: int = 0
    bytes_delivered: int = 0
    failures: list[tuple[Item, Failure]] = field(default_factory=list)
    fatal: Failure | None = None

    @property
    def seen(self) -> int:
        """Items that have been dealt with."""
        return self.delivered + self.skipped + len(self.failures)


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """How much goes on at once, and how fast. The bandwidths are for all threads of a direction together."""

    downloads: int
    uploads: int
    down: Bandwidth
    up: Bandwidth


@dataclass(frozen=True, slots=True)
class _Ready:
    item: Item
    file: Path
    key: str


class Pipeline:
    """One pass over one course."""

    def __init__(
        self,
        downloader: Downloader,
        destination: Destination,
        *,
        folder: Path,
        scratch_limit: int,
        lanes: TransferLimits,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._downloader = downloader
        self._destination = destination
        self._folder = folder
        self._lanes = lanes
        self.scratch = Scratch(
            max(1, scratch_limit - lanes.downloads * CHUNK_SIZE), stop, self._discard
        )
        self._progress = progress
        self._stop = stop
        self._listing = threading.Lock()
        self._unfolded = deque[Item]()
        """Before the course's next."""
        self._ready: queue.Queue[_Ready | None] = queue.Queue()
        self._lock = threading.Lock()
        """For the tally and what follows."""
        self._in_a_row = 0
        self._deliveries_in_a_row = 0
        """That failed."""
        self._broken_listing: Failure | OSError | None = None
        self._bug: Exception | None = None
        """What nobody foresaw in one of the threads."""
        self._delivery_broke = False
        """Nothing more can be delivered."""
        self.tally = RunStats()

    def run(self, course: Course) -> RunStats:
        """Brings every item to the destination that is not there yet. Raises Failure or OSError if the listing fails, and
        whatever nobody foresaw in any thread: a delivery that died must never look like a success.
        """
        self._keep_what_is_there()
        fetchers = [
            self._start("fetch", number, lambda: self._fetch_all(course))
            for number in range(self._lanes.downloads)
        ]
        deliverers = [
            self._start("deliver", number, self._deliver_all)
            for number in range(self._lanes.uploads)
        ]
        for thread in fetchers:
            thread.join()
        for _ in deliverers:
            self._ready.put(None)
        for thread in deliverers:
            thread.join()
        for error in (self._bug, self._broken_listing):
            if error is not None:
                raise error
        return self.tally

    def _start(self, name: str, number: int, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 -- the run is over: how it went is not for the closing to say
                self._note_bug(error)

        thread = threading.Thread(target=guarded, name=f"{name}-{number + 1}")
        thread.start()
        return thread

    # what lies in scratch

    def _keep_what_is_there(self) -> None:
        """Partial files of earlier tries count, too. The oldest are the first to go."""
        if self._folder.is_dir():
            for folder in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime):
                self.scratch.keep(folder.name, _size(folder))

    def _discard(self, key: str) -> None:
        shutil.rmtree(self._folder / key, ignore_errors=True)

    # fetching

    def _fetch_all(self, course: Course) -> None:
        while not self._ended() and (item := self._next(course)) is not None:
            found = self._destination.find(item)
            if found is not None:
                with self._lock:
                    self.tally.skipped += 1
                self._progress.item_done(item, size=found.size, skipped=True)
                continue
            self._fetch(item)

    def _next(self, course: Course) -> Item | None:
        with self._listing:
            if self._ended() or self._broken_listing is not None:
                return None
            if self._unfolded:
                return self._unfolded.popleft()
            try:
                return next(course.items, None)
            except (Failure, OSError) as error:
                self._broken_listing = error
                return None

    def _ended(self) -> bool:
        with self._lock:
            if self._stop.is_set() and self.tally.fatal is None:
                self.tally.fatal = Failure(
                    Reason.STOPPED, "asked to stop; what was begun is resumed by the next try"
                )
            return (
                self.tally.fatal is not None
                or self._bug is not None
                or self._in_a_row >= FAILURES_IN_A_ROW
            )

    def _count(self, failure: Failure | None) -> None:
        with self._lock:
            self._in_a_row = (
                self._in_a_row + 1 if failure and explain(failure.reason).retry_can_help else 0
            )

    def _fetch(self, item: Item) -> None:
        key = item.key
        folder = self._folder / key
        while True:
            self._progress.item_started(item)
            self.scratch.begin(key)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = self._downloader.fetch(item, folder, self._watch(item, key))
                self.scratch.complete(key, _size(folder))
            except Preempted:
                self._discard(key)
                self.scratch.gone(key)
                continue
            except PlaylistFound as several:
                self._discard(key)
                self.scratch.gone(key)
                self._unfold(several.items)
                return
            except (Failure, OSError) as error:
                failure = error if isinstance(error, Failure) else scratch_failure(error)
                self._count(failure)
                self._leave(item, failure, key)
                return
            except Exception:
                self.scratch.keep(key, _size(folder))  # or the others would wait for it
                raise
            finally:
                self._progress.item_fetched(item)
            self._count(None)
            self._ready.put(_Ready(item, file, key))
            return

    def _unfold(self, items: list[Item]) -> None:
        """They come in place of the one that they were listed as, which does not count."""
        with self._listing:
            self._unfolded.extendleft(reversed(items))
        self._progress.item_unfolded(len(items))

    def _watch(self, item: Item, key: str) -> OnFetched:
        meter = Meter(self._lanes.down, _size(self._folder / key))

        def on_bytes(current: int, expected: int | None, arrived: int | None = None) -> None:
            self.scratch.grow(key, current, expected)
            if self._is_pointless():
                raise Failure(
                    Reason.STOPPED, "there is nowhere to deliver it; the next try goes on with it"
                )
            self._progress.item_bytes(item, current, expected)
            meter(current if arrived is None else arrived)

        return on_bytes

    def _leave(self, item: Item, failure: Failure, key: str) -> None:
        """Keeps the failed item's partial file for the next try."""
        self._note(item, failure)
        self.scratch.keep(key, _size(self._folder / key))

    # delivering

    def _deliver_all(self) -> None:
        while (ready := self._ready.get()) is not None:
            try:
                if self._is_pointless():
                    self._set_aside(ready)
                else:
                    self._deliver(ready)
            except Failure as failure:
                self._not_delivered(ready, failure)
            except OSError as error:
                self._not_delivered(ready, scratch_failure(error))
            except Exception as error:  # noqa: BLE001 -- the run is over: how it went is not for the closing to say
                self._set_aside(ready)
                self._note_bug(error)
                self._give_deliveries_up()

    def _set_aside(self, ready: _Ready) -> None:
        """For the next try. What nobody delivers any more must not fill scratch, or the others would wait for it."""
        self.scratch.keep(ready.key, _size(self._folder / ready.key))

    def _is_pointless(self) -> bool:
        """Nothing that is downloaded now could be delivered."""
        with self._lock:
            return self._delivery_broke

    def _give_deliveries_up(self) -> None:
        with self._lock:
            self._delivery_broke = True
        self.scratch.abandon()

    def _deliver(self, ready: _Ready) -> None:
        delivered = self._destination.deliver(ready.item, ready.file, Meter(self._lanes.up))
        self._discard(ready.key)
        self.scratch.gone(ready.key)
        with self._lock:
            self._deliveries_in_a_row = 0
            self.tally.delivered += 1
            self.tally.bytes_delivered += delivered.size
        self._progress.item_done(ready.item, size=delivered.size, skipped=False)

    def _not_delivered(self, ready: _Ready, failure: Failure) -> None:
        """One failed delivery. The destination's own troubles are those of all further items: they end the run."""
        self._leave(ready.item, failure, ready.key)
        if failure.reason is Reason.STOPPED:
            return
        with self._lock:
            self._deliveries_in_a_row += explain(failure.reason).retry_can_help
            ends = (
                self._deliveries_in_a_row >= DELIVERIES_IN_A_ROW or failure.retry_after is not None
            )
            if ends:
                self.tally.fatal = self.tally.fatal or failure
        if ends or failure.reason in FATAL_DELIVERY_REASONS:
            self._give_deliveries_up()

    def _note_bug(self, error: Exception) -> None:
        with self._lock:
            self._bug = self._bug or error

    def _note(self, item: Item, failure: Failure) -> None:
        with self._lock:
            if failure.reason in ENDS_THE_RUN | FATAL_DELIVERY_REASONS:
                self.tally.fatal = self.tally.fatal or failure
            if failure.reason is Reason.STOPPED:
                return
            self.tally.failures.append((item, failure))
        self._progress.item_failed(item, failure)


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; one that goes meanwhile counts nothing."""
    total = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def verdict(tally: RunStats) -> Failure | None:
    """The one failure that speaks for the run, None if the course is complete.

    What ended the run comes first; then any failure that a retry may mend, so that there is one; then the first.
    """
    if tally.fatal is not None:
        return tally.fatal
    if tally.failures:
        retryable = [pair for pair in tally.failures if explain(pair[1].reason).retry_can_help]
        item, failure = (retryable or tally.failures)[0]
        others = f" (and {len(tally.failures) - 1} more)" if len(tally.failures) > 1 else ""
        message = f"{len(tally.failures)} of {tally.seen} items failed: {item.title!r}: {failure.message}{others}"
        reason = Reason.COOKIES_EXPIRED if _all_want_a_login(tally) else failure.reason
        return Failure(reason, message, retry_after=failure.retry_after)
    if tally.seen == 0:
        return Failure(Reason.EMPTY_COURSE, "the course lists no item that can be downloaded")
    return None


def _all_want_a_login(tally: RunStats) -> bool:
    return len(tally.failures) == tally.seen and all(
        isinstance(each, LoginRequired) for _, each in tally.failures
    )


def failed_items(tally: RunStats) -> tuple[FailedItem, ...]:
    """The failed items as the report names them, in the course's order."""
    failures = sorted(tally.failures, key=lambda pair: (pair[0].index, pair[0].part))
    return tuple(
        FailedItem(item.title, failure.reason, failure.message) for item, failure in failures
    )
