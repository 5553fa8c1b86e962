"""The bounded space between download and delivery: downloads wait when it is full."""

import threading


class Scratch:
    """Counts the bytes of files that are downloaded, or being downloaded, and not yet delivered.

    One file may be larger than the limit: it passes when it is alone.
    """

    def __init__(self, limit: int, stop: threading.Event) -> None:
        self.limit = limit
        self._stop = stop
        self._waiting = 0
        """Bytes of complete files that wait for delivery."""
        self._changed = threading.Condition()
        self.peak = 0
        """The most bytes there ever were."""

    def grow(self, current: int) -> None:
        """Says that the file being downloaded has `current` bytes; blocks while they do not fit."""
        with self._changed:
            while self._waiting and self._waiting + current > self.limit and not self._stop.is_set():
                self._changed.wait(timeout=0.5)
            self.peak = max(self.peak, self._waiting + current)

    def complete(self, size: int) -> None:
        """The file being downloaded is complete and waits for delivery."""
        with self._changed:
            self._waiting += size
            self.peak = max(self.peak, self._waiting)

    def release(self, size: int) -> None:
        """A file was delivered and removed."""
        with self._changed:
            self._waiting -= size
            self._changed.notify_all()

    def wait_for_room(self) -> None:
        """Blocks while the waiting files alone fill the space."""
        with self._changed:
            while self._waiting >= self.limit and not self._stop.is_set():
                self._changed.wait(timeout=0.5)
