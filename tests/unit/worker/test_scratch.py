"""Several downloads share scratch, never exceed its limit, and all of them end."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrollgate.worker.scratch import Preempted, Scratch

LIMIT = 100


class Harness:
    """A scratch that reports when a call waits, and the list of the files that it discarded."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.discarded: list[str] = []
        self.scratch = Scratch(LIMIT, self.stop, self.discarded.append)
        self._waits = threading.Semaphore(0)
        wait = self.scratch._changed.wait

        def report_and_wait(timeout: float | None = None) -> bool:
            self._waits.release()
            return wait(timeout)

        self.scratch._changed.wait = report_and_wait  # type: ignore[method-assign]  # the hook

    def blocked(self, function: Callable[..., object], *arguments: Any) -> threading.Thread:
        """Start a call in a thread and return once it waits."""
        while self._waits.acquire(blocking=False):
            pass
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        assert self._waits.acquire(timeout=60)
        return thread


def ends(thread: threading.Thread) -> bool:
    """Wait up to 60 seconds for the thread and return whether it has ended."""
    thread.join(60)
    return not thread.is_alive()


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_a_younger_download_waits_until_its_expected_size_fits(harness: Harness) -> None:
    scratch = harness.scratch
    scratch.start("old")
    scratch.start("young")
    scratch.grow("old", 10, 60)
    waits = harness.blocked(scratch.grow, "young", 1, 50)
    scratch.grow("old", 60, 60)
    scratch.complete("old", 60)
    assert waits.is_alive()
    scratch.release("old")
    assert ends(waits)


def test_two_downloads_whose_expected_sizes_fit_run_together(harness: Harness) -> None:
    for key in ("old", "young"):
        harness.scratch.start(key)
        harness.scratch.grow(key, 1, 50)
    for key in ("young", "old"):
        harness.scratch.grow(key, 50, 50)


def test_a_download_of_unknown_size_starts_only_when_no_other_runs(harness: Harness) -> None:
    scratch = harness.scratch
    scratch.start("known")
    scratch.start("unknown")
    scratch.grow("known", 1, 2)
    waits = harness.blocked(scratch.grow, "unknown", 1, None)
    scratch.complete("known", 2)
    assert ends(waits), "a complete file does not delay its start"


def test_no_download_starts_beside_one_of_unknown_size(harness: Harness) -> None:
    scratch = harness.scratch
    scratch.start("unknown")
    scratch.start("known")
    scratch.grow("unknown", 1, None)
    waits = harness.blocked(scratch.grow, "known", 1, 2)
    scratch.grow("unknown", 60, None)
    assert waits.is_alive()
    scratch.complete("unknown", 60)
    assert ends(waits)


def test_a_download_whose_size_becomes_known_lets_others_start(harness: Harness) -> None:
    scratch = harness.scratch
    scratch.start("unknown")
    scratch.start("known")
    scratch.grow("unknown", 1, None)
    waits = harness.blocked(scratch.grow, "known", 1, 20)
    scratch.grow("unknown", 2, 70)
    assert ends(waits)


def test_a_younger_download_never_overtakes_one_that_waits(harness: Harness) -> None:
    scratch = harness.scratch
    for key in ("first", "second", "third"):
        scratch.start(key)
    scratch.grow("first", 1, 50)
    second = harness.blocked(scratch.grow, "second", 1, 60)
    third = harness.blocked(scratch.grow, "third", 1, 10)
    fourth = harness.blocked(scratch.start, "fourth")
    scratch.complete("first", 40)
    assert ends(second) and third.is_alive() and fourth.is_alive()
    scratch.release("first")
    assert ends(third) and ends(fourth)


def test_a_file_larger_than_the_limit_is_downloaded_alone(harness: Harness) -> None:
    scratch = harness.scratch
    scratch.start("large")
    scratch.grow("large", 300, 300)
    scratch.start("other")
    waits = harness.blocked(scratch.grow, "other", 1, 1)
    scratch.complete("large", 300)
    assert waits.is_alive()
    scratch.release("large")
    assert ends(waits)


def test_kept_files_are_removed_oldest_first_when_room_is_needed(harness: Harness) -> None:
    scratch = harness.scratch
    for key in ("old", "middle", "new"):
        scratch.keep(key, 30)
    scratch.start("middle")  # resumes its own file
    scratch.grow("middle", 40, 90)
    assert harness.discarded == []
    scratch.grow("middle", 45, 90)
    assert harness.discarded == ["old"]
    scratch.grow("middle", 90, 90)
    assert harness.discarded == ["old", "new"]


def test_a_waiting_download_removes_no_kept_file(harness: Harness) -> None:
    scratch = harness.scratch
    scratch.keep("partial", 30)
    for key in ("old", "young"):
        scratch.start(key)
    scratch.grow("old", 10, 80)
    waits = harness.blocked(scratch.grow, "young", 30, 30)
    scratch.grow("old", 20, 30)  # smaller than expected
    assert ends(waits) and harness.discarded == []


