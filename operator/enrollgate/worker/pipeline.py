"""Download and delivery, overlapped: while item k is delivered, item k+1 is downloaded.

    list ─▶ at the destination already? ─▶ fetch ─▶ [scratch, bounded] ─▶ deliver ─▶ remove
            └── skip                        one thread                    another thread

One failed item does not waste the others; what makes every further item pointless ends the run.
"""

import errno
import hashlib
import queue
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from enrollgate.domain.reasons import Failure, Reason, explain
from enrollgate.domain.report import FailedItem
from enrollgate.worker.course import Course, Destination, Downloader, Item
from enrollgate.worker.progress import Progress
from enrollgate.worker.scratch import Scratch

ENDS_THE_RUN = frozenset(
    {
        Reason.COOKIES_EXPIRED,
        Reason.COOKIES_UNREADABLE,
        Reason.RATE_LIMITED,
        Reason.CONFIGURATION_ERROR,
        Reason.COMMAND_FAILED,
        Reason.DESTINATION_AUTH,
        Reason.DESTINATION_QUOTA,
        Reason.DISK_FULL,
        Reason.STOPPED,
    }
)
"""Failures of one item that every further item would meet as well."""
FAILURES_IN_A_ROW = 5
"""After so many items in a row failed in a way that a retry may mend, the site is left in peace until the next try. What is for
good (a refused or DRM-protected lecture) says nothing of the next item."""
NOWHERE_TO_DELIVER = frozenset({Reason.DESTINATION_AUTH, Reason.DESTINATION_QUOTA, Reason.DISK_FULL})
"""After these, what is downloaded already cannot be delivered either."""


@dataclass
class Tally:
    """What has become of the items so far. Written by both threads, each field by one of them."""

    delivered: int = 0
    skipped: int = 0
    bytes_delivered: int = 0
    failures: list[tuple[Item, Failure]] = field(default_factory=list)
    fatal: Failure | None = None

    @property
    def seen(self) -> int:
        """Items that have been dealt with."""
        return self.delivered + self.skipped + len(self.failures)


class Pipeline:
    """One pass over one course."""

    def __init__(
        self,
        downloader: Downloader,
        destination: Destination,
        *,
        folder: Path,
        scratch: Scratch,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._downloader = downloader
        self._destination = destination
        self._folder = folder
        self._scratch = scratch
        self._progress = progress
        self._stop = stop
        self._ready: queue.Queue[tuple[Item, Path, int] | None] = queue.Queue()
        self._bug: Exception | None = None
        """What nobody foresaw in the delivering thread."""
        self._partial: list[Path] = []
        """Folders of failed items, the oldest first."""
        self.tally = Tally()

    def run(self, course: Course) -> Tally:
        """Brings every item to the destination that is not there yet. Raises Failure if the listing fails, and whatever nobody
        foresaw in either thread: a delivery that died must never look like a success.
        """
        deliverer = threading.Thread(target=self._deliver_all, name="deliver")
        deliverer.start()
        try:
            self._fetch_all(course)
        finally:
            self._ready.put(None)
            deliverer.join()
        if self._bug is not None:
            raise self._bug
        return self.tally

    def _fetch_all(self, course: Course) -> None:
        in_a_row = 0
        for item in course.items:
            if self._ended():
                return
            found = self._destination.find(item)
            if found is not None:
                self.tally.skipped += 1
                self._progress.item_done(item, size=found.size, skipped=True)
                continue
            failure = self._fetch(item)
            if failure is None or not explain(failure.reason).retry_can_help:
                in_a_row = 0
                continue
            in_a_row += 1
            if in_a_row >= FAILURES_IN_A_ROW:
                return

    def _ended(self) -> bool:
        if self._stop.is_set() and self.tally.fatal is None:
            self.tally.fatal = Failure(Reason.STOPPED, "asked to stop; what was begun is resumed by the next try")
        return self.tally.fatal is not None or self._bug is not None

    def _fetch(self, item: Item) -> Failure | None:
        folder = self._folder / hashlib.sha256(item.item_id.encode()).hexdigest()[:16]
        self._scratch.wait_for_room()
        self._progress.item_started(item)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = self._downloader.fetch(item, folder, self._on_bytes, self._stop)
            size = file.stat().st_size
        except Failure as failure:
            return self._leave(item, failure, folder)
        except OSError as error:
            return self._leave(item, disk_failure(error), folder)
        self._scratch.complete(size)
        self._ready.put((item, file, size))
        return None

    def _leave(self, item: Item, failure: Failure, folder: Path) -> Failure:
        """Keeps the failed item's partial file for the next try, and as many older ones as fit into the limit with it."""
        self._note(item, failure)
        self._partial.append(folder)
        while len(self._partial) > 1 and sum(map(_size, self._partial)) > self._scratch.limit:
            shutil.rmtree(self._partial.pop(0), ignore_errors=True)
        return failure

    def _on_bytes(self, current: int) -> None:
        self._scratch.grow(current)
        self._progress.item_bytes(current)

    def _deliver_all(self) -> None:
        while (ready := self._ready.get()) is not None:
            item, file, size = ready
            try:
                if self._bug is None and (
                    self.tally.fatal is None or self.tally.fatal.reason not in NOWHERE_TO_DELIVER
                ):
                    self._deliver(item, file)
            except Failure as failure:
                self._note(item, failure)
            except OSError as error:
                self._note(item, disk_failure(error))
            except Exception as error:  # noqa: BLE001 -- the thread's outermost edge: run() raises it again
                self._bug = error
            finally:
                self._scratch.release(size)

    def _deliver(self, item: Item, file: Path) -> None:
        delivered = self._destination.deliver(item, file, lambda _sent: None, self._stop)
        self.tally.delivered += 1
        self.tally.bytes_delivered += delivered.size
        shutil.rmtree(file.parent, ignore_errors=True)
        self._progress.item_done(item, size=delivered.size, skipped=False)

    def _note(self, item: Item, failure: Failure) -> None:
        if failure.reason in ENDS_THE_RUN:
            self.tally.fatal = self.tally.fatal or failure
        if failure.reason is Reason.STOPPED:
            return
        self.tally.failures.append((item, failure))
        self._progress.item_failed(item, failure)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0


def disk_failure(error: OSError) -> Failure:
    """What an error of the file system means to the run."""
    where = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
    message = f"{where}{error.strerror or error.__class__.__name__}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Failure(Reason.DISK_FULL, message)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Failure(Reason.DESTINATION_AUTH, message)
    return Failure(Reason.DESTINATION_UNAVAILABLE, message)


def verdict(tally: Tally) -> Failure | None:
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
        return Failure(failure.reason, message, retry_after=failure.retry_after)
    if tally.seen == 0:
        return Failure(Reason.EMPTY_COURSE, "the course lists no item that can be downloaded")
    return None


def failed_items(tally: Tally) -> tuple[FailedItem, ...]:
    """The failed items as the report names them."""
    return tuple(FailedItem(item.title, failure.reason, failure.message) for item, failure in tally.failures)
