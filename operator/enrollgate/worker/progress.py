"""Show how far the run is.

In come the pipeline's events. Out goes a live bar on a terminal; elsewhere one plain line per item
and per 10 %. The operator and `enrollgate status` read a small JSON file. Separate from the
pipeline, because no error here may fail an item.
"""

import contextlib
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from enrollgate.common.files import write_private
from enrollgate.common.redaction import printable, redact
from enrollgate.domain.reasons import Failure
from enrollgate.worker.course import Item

# The least seconds between two writes of the progress file.
WRITE_INTERVAL = 1.0


class _Display:
    """Live bars on a terminal: the items that are done, and the bytes of each download."""

    def __init__(self, stream: TextIO, total: int | None) -> None:
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
        self._rows = dict[str, TaskID]()
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


class Progress:
    """Show the progress of one attempt. Safe for several threads.

    `path` is the progress file, if one is wanted. `clock` gives seconds since the epoch.
    """

    def __init__(
        self, *, path: Path | None, clock: Callable[[], float], stream: TextIO | None = None
    ) -> None:
        self._path = path
        self._clock = clock
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._total: int | None = None
        self._done = 0
        self._bytes = 0
        # The titles of the items that are being downloaded, by their ids, the oldest first.
        self._active = dict[str, str]()
        self._last_write = float("-inf")
        self._last_tenth = 0
        self._display: _Display | None = None

    def begin(self, title: str, total: int | None, attempt_tag: str) -> None:
        """Show that the course is listed.

        `attempt_tag` is the tag that people look for: `[ATTEMPT 1/3]`.
        """
        self._total = total
        if self._stream.isatty():
            self._display = _Display(self._stream, total)
        count = "some" if total is None else total
        self._print(f"{attempt_tag} course {redact(title, 200)!r}, {count} items")
        self._write_file(force=True)

    def item_started(self, item: Item) -> None:
        """Show that an item's download begins."""
        with self._lock:
            title = self._active[item.item_id] = redact(item.title, 100)
            if self._display:
                self._display.add_download(item.item_id, title)
        self._write_file()

    def item_bytes(self, item: Item, current: int, expected: int | None) -> None:
        """Show the bytes of an item that are here, and that are expected."""
        with self._lock:
            if self._display:
                self._display.update_download(item.item_id, current, expected)
        self._write_file()

    def item_fetched(self, item: Item) -> None:
        """Show that an item's download has ended, well or not."""
        with self._lock:
            self._active.pop(item.item_id, None)
            if self._display:
                self._display.remove_download(item.item_id)

    def item_expanded(self, count: int) -> None:
        """Show that one listed item is a playlist of `count` items."""
        with self._lock:
            if self._total is not None:
                self._total += count - 1
            if self._display:
                self._display.update_items(self._done, self._total)

    def item_done(self, item: Item, *, size: int, skipped: bool) -> None:
        """Show that an item of `size` bytes is at the destination."""
        with self._lock:
            self._done += 1
            self._bytes += size
            if self._display:
                self._display.update_items(self._done, self._total)
        result = "already there" if skipped else "delivered"
        label = f" ({item.label})" if item.label else ""
        self._print(f"{result}: {item.number} {redact(item.title, 200)!r}{label}")
        tenth = self._done * 10 // self._total if self._total else 0
        if tenth > self._last_tenth and not self._display:
            self._last_tenth = tenth
            self._print(f"{tenth * 10} % ({self._done} of {self._total} items)")
        self._write_file()

    def item_left_out(self, item: Item) -> None:
        """Show that an item is left out on purpose."""
        with self._lock:
            if self._total is not None:
                self._total -= 1
        self._print(f"left out: {redact(item.title, 200)!r}: {redact(item.left_out)}")

    def item_failed(self, item: Item, failure: Failure) -> None:
        """Show that an item failed."""
        title = redact(item.title, 200)
        message = redact(failure.message)
        self._print(f"failed: {item.number} {title!r}: {failure.reason}: {message}")

    def end(self, line: str) -> None:
        """Show the result of the run."""
        if self._display:
            with contextlib.suppress(OSError):
                self._display.close()
            self._display = None
        self._print(line)
        self._write_file(force=True)

    def _print(self, line: str) -> None:
        # A closed terminal must not fail the run.
        with self._lock, contextlib.suppress(OSError):
            if self._display:
                self._display.console.print(printable(line), soft_wrap=True)
            else:
                self._stream.write(printable(line) + "\n")
                self._stream.flush()

    def _write_file(self, *, force: bool = False) -> None:
        if self._path is None:
            return
        with self._lock:
            now = self._clock()
            if not force and now - self._last_write < WRITE_INTERVAL:
                return
            self._last_write = now
            state = {
                "items_done": self._done,
                "items_total": self._total,
                "bytes": self._bytes,
                "current": next(iter(self._active.values()), ""),
                "updated_at": now,
            }
            # A full disk must not turn a delivered item into a failed one.
            with contextlib.suppress(OSError):
                write_private(self._path, json.dumps(state))
