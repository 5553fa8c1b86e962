"""Scratch: several downloads grow in it at once, never beyond the limit, and always to an end."""

import queue
import threading
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrollgate.worker.scratch import ActiveDownload, Preempted, Scratch, may_grow

LIMIT = 100


@pytest.mark.parametrize(
    ("taken", "growing", "key", "may"),
    [
        (0, {"a": ActiveDownload(500, None)}, "a", True),  # alone, whatever its size
        (1, {"a": ActiveDownload(500, None)}, "a", False),
        (40, {"a": ActiveDownload(60, 1000)}, "a", True),  # the oldest needs no promise
        (40, {"a": ActiveDownload(61, 61)}, "a", False),
        (
            0,
            {"a": ActiveDownload(10, 50), "b": ActiveDownload(10, 50)},
            "b",
            True,
        ),  # both fit to the end
        (1, {"a": ActiveDownload(10, 50), "b": ActiveDownload(10, 50)}, "b", False),
        (
            0,
            {"a": ActiveDownload(10, None), "b": ActiveDownload(10, 50)},
            "b",
            True,
        ),  # what nobody knows counts as an equal share
        (1, {"a": ActiveDownload(10, None), "b": ActiveDownload(10, 50)}, "b", False),
        (0, {"a": ActiveDownload(10, 60), "b": ActiveDownload(10, None)}, "b", False),
        (
            0,
            {"a": ActiveDownload(10, 20), "b": ActiveDownload(60, 20)},
            "b",
            True,
        ),  # has more than was expected
        (
            0,
            {"a": ActiveDownload(10, 20), "b": ActiveDownload(0, 20), "c": ActiveDownload(70, 70)},
            "b",
            False,
        ),
    ],
)
def test_a_younger_download_leaves_room_for_the_older_ones_to_the_end(
    taken: int, growing: dict[str, ActiveDownload], key: str, may: bool
) -> None:
    assert may_grow(LIMIT, taken, growing, key) is may


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


@settings(max_examples=60, deadline=None)
@given(files=files, lanes=st.integers(1, 4))
def test_whatever_is_promised_all_files_pass_and_the_limit_holds(
    files: list[File], lanes: int
) -> None:
    """Real threads; sizes known, unknown, and promised wrongly in both directions."""
    scratch = Scratch(LIMIT, threading.Event(), lambda _key: None)
    todo, ready, delivered = queue.Queue[tuple[str, File]](), queue.Queue[str | None](), list[str]()
    for number, file in enumerate(files):
        todo.put((str(number), file))

    def download() -> None:
        while True:
            try:
                key, file = todo.get_nowait()
            except queue.Empty:
                return
            while not fetched(key, file):
                scratch.gone(key)
            scratch.complete(key, file.size)
            ready.put(key)

    def fetched(key: str, file: File) -> bool:
        scratch.begin(key)
        try:
            for current in (*range(1, file.size, 7), file.size):
                scratch.grow(key, current, file.expected)
        except Preempted:
            return False
        return True

    def deliver() -> None:
        while (key := ready.get()) is not None:
            scratch.gone(key)
            delivered.append(key)

    threads = [threading.Thread(target=download) for _ in range(lanes)]
    deliverer = threading.Thread(target=deliver)
    for thread in (*threads, deliverer):
        thread.start()
    for thread in threads:
        thread.join()
    ready.put(None)
    deliverer.join()
    assert sorted(delivered, key=int) == [str(number) for number in range(len(files))]
    assert scratch.peak <= LIMIT


def test_a_file_larger_than_the_limit_passes_alone() -> None:
    scratch = Scratch(LIMIT, threading.Event(), lambda _key: None)
    scratch.begin("large")
    scratch.grow("large", 300, 300)
    scratch.complete("large", 300)
    assert scratch.peak == 300


