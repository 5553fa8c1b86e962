"""Progress lines: bounded when they are written, checked when they are read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.odd_json import TEXTS, mutated

from enrollgate.common.strict_json import parse_json
from enrollgate.domain.progress import (
    MARKER,
    PROGRESS_LIMIT,
    MalformedProgress,
    RunProgress,
    find_last,
)

PROGRESS = RunProgress(
    attempt=2,
    attempts=3,
    items_done=4,
    items_total=20,
    bytes_done=5_000_000_000,
    bytes_total=6_000_000_000,
    bytes_per_second=7_000_000,
    percent=23,
    current_item="Lecture 5",
    destination_url="https://drive.google.com/drive/folders/abc",
)


def test_last_line_of_a_log_is_read_as_it_was_written() -> None:
    later = RunProgress(2, 3, 5, 20)
    log = f"delivered: 4\n{PROGRESS.encode()}\nx\n{later.encode()}\n50 % (10 of 20 items)\n"
    assert find_last(PROGRESS.encode()) == PROGRESS
    assert find_last(log) == later


@pytest.mark.parametrize(
    "log",
    [
        "",
        "no progress",
        MARKER,
        MARKER + "{",
        MARKER + "[]",
        MARKER + '{"attempt":1,"items_done":-1}',
        MARKER + '{"attempt":1,"items_done":true}',
        MARKER + '{"attempt":1,"bytes_done":9223372036854775808}',
        MARKER + '{"attempt":1,"percent":101}',
        MARKER + '{"attempt":1,"current_item":5}',
        MARKER + '{"current_item":"' + "x" * PROGRESS_LIMIT + '"}',
        " " + MARKER + '{"attempt":1}',
    ],
)
def test_line_that_is_no_progress_is_passed_over(log: str) -> None:
    assert find_last(log) is None
    assert find_last(f"{PROGRESS.encode()}\n{log}\n") == PROGRESS


def test_title_and_address_are_without_secrets_and_control_characters() -> None:
    line = MARKER + json.dumps(
        {"current_item": "\x1b[2J anna@example.com", "destination_url": "javascript:alert(1)"}
    )
    found = find_last(line)
    assert found is not None and found.destination_url == ""
    assert "anna" not in found.current_item and "\x1b" not in found.current_item
    assert "anna" not in RunProgress(1, 1, current_item="anna@example.com").encode()


@given(st.text(), st.text(), st.integers(0, 2**63 - 1))
def test_any_line_is_short_and_can_be_read(title: str, url: str, number: int) -> None:
    line = RunProgress(1, 3, bytes_done=number, current_item=title, destination_url=url).encode()
    assert len(line.encode()) < PROGRESS_LIMIT and "\n" not in line
    found = find_last(line)
    assert found is not None and found.bytes_done == number


@given(TEXTS | mutated(PROGRESS.to_dict()).map(json.dumps))
def test_any_object_is_a_bounded_progress_or_refused(text: str) -> None:
    try:
        found = RunProgress.from_dict(parse_json(text))
    except (MalformedProgress, ValueError):
        return
    assert all(len(str(value)) <= 500 for value in found.to_dict().values())
    assert found.items_done < 2**31 and found.bytes_done < 2**63
