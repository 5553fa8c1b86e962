"""Download and deliver a course: while some items are delivered, the next are downloaded.

    list ─▶ already at the destination? ─▶ download, verify ─▶ [scratch, bounded] ─▶ deliver
     ▲      └── skip                       N threads                               M threads
     └──────── the items of a playlist ────┘

In comes a course; out come its files at the destination, and the counts in `RunStats`. Items end in
any order. One failed item does not stop the others. A failure that every further item would meet
ends the run.
"""

import contextlib
import queue
import shutil
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from enrollgate.domain.reasons import Failure, Reason, explain
from enrollgate.worker.bandwidth import Bandwidth, Meter
from enrollgate.worker.course import (
    Course,
    Destination,
    Downloader,
    Fetched,
    Item,
    OnBytes,
    OnFetched,
    PlaylistFound,
)
from enrollgate.worker.disk import scratch_failure
from enrollgate.worker.progress import Progress
from enrollgate.worker.run_stats import RunStats
from enrollgate.worker.scratch import CHUNK_SIZE, Preempted, Scratch
from enrollgate.worker.stopping import Action, FailureStreak, explain_check, explain_stop
from enrollgate.worker.verification import file_checker, verify

# Failures of one item that every further item would meet as well: they end the run.
FATAL_REASONS = frozenset(
    {
        Reason.COOKIES_UNREADABLE,
        Reason.BOT_CHECK,
        Reason.RATE_LIMITED,
        Reason.CONFIGURATION_ERROR,
        Reason.COMMAND_FAILED,
        Reason.STOPPED,
    }
)
# These end the run too, and no file that is already downloaded can be delivered.
FATAL_DELIVERY_REASONS = frozenset(
    {
        Reason.DESTINATION_AUTH,
        Reason.DESTINATION_QUOTA,
        Reason.DESTINATION_NOT_FOUND,
        Reason.DESTINATION_RATE_LIMITED,
        Reason.DISK_FULL,
    }
)
# So many deliveries in a row that fail, each in a way that a retry can fix, end the run. The
# destination has already retried each of them.
DELIVERIES_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """How many transfers run at once, and how fast.

    All transfers of a direction share its bandwidth.
    """

    downloads: int
    uploads: int
    download_bandwidth: Bandwidth
    upload_bandwidth: Bandwidth


