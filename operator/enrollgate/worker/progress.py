"""How far the run is: a live bar on a terminal, else one plain line per item and per 10 %; and a small file for `status`."""

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

WRITE_INTERVAL = 1.0
"""Seconds between two writes of the progress file, at least."""


class _Display:
    """The live bars: how many items are done, and below it the bytes of each download. Titles are shown as they are."""

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

    def start(self, item_id: str, title: str) -> None:
        self._rows[item_id] = self._downloads.add_task(printable(title), total=None)

    def move(self, item_id: str, current: int, expected: int | None) -> None:
        if item_id in self._rows:
            self._downloads.update(self._rows[item_id], completed=current, total=expected)

    def end(self, item_id: str) -> None:
        if (row := self._rows.pop(item_id, None)) is not None:
            self._downloads.remove_task(row)

    def count(self, done: int) -> None:
        self._items.update(self._row, completed=done)

    def expect(self, total: int | None) -> None:
        self._items.update(self._row, total=total)

    def close(self) -> None:
        self._live.stop()


class Progress:
    """Told by the pipeline's threads what happens. `clock` gives seconds since the epoch."""

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
        self._active = dict[str, str]()
        """The titles of the items that are being downloaded, the oldest first, by their ids."""
        self._last_write = float("-inf")
        self._last_tenth = 0
        self._display: _Display | None = None

    def begin(self, title: str, total: int | None, run_number: str) -> None:
        """The course is listed. `run_number` is the tag that people look for: `[ATTEMPT 1/3]`."""
        self._total = total
        if self._stream.isatty():
            self._display = _Display(self._stream, total)
        self._say(
            f"{run_number} course {redact(title, 200)!r}, {'some' if total is None else total} items"
        )
        self._write(force=True)

    def item_started(self, item: Item) -> None:
        """Its download begins."""
        with self._lock:
            title = self._active[item.item_id] = redact(item.title, 100)
            if self._display:
                self._display.start(item.item_id, title)
        self._write()

    def item_bytes(self, item: Item, current: int, expected: int | None) -> None:
        """So many bytes of the item are here, of so many."""
        with self._lock:
            if self._display:
                self._display.move(item.item_id, current, expected)
        self._write()

    def item_fetched(self, item: Item) -> None:
        """Its download is over, well or not."""
        with self._lock:
            self._active.pop(item.item_id, None)
            if self._display:
                self._display.end(item.item_id)

    def item_unfolded(self, count: int) -> None:
        """What was listed as one item is so many."""
        with self._lock:
            if self._total is not None:
                self._total += count - 1
            if self._display:
                self._display.expect(self._total)

    def item_done(self, item: Item, *, size: int, skipped: bool) -> None:
        """It is at the destination: `size` bytes."""
        with self._lock:
            self._done += 1
            self._bytes += size
            if self._display:
                self._display.count(self._done)
        self._say(
            f"{'already there' if skipped else 'delivered'}: {item.number} {redact(item.title, 200)!r}"
        )
        self._say_tenth()
        self._write()

    def item_failed(self, item: Item, failure: Failure) -> None:
        """It did not arrive."""
        self._say(
            f"failed: {item.number} {redact(item.title, 200)!r}: {failure.reason}: {redact(failure.message)}"
        )

    def end(self, line: str) -> None:
        """The run is over."""
        if self._display:
            with contextlib.suppress(OSError):
                self._display.close()
            self._display = None
        self._say(line)
        self._write(force=True)

    def _say_tenth(self) -> None:
        if not self._total or self._display:
            return
        tenth = self._done * 10 // self._total
        if tenth > self._last_tenth:
            self._last_tenth = tenth
            self._say(f"{tenth * 10} % ({self._done} of {self._total} items)")

    def _say(self, line: str) -> None:
        with (
            self._lock,
            contextlib.suppress(OSError),
        ):  # a terminal that was closed must not, either
            if self._display:
                self._display.console.print(printable(line), soft_wrap=True)
            else:
                self._stream.write(printable(line) + "\n")
                self._stream.flush()

    def _write(self, *, force: bool = False) -> None:
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
            with contextlib.suppress(
                OSError
            ):  # a full disk must not turn a delivered item into a failed one
                write_private(self._path, json.dumps(state))