def test_what_was_kept_for_the_next_try_goes_first_the_oldest_before_the_others() -> None:
    dropped: list[str] = []
    scratch = Scratch(LIMIT, threading.Event(), dropped.append)
    for key in ("old", "middle", "new"):
        scratch.keep(key, 30)
    scratch.begin("middle")  # goes on with what it has
    scratch.grow("middle", 45, None)
    assert dropped == ["old"]
    scratch.grow("middle", 90, None)
    assert dropped == ["old", "new"] and scratch.peak <= LIMIT


def test_the_room_that_one_gave_way_for_is_the_older_ones() -> None:
    scratch = Scratch(LIMIT, threading.Event(), lambda _key: None)
    for key in ("old", "young"):
        scratch.begin(key)
    scratch.grow("old", 10, 10)
    scratch.grow("young", 60, 60)
    waits = threading.Thread(target=scratch.grow, args=("old", 50, 50))  # it is larger than it said
    waits.start()
    with pytest.raises(Preempted):
        while waits.is_alive():
            scratch.grow("young", 60, 60)
    assert not may_grow(
        LIMIT,
        0,
        {"old": ActiveDownload(10, 10, wanted=50), "young": ActiveDownload(60, 60)},
        "young",
    )
    scratch.gone("young")
    waits.join(60)
    assert not waits.is_alive()


def test_one_that_was_to_give_way_stays_if_room_came_meanwhile() -> None:
    scratch = Scratch(LIMIT, threading.Event(), lambda _key: None)
    for key in ("old", "middle", "young"):
        scratch.begin(key)
        scratch.grow(key, 30, 30)
    waits = threading.Thread(target=scratch.grow, args=("old", 60, 60))  # it is larger than it said
    waits.start()
    while scratch._gives_way != "young":
        assert waits.is_alive()
    scratch.gone("middle")
    scratch.grow("young", 31, 31)
    waits.join(60)
    assert not waits.is_alive() and scratch.peak <= LIMIT


def test_nothing_is_dropped_that_would_not_help() -> None:
    dropped: list[str] = []
    stop = threading.Event()
    scratch = Scratch(LIMIT, stop, dropped.append)
    scratch.keep("partial", 30)
    for key in ("old", "young"):
        scratch.begin(key)
    scratch.grow("old", 10, 80)
    waits = threading.Thread(target=scratch.grow, args=("young", 30, 30))
    waits.start()
    scratch.grow("old", 20, 30)  # it is smaller than it said
    waits.join(60)
    assert not waits.is_alive() and dropped == []


def test_two_that_were_promised_too_little_do_not_wait_for_each_other() -> None:
    scratch = Scratch(LIMIT, threading.Event(), lambda _key: None)
    for key in ("old", "young"):
        scratch.begin(key)
        scratch.grow(key, 50, 50)
    blocked = threading.Thread(target=scratch.grow, args=("old", 80, 80))
    blocked.start()
    with pytest.raises(Preempted):
        while True:
            scratch.grow("young", 50, 60)
    scratch.gone("young")
    blocked.join(60)
    assert not blocked.is_alive() and scratch.peak <= LIMIT


def test_a_stop_ends_every_wait() -> None:
    stop = threading.Event()
    scratch = Scratch(LIMIT, stop, lambda _key: None)
    scratch.begin("a")
    scratch.complete("a", LIMIT)
    waits = [threading.Thread(target=scratch.begin, args=(key,)) for key in ("b", "c")]
    for thread in waits:
        thread.start()
    stop.set()
    for thread in waits:
        thread.join(60)
        assert not thread.is_alive()


def test_who_waits_for_deliveries_that_will_never_come_is_woken() -> None:
    scratch = Scratch(LIMIT, threading.Event(), lambda _key: None)
    scratch.begin("a")
    scratch.complete("a", 60)
    scratch.begin("b")
    waits = [threading.Thread(target=scratch.grow, args=("b", 50, 50))]
    scratch.begin("c")
    scratch.complete("c", 40)
    waits.append(threading.Thread(target=scratch.begin, args=("d",)))
    for thread in waits:
        thread.start()
    scratch.abandon()
    for thread in waits:
        thread.join(60)
        assert not thread.is_alive()