class Pipeline:
    """One attempt at one course.

    `folder` has one folder of partial files per item, `scratch_limit` is their size in bytes at
    most. `stop` ends the run soon.
    """

    def __init__(
        self,
        downloader: Downloader,
        destination: Destination,
        *,
        folder: Path,
        scratch_limit: int,
        limits: TransferLimits,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._downloader = downloader
        self._destination = destination
        self._folder = folder
        self._limits = limits
        unreported = limits.downloads * CHUNK_SIZE
        self._scratch = Scratch(max(1, scratch_limit - unreported), stop, self._remove_files)
        self._progress = progress
        self._stop = stop
        self.stats = RunStats()
        # Guards the course's iterator and the items of playlists, which come before its next item.
        self._listing_lock = threading.Lock()
        self._playlist_items = deque[Item]()
        self._listing_error: Failure | OSError | None = None
        self._downloaded: queue.Queue[tuple[Item, Fetched] | None] = queue.Queue()
        # Guards `stats` and what follows.
        self._lock = threading.Lock()
        self._streak = FailureStreak()
        self._failed_deliveries_in_a_row = 0
        self._deliveries_stopped = False
        self._bug: Exception | None = None

    def run(self, course: Course) -> RunStats:
        """Bring every item to the destination that is not there yet, and return the counts.

        If the listing or the file system fails, the counts say so: what was delivered until then
        stays. Raises any unexpected error of a thread, so that a delivery that crashed never looks
        like a success.
        """
        if self._folder.is_dir():
            # What earlier attempts left in scratch. The oldest is removed first.
            for folder in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime):
                self._scratch.keep(folder.name, _size(folder))
        downloads = [
            self._start_thread(f"download-{number + 1}", lambda: self._download_all(course))
            for number in range(self._limits.downloads)
        ]
        deliveries = [
            self._start_thread(f"deliver-{number + 1}", self._deliver_all)
            for number in range(self._limits.uploads)
        ]
        for thread in downloads:
            thread.join()
        for _ in deliveries:
            self._downloaded.put(None)
        for thread in deliveries:
            thread.join()
        error = self._bug or self._listing_error
        if isinstance(error, Failure):
            self.stats.fatal = error
        elif isinstance(error, OSError):
            self.stats.set_fatal(scratch_failure(error))
        elif error is not None:
            raise error
        return self.stats

    def _start_thread(self, name: str, function: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                function()
            except Exception as error:  # noqa: BLE001 -- `run` raises it at the end
                self._record_bug(error)

        thread = threading.Thread(target=guarded, name=name)
        thread.start()
        return thread

    # downloads

    def _download_all(self, course: Course) -> None:
        while (item := self._next_item(course)) is not None:
            if item.left_out:
                with self._lock:
                    self.stats.left_out.append(item)
                self._progress.item_left_out(item)
                continue
            found = self._destination.find(item)
            try:
                is_current = found is not None and self._downloader.is_current(item, found)
            except Failure as failure:
                # In doubt it is downloaded again. Once stopped, nothing more is downloaded.
                is_current = failure.reason is Reason.STOPPED
            if found is None or not is_current:
                self._download(item, course)
                continue
            with self._lock:
                self.stats.skipped += 1
                self.stats.present.append((item, found))
            self._progress.item_done(item, size=found.size, skipped=True)

    def _next_item(self, course: Course) -> Item | None:
        """Return the next item to download; None if there is none, or the run is to end."""
        with self._listing_lock:
            with self._lock:
                if self._stop.is_set():
                    message = "asked to stop; the next attempt resumes what was started"
                    self.stats.set_fatal(Failure(Reason.STOPPED, message))
            if self._has_ended() or self._listing_error is not None:
                return None
            if self._playlist_items:
                return self._playlist_items.popleft()
            try:
                return next(course.items, None)
            except (Failure, OSError) as error:
                self._listing_error = error
                return None

    def _has_ended(self) -> bool:
        with self._lock:
            return self.stats.fatal is not None or self._bug is not None

    def _download(self, item: Item, course: Course) -> None:
        """Download one item and queue it for delivery, or record why it failed."""
        self._progress.item_started(item)
        try:
            fetched = self._fetch(item)
        except PlaylistFound as playlist:
            self._remove(item)
            with self._listing_lock:
                self._playlist_items.extendleft(reversed(playlist.items))
            self._progress.item_expanded(item, len(playlist.items))
        except (Failure, OSError) as error:
            failure = error if isinstance(error, Failure) else scratch_failure(error)
            self._record_failure(item, failure)
            self._keep_partial(item)
            self._stop_if_site_fails(failure, course)
        except Exception:
            self._keep_partial(item)  # else the others would wait for its room
            raise
        else:
            with self._lock:
                self._streak.record(None)
            self._downloaded.put((item, fetched))
        finally:
            self._progress.item_fetched(item)

    def _fetch(self, item: Item) -> Fetched:
        """Bring an item to scratch, and return the file as it is to be delivered.

        Start again if it had to make room for an older one. Remove what is not what was meant.
        """
        folder = self._folder / item.key
        file_checker().start()  # while the item is downloaded
        while True:
            self._scratch.start(item.key)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                on_fetched = self._build_on_fetched(item, folder)
                fetched = self._downloader.fetch(item, folder, on_fetched)
            except Preempted:
                self._remove(item)
            else:
                self._scratch.complete(item.key, _size(folder))
                break
        try:
            return verify(fetched, self._stop, with_md5=True)
        except Failure as failure:
            if failure.reason is not Reason.STOPPED:
                # What is left of it must not be continued: the next attempt starts over.
                self._remove_files(item.key)
                self._downloader.discard(item)
            raise

    def _build_on_fetched(self, item: Item, folder: Path) -> OnFetched:
        meter = Meter(self._limits.download_bandwidth, _size(folder))

        def on_fetched(current: int, expected: int | None, arrived: int | None = None) -> None:
            self._scratch.grow(item.key, current, expected)
            if self._cannot_deliver():
                message = "the destination takes no more files; the next attempt resumes this one"
                raise Failure(Reason.STOPPED, message)
            self._progress.item_bytes(item, current, expected)
            meter(current if arrived is None else arrived)

        return on_fetched

    def _stop_if_site_fails(self, failure: Failure, course: Course) -> None:
        """Count a failed download. End the run if the site as a whole seems to fail."""
        with self._lock:
            action = self._streak.record(failure)
            if action is Action.STOP:
                self.stats.set_fatal(explain_stop(failure, self._streak.about_site))
        if action is not Action.CHECK or course.check is None:
            return
        with self._listing_lock:  # until the answer is there, no other item is begun
            if self._has_ended():
                return
            try:
                course.check()
            except Failure as error:
                with self._lock:
                    self.stats.set_fatal(explain_check(error))

    # deliveries

    def _deliver_all(self) -> None:
        while (entry := self._downloaded.get()) is not None:
            item, fetched = entry
            try:
                if self._cannot_deliver():
                    self._keep_partial(item)  # else the others would wait for its room
                    continue
                on_bytes = self._build_on_bytes(item)
                delivered = self._destination.deliver(item, fetched, on_bytes)
                self._remove(item)
                with self._lock:
                    self._failed_deliveries_in_a_row = 0
                    self.stats.delivered += 1
                    self.stats.bytes_delivered += delivered.size
                    self.stats.present.append((item, delivered))
                self._progress.item_done(item, size=delivered.size, skipped=False)
            except (Failure, OSError) as error:
                failure = error if isinstance(error, Failure) else scratch_failure(error)
                self._handle_failed_delivery(item, failure)
            except Exception as error:  # noqa: BLE001 -- `run` raises it at the end
                self._keep_partial(item)
                self._record_bug(error)
                self._stop_deliveries()

    def _build_on_bytes(self, item: Item) -> OnBytes:
        meter = Meter(self._limits.upload_bandwidth)

        def on_bytes(sent: int) -> None:
            self._progress.item_sent(item, sent)
            meter(sent)

        return on_bytes

    def _handle_failed_delivery(self, item: Item, failure: Failure) -> None:
        """Record a failed delivery. End the run if the destination itself is the problem."""
        self._record_failure(item, failure)
        self._keep_partial(item)
        if failure.reason is Reason.STOPPED:
            return
        with self._lock:
            self._failed_deliveries_in_a_row += explain(failure.reason).retry_can_help
            ends = (
                failure.reason in FATAL_DELIVERY_REASONS
                or failure.retry_after is not None
                or self._failed_deliveries_in_a_row >= DELIVERIES_IN_A_ROW
            )
            if ends:
                self.stats.set_fatal(failure)
        if ends:
            self._stop_deliveries()

    def _cannot_deliver(self) -> bool:
        with self._lock:
            return self._deliveries_stopped

    def _stop_deliveries(self) -> None:
        with self._lock:
            self._deliveries_stopped = True
        self._scratch.stop_waiting()

    # both

    def _record_failure(self, item: Item, failure: Failure) -> None:
        with self._lock:
            if failure.reason in FATAL_REASONS | FATAL_DELIVERY_REASONS:
                self.stats.set_fatal(failure)
            if failure.reason is Reason.STOPPED:
                return
            self.stats.failures.append((item, failure))
        self._progress.item_failed(item, failure)

    def _record_bug(self, error: Exception) -> None:
        with self._lock:
            self._bug = self._bug or error

    def _keep_partial(self, item: Item) -> None:
        """Leave the item's files in scratch for the next attempt, as long as there is room."""
        self._scratch.keep(item.key, _size(self._folder / item.key))

    def _remove(self, item: Item) -> None:
        self._remove_files(item.key)
        self._scratch.release(item.key)

    def _remove_files(self, key: str) -> None:
        shutil.rmtree(self._folder / key, ignore_errors=True)


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder.

    A file that disappears meanwhile counts nothing.
    """
    total = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
