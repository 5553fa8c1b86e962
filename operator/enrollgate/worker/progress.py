"""Show how far the run is.

In come the pipeline's events. Out goes a live bar on a terminal; elsewhere one plain line per item
and per 10 %, and a progress line for the operator (`domain.progress`). On one server the operator
reads a small JSON file instead. Separate from the
pipeline, because no error here may fail an item.
"""

import contextlib
import json
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from enrollgate.common.files import write_private
from enrollgate.common.redaction import printable, redact
from enrollgate.domain.progress import RunProgress
from enrollgate.domain.reasons import Failure
from enrollgate.worker.course import Item

if TYPE_CHECKING:
    from rich.progress import TaskID

# The least seconds between two writes of the progress file.
WRITE_INTERVAL = 1.0
# The least seconds between two progress lines in the log.
LINE_INTERVAL = 2.0
# Seconds that the rate is the mean of.
RATE_SECONDS = 10.0


class _Display:
    """Live bars on a terminal: the items that are done, and the bytes of each download."""

    def __init__(self, stream: TextIO, total: int | None) -> None:
        # Only a person's terminal needs it, and it takes a moment to load.
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            TextColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bars

        self.console = Console(file=stream, markup=False, emoji=False, highlight=False)
        self._items = Bars(
            TextColumn("items", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            console=self.console,
        )
        self._downloads = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self.console,
        )
        self._row = self._items.add_task("items", total=total)
        self._rows = dict[str, "TaskID"]()
        self._live = Live(Group(self._items, self._downloads), console=self.console)
        self._live.start()

    def add_download(self, item_id: str, title: str) -> None:
        self._rows[item_id] = self._downloads.add_task(printable(title), total=None)

    def update_download(self, item_id: str, current: int, expected: int | None) -> None:
        if item_id in self._rows:
            self._downloads.update(self._rows[item_id], completed=current, total=expected)

    def remove_download(self, item_id: str) -> None:
        if (row := self._rows.pop(item_id, None)) is not None:
            self._downloads.remove_task(row)

    def update_items(self, done: int, total: int | None) -> None:
        self._items.update(self._row, completed=done, total=total)

    def close(self) -> None:
        self._live.stop()


@dataclass(slots=True)
class _Transfer:
    """An item on its way. All numbers are bytes; `size` is None if unknown."""

    title: str
    size: int | None = None
    received: int = 0
    sent: int = 0

    @property
    def share(self) -> float:
        """Return how much of it is done: half for the download, half for the upload."""
        return min(1.0, (self.received + self.sent) / (2 * self.size)) if self.size else 0.0


