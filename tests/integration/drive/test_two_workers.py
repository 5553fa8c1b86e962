"""Two workers of one task at once, each with its own scratch, leave one folder and one copy.

It must not happen, but a node that is cut off, or a restored database, can do it. The interleavings
are driven at the emulator: one worker waits before or after a request of its choice while the other
one runs to its end, and both run at once.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.drive_emulator import DriveEmulator, Fault, Store
from tests.drive_emulator.store import FOLDER
from tests.integration.drive.bench import Bench, build_item

from enrollgate.worker.course import Fetched
from enrollgate.worker.destinations.drive import Drive

ITEMS = ((1, "Part"), (2, "Part"), (3, ""))


def deliver_all(bench: Bench, drive: Drive) -> None:
    """Do what a run does with the destination."""
    drive.open("A course")
    for number, section in ITEMS:
        if drive.find(build_item(number, section)) is None:
            bench.deliver(drive, number, section)
    drive.finish()


def check_one_of_each(store: Store) -> None:
    """Check that one folder of each kind is left, with one copy of each item in its place."""
    live = {key: store.get(key) for key in store.files if not store.get(key)["trashed"]}
    folders = [file for file in live.values() if file["mimeType"] == FOLDER]
    assert sorted(folder["name"] for folder in folders) == [
        "01 - Part",
        "A course [task-7]",
        "Courses",
    ]
    files = {
        (file["name"], live[file["parents"][0]]["name"])
        for file in live.values()
        if file["mimeType"] != FOLDER
    }
    assert files == {
        ("01 - Lecture 1.mp4", "01 - Part"),
        ("02 - Lecture 2.mp4", "01 - Part"),
        ("03 - Lecture 3.mp4", "A course [task-7]"),
    }
    assert len(live) == 6, "no second copy"


@contextmanager
def two_workers(tmp_path: Path, store: Store | None = None) -> Iterator[tuple[Any, Bench, Bench]]:
    """Start an emulator, and two workers that know nothing of each other."""
    with DriveEmulator(store) as emulator:
        yield emulator, Bench(emulator, tmp_path / "a"), Bench(emulator, tmp_path / "b")


def pause_before(emulator: DriveEmulator, number: int, meanwhile: Callable[[], None]) -> None:
    """Run `meanwhile` before the request of this number is handled, once, in another thread."""
    choose, seen, lock = emulator.faults.next, [0], threading.Lock()

    def next_fault(operation: str) -> Fault | None:
        with lock:
            seen[0] += 1
            is_chosen = seen[0] == number
        if is_chosen:
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()
        return choose(operation)

    emulator.faults.next = next_fault  # type: ignore[method-assign]  # restored with the emulator


@pytest.mark.parametrize("number", range(1, 36))
@pytest.mark.parametrize("lag", [0, 6])
def test_worker_that_another_one_overtakes_leaves_one_of_each(
    tmp_path: Path, number: int, lag: int
) -> None:
    with two_workers(tmp_path, Store(lag=lag)) as (emulator, first, second):
        overtaken: list[BaseException] = []

        def overtake() -> None:
            try:
                deliver_all(second, second.drive())
            except BaseException as error:
                overtaken.append(error)

        pause_before(emulator, number, overtake)
        deliver_all(first, first.drive())
        assert overtaken == []
        check_one_of_each(emulator.store)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("shared_drive", [False, True])
def test_workers_at_once_leave_one_of_each(tmp_path: Path, seed: int, shared_drive: bool) -> None:
    with two_workers(tmp_path, Store(shared_drive=shared_drive)) as (emulator, first, second):
        random, lock = Random(seed), threading.Lock()
        choose = emulator.faults.next

        def dawdle(operation: str) -> Fault | None:
            with lock:
                seconds = random.choice((0, 0, 0.002, 0.01))
            threading.Event().wait(seconds)
            found: Fault | None = choose(operation)
            return found

        emulator.faults.next = dawdle
        drives = [first.drive(), second.drive()]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(deliver_all, (first, second), drives))
        check_one_of_each(emulator.store)
        sent = emulator.store.bytes
        third = Bench(emulator, tmp_path / "c")
        deliver_all(third, third.drive())
        assert emulator.store.bytes == sent, "the next run finds everything"
        check_one_of_each(emulator.store)


def test_worker_whose_folder_was_merged_goes_on_in_the_older_one(tmp_path: Path) -> None:
    with two_workers(tmp_path, Store(lag=10**9)) as (emulator, first, second):
        older, younger = first.open_drive(), second.open_drive()
        first.deliver(older, 1, "Part")
        second.deliver(younger, 2, "Part")
        assert older.location != younger.location
        emulator.store.lag = 0
        first.deliver(older, 3)
        older.finish()  # moves the second item, and the younger folder to the trash
        second.deliver(younger, 1, "Part")
        second.deliver(younger, 3)
        younger.finish()
        assert younger.location == older.location
        check_one_of_each(emulator.store)


@pytest.mark.parametrize("accepts", [False, True])
def test_upload_into_a_merged_folder_is_not_lost(tmp_path: Path, accepts: bool) -> None:
    store = Store(lag=10**9, accepts_trashed_parents=accepts)
    with two_workers(tmp_path, store) as (emulator, first, second):
        older, younger = first.open_drive(), second.open_drive()
        for number, section in ITEMS:
            first.deliver(older, number, section)

        def merge() -> None:
            emulator.on_chunk = lambda: None
            emulator.store.lag = 0
            older.finish()

        emulator.on_chunk = merge  # when the last chunk has arrived, before it is answered
        second.deliver(younger, 1, "Part")
        second.deliver(younger, 2, "Part")
        second.deliver(younger, 3)
        younger.finish()
        check_one_of_each(emulator.store)


def test_what_a_person_put_into_a_younger_folder_stays(tmp_path: Path) -> None:
    with two_workers(tmp_path, Store(lag=10**9)) as (emulator, first, second):
        older, younger = first.open_drive(), second.open_drive()
        second.deliver(younger, 1, "Part")
        note = {"id": "note0001", "name": "notes.txt", "parents": [younger.location[0]]}
        emulator.store.insert(note, checked=False)
        emulator.store.lag = 0
        older.finish()
        assert not emulator.store.get("note0001")["trashed"]
        (moved,) = (file for file in emulator.store.media() if file["id"] != "note0001")
        assert emulator.store.get(moved["parents"][0])["parents"] == [older.location[0]]


def test_newer_content_wins_over_a_copy_that_could_not_be_trashed(bench: Bench) -> None:
    bench.send(bench.open_drive(), size=1000)
    drive = bench.open_drive()
    bench.emulator.faults.script("update", *[Fault(status=503)] * 3)
    file = bench.file(2000, 9)
    drive.deliver(build_item(1), Fetched(file), lambda _sent: None)
    assert len(bench.emulator.store.media()) == 2
    again = bench.open_drive()
    found = again.find(build_item(1))
    assert found is not None and found.size == 2000
    assert bench.only_file()["size"] == "2000"