def test_a_download_larger_than_expected_waits_for_the_younger_one(harness: Harness) -> None:
    scratch = harness.scratch
    for key in ("old", "young"):
        scratch.start(key)
        scratch.grow(key, 50, 50)
    waits = harness.blocked(scratch.grow, "old", 60, 60)
    scratch.grow("young", 50, 50)  # within its reservation, so it is never preempted
    scratch.complete("young", 50)
    scratch.release("young")
    assert ends(waits)


def test_the_youngest_is_preempted_when_all_are_larger_than_expected(
    harness: Harness,
) -> None:
    scratch = harness.scratch
    for key in ("old", "young"):
        scratch.start(key)
        scratch.grow(key, 50, 50)
    old = harness.blocked(scratch.grow, "old", 80, 80)
    with pytest.raises(Preempted):
        scratch.grow("young", 60, 60)
    assert old.is_alive(), "it has room only once the files of the younger one are removed"
    scratch.release("young")
    assert ends(old)
    scratch.start("young")
    again = harness.blocked(scratch.grow, "young", 1, 60)
    scratch.complete("old", 80)
    scratch.release("old")
    assert ends(again)


def test_resumed_downloads_that_fill_scratch_do_not_wait_for_each_other(harness: Harness) -> None:
    scratch = harness.scratch
    scratch.keep("old", 60)
    scratch.keep("young", 40)
    scratch.start("old")
    scratch.start("young")
    old = harness.blocked(scratch.grow, "old", 60, 90)
    with pytest.raises(Preempted):
        scratch.grow("young", 40, 80)
    scratch.release("young")
    assert ends(old)


def test_a_stop_ends_every_wait(harness: Harness) -> None:
    harness.scratch.start("a")
    harness.scratch.complete("a", LIMIT)
    waits = [harness.blocked(harness.scratch.start, key) for key in ("b", "c")]
    harness.stop.set()
    assert all(map(ends, waits))


def test_no_download_waits_once_deliveries_were_given_up(harness: Harness) -> None:
    scratch = harness.scratch
    for key in ("a", "b", "c"):
        scratch.start(key)
    scratch.complete("a", 60)
    scratch.complete("c", 40)
    waits = [harness.blocked(scratch.grow, "b", 50, 50), harness.blocked(scratch.start, "d")]
    scratch.stop_waiting()
    assert all(map(ends, waits))


@dataclass(frozen=True)
class File:
    size: int
    expected: int | None


files = st.lists(
    st.builds(
        lambda size, error: File(size, None if error is None else max(1, size + error)),
        st.integers(1, 60),
        st.none() | st.integers(-50, 50),
    ),
    min_size=1,
    max_size=15,
)


class DiskUsage:
    """The bytes of each file.

    Each change is checked against the limit, so no peak is missed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes = dict[str, int]()
        self.too_much = list[dict[str, int]]()

    def set(self, key: str, size: int) -> None:
        with self._lock:
            self._sizes[key] = size
            if sum(self._sizes.values()) > LIMIT:
                self.too_much.append(dict(self._sizes))


@settings(max_examples=60, deadline=None)
@given(files=files, downloads=st.integers(1, 4))
def test_all_files_pass_within_the_limit_whatever_size_was_expected(
    files: list[File], downloads: int
) -> None:
    """Use real threads, and sizes that are known, unknown, and wrong in both directions."""
    disk = DiskUsage()
    scratch = Scratch(LIMIT, threading.Event(), lambda key: disk.set(key, 0))
    todo, ready, delivered = queue.Queue[tuple[str, File]](), queue.Queue[str | None](), list[str]()
    for number, file in enumerate(files):
        todo.put((str(number), file))

    def download() -> None:
        while True:
            try:
                key, file = todo.get_nowait()
            except queue.Empty:
                return
            while not fetch(key, file):
                disk.set(key, 0)
                scratch.release(key)
            scratch.complete(key, file.size)
            ready.put(key)

    def fetch(key: str, file: File) -> bool:
        scratch.start(key)
        try:
            for current in (*range(1, file.size, 7), file.size):
                scratch.grow(key, current, file.expected)
                disk.set(key, current)
        except Preempted:
            return False
        return True

    def deliver() -> None:
        while (key := ready.get()) is not None:
            disk.set(key, 0)
            scratch.release(key)
            delivered.append(key)

    threads = [threading.Thread(target=download, daemon=True) for _ in range(downloads)]
    deliverer = threading.Thread(target=deliver, daemon=True)
    for thread in (*threads, deliverer):
        thread.start()
    assert all(map(ends, threads))
    ready.put(None)
    assert ends(deliverer)
    assert sorted(delivered, key=int) == [str(number) for number in range(len(files))]
    assert disk.too_much == []