class Progress:
    """Show the progress of one attempt. Safe for several threads.

    `path` is the progress file, if one is wanted. Without one, and without a terminal, a progress
    line is printed every LINE_INTERVAL seconds at most: the operator reads it from the pod's log.
    `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        *,
        path: Path | None,
        clock: Callable[[], float],
        stream: TextIO | None = None,
        attempt: int = 1,
        attempts: int = 1,
    ) -> None:
        self._path = path
        self._clock = clock
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._run = RunProgress(attempt, attempts)
        self._done_bytes = 0
        # The items on their way by their ids, the oldest first.
        self._transfers = dict[str, _Transfer]()
        # What has moved in both directions, and at which times, for the rate.
        self._moved = 0
        self._samples = deque[tuple[float, int]]()
        self._last_write = float("-inf")
        self._last_tenth = 0
        self._display: _Display | None = None

    def begin(
        self, title: str, total: int | None, attempt_tag: str, destination_url: str = ""
    ) -> None:
        """Show that the course is listed.

        `attempt_tag` is the tag that people look for: `[ATTEMPT 1/3]`.
        """
        self._run = replace(self._run, items_total=total, destination_url=destination_url)
        if self._stream.isatty():
            self._display = _Display(self._stream, total)
        count = "some" if total is None else total
        self._print(f"{attempt_tag} course {redact(title, 200)!r}, {count} items")
        self._publish(force=True)

    def item_started(self, item: Item) -> None:
        """Show that an item's download begins."""
        with self._lock:
            title = redact(item.title, 100)
            self._transfers[item.item_id] = _Transfer(title)
            if self._display:
                self._display.add_download(item.item_id, title)
        self._publish()

    def item_bytes(self, item: Item, current: int, expected: int | None) -> None:
        """Show the bytes of an item that are here, and that are expected."""
        with self._lock:
            if (transfer := self._transfers.get(item.item_id)) is not None:
                if transfer.received:  # else it may be what an earlier attempt left
                    self._moved += max(0, current - transfer.received)
                transfer.received, transfer.size = current, expected
            if self._display:
                self._display.update_download(item.item_id, current, expected)
        self._publish()

    def item_fetched(self, item: Item) -> None:
        """Show that an item's download has ended, well or not."""
        with self._lock:
            if (transfer := self._transfers.get(item.item_id)) is not None:
                transfer.size = transfer.received
            if self._display:
                self._display.remove_download(item.item_id)

    def item_sent(self, item: Item, sent: int) -> None:
        """Show the bytes of an item that its delivery has moved so far."""
        with self._lock:
            if (transfer := self._transfers.get(item.item_id)) is not None:
                self._moved += max(0, sent - transfer.sent)
                transfer.sent = sent
        self._publish()

    def item_expanded(self, item: Item, count: int) -> None:
        """Show that one listed item is a playlist of `count` items."""
        with self._lock:
            self._transfers.pop(item.item_id, None)
            self._change_total(count - 1)
            # There is more to do than was known.
            self._run = replace(self._run, percent=None)
            if self._display:
                self._display.update_items(self._run.items_done, self._run.items_total)

    def item_done(self, item: Item, *, size: int, skipped: bool) -> None:
        """Show that an item of `size` bytes is at the destination."""
        with self._lock:
            self._transfers.pop(item.item_id, None)
            self._run = replace(self._run, items_done=self._run.items_done + 1)
            self._done_bytes += size
            if self._display:
                self._display.update_items(self._run.items_done, self._run.items_total)
        result = "already there" if skipped else "delivered"
        label = f" ({item.label})" if item.label else ""
        self._print(f"{result}: {item.number} {redact(item.title, 200)!r}{label}")
        done, total = self._run.items_done, self._run.items_total
        tenth = done * 10 // total if total else 0
        if tenth > self._last_tenth and not self._display:
            self._last_tenth = tenth
            self._print(f"{tenth * 10} % ({done} of {total} items)")
        self._publish()

    def item_left_out(self, item: Item) -> None:
        """Show that an item is left out on purpose."""
        with self._lock:
            self._change_total(-1)
        self._print(f"left out: {redact(item.title, 200)!r}: {redact(item.left_out)}")

    def item_failed(self, item: Item, failure: Failure) -> None:
        """Show that an item failed."""
        with self._lock:
            self._transfers.pop(item.item_id, None)
        title = redact(item.title, 200)
        message = redact(failure.message)
        self._print(f"failed: {item.number} {title!r}: {failure.reason}: {message}")

    def end(self, line: str) -> None:
        """Show the result of the run."""
        if self._display:
            with contextlib.suppress(OSError):
                self._display.close()
            self._display = None
        with self._lock:
            self._transfers.clear()
        self._publish(force=True)
        self._print(line)

    def _print(self, line: str) -> None:
        # A closed terminal must not fail the run.
        with self._lock, contextlib.suppress(OSError):
            if self._display:
                self._display.console.print(printable(line), soft_wrap=True)
            else:
                self._stream.write(printable(line) + "\n")
                self._stream.flush()

    def _change_total(self, by: int) -> None:
        if self._run.items_total is not None:
            self._run = replace(self._run, items_total=self._run.items_total + by)

    def _publish(self, *, force: bool = False) -> None:
        """Write the progress file, or print the progress line, if it is time."""
        if self._path is None and self._stream.isatty():
            return
        interval = LINE_INTERVAL if self._path is None else WRITE_INTERVAL
        with self._lock:
            now = self._clock()
            if not force and 0 <= now - self._last_write < interval:
                return
            self._last_write = now
            run = self._run = self._measure(now)
            # A full disk must not turn a delivered item into a failed one.
            if self._path is not None:
                with contextlib.suppress(OSError):
                    write_private(self._path, json.dumps(run.to_dict() | {"updated_at": now}))
        if self._path is None:
            self._print(run.encode())

    def _measure(self, now: float) -> RunProgress:
        """Return the progress at this moment. Call it with the lock."""
        self._samples.append((now, self._moved))
        while len(self._samples) > 2 and now - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        transfers = list(self._transfers.values())
        sizes = [each.size for each in transfers]
        percent, total = None, self._run.items_total
        if total:
            done = self._run.items_done + sum(each.share for each in transfers)
            # What a run has done once stays done.
            percent = max(min(int(100 * done / total), 100), self._run.percent or 0)
        return replace(
            self._run,
            percent=percent,
            bytes_done=self._done_bytes + sum(each.received for each in transfers),
            bytes_total=(
                None
                if None in sizes
                else self._done_bytes + sum(size for size in sizes if size is not None)
            ),
            bytes_per_second=int((self._moved - before) / (now - since)) if now > since else 0,
            current_item=transfers[0].title if transfers else "",
        )
