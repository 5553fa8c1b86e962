"""What the worker says of its progress: by bytes, by items, and how often."""

import io
from pathlib import Path

import pytest

from enrollgate.domain.progress import MARKER, RunProgress, find_last
from enrollgate.worker.course import Item
from enrollgate.worker.progress import LINE_INTERVAL, Progress


class Worker:
    """A progress in a container: no terminal and no file, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.log = io.StringIO()
        self.progress = Progress(
            path=None, clock=lambda: self.now, stream=self.log, attempt=2, attempts=3
        )

    @property
    def last(self) -> RunProgress:
        found = find_last(self.log.getvalue())
        assert found is not None
        return found

    @property
    def lines(self) -> int:
        return self.log.getvalue().count(MARKER)

    def later(self, seconds: float = LINE_INTERVAL) -> None:
        self.now += seconds


def item(number: int) -> Item:
    return Item(f"id-{number}", number, f"Lecture {number}", "", 0, f"https://x.example/{number}")


@pytest.fixture
def worker() -> Worker:
    worker = Worker()
    worker.progress.begin("A course", 4, "[ATTEMPT 2/3]", "https://drive.example/1")
    return worker


def test_line_follows_the_bytes_of_an_item(worker: Worker) -> None:
    one = item(1)
    assert worker.last == RunProgress(
        2, 3, 0, 4, 0, 0, 0, 0, destination_url="https://drive.example/1"
    )
    worker.progress.item_started(one)
    worker.later()
    worker.progress.item_bytes(one, 100, 1000)
    assert (worker.last.bytes_done, worker.last.bytes_total, worker.last.percent) == (100, 1000, 1)
    assert worker.last.current_item == "Lecture 1"
    worker.later()
    worker.progress.item_bytes(one, 1000, 1000)
    assert (worker.last.percent, worker.last.bytes_per_second) == (12, 225)
    worker.progress.item_fetched(one)
    worker.later()
    worker.progress.item_sent(one, 500)
    assert worker.last.percent == 18
    worker.later()
    worker.progress.item_done(one, size=1000, skipped=False)
    assert (worker.last.items_done, worker.last.percent, worker.last.bytes_done) == (1, 25, 1000)
    assert worker.last.current_item == ""


def test_lines_are_no_more_often_than_the_interval(worker: Worker) -> None:
    for number in range(1, 100):
        worker.progress.item_started(item(number))
        worker.progress.item_bytes(item(number), 5, 10)
    assert worker.lines == 1
    worker.later()
    worker.progress.item_bytes(item(99), 6, 10)
    assert worker.lines == 2
    worker.progress.end("the end")
    assert worker.lines == 3


def test_bytes_of_an_earlier_attempt_are_not_in_the_rate(worker: Worker) -> None:
    worker.progress.item_started(item(1))
    worker.later()
    worker.progress.item_bytes(item(1), 10**9, 2 * 10**9)
    worker.later()
    worker.progress.item_bytes(item(1), 10**9 + 400, 2 * 10**9)
    assert worker.last.bytes_per_second == 100


def test_unknown_size_leaves_the_total_open(worker: Worker) -> None:
    worker.progress.item_started(item(1))
    worker.later()
    worker.progress.item_bytes(item(1), 100, None)
    assert (worker.last.bytes_done, worker.last.bytes_total, worker.last.percent) == (100, None, 0)


def test_percent_does_not_go_back_when_an_item_fails(worker: Worker) -> None:
    worker.progress.item_started(item(1))
    worker.later()
    worker.progress.item_bytes(item(1), 900, 1000)
    before = worker.last.percent
    worker.later()
    worker.progress.item_started(item(2))
    worker.progress.item_bytes(item(1), 0, 1000)
    assert worker.last.percent == before == 11


def test_run_with_a_progress_file_prints_no_lines(tmp_path: Path) -> None:
    log = io.StringIO()
    progress = Progress(path=tmp_path / "progress.json", clock=lambda: 1.0, stream=log)
    progress.begin("A course", 1, "[ATTEMPT 1/1]")
    assert MARKER not in log.getvalue()
    assert (tmp_path / "progress.json").exists()
