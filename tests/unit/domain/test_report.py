"""A report from outside: read, bounded, or refused by the one error."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.odd_json import TEXTS, VALUES, mutated

from enrollgate.domain.reasons import Reason
from enrollgate.domain.report import (
    READ_LIMIT,
    REPORT_LIMIT,
    FailedItem,
    LeftOutItem,
    MalformedReport,
    Report,
)

REAL = Report(
    Reason.SITE_ERROR,
    "1 of 9 items failed",
    items_delivered=6,
    items_skipped=1,
    items_failed=1,
    bytes_delivered=123_456_789,
    seconds=12.5,
    destination_id="folder",
    destination_url="https://drive.example.com/folder",
    failed_items=(FailedItem("Lecture 1", Reason.SITE_ERROR, "HTTP 500"),),
    remedy="Try again.",
    retry_after=30.0,
    items_left_out=1,
    left_out_items=(LeftOutItem("Quiz", "a quiz"),),
)
PLAIN = json.loads(REAL.encode())


def read(text: str) -> Report | None:
    """Return the report in a text, checked to be bounded; None if it is refused."""
    try:
        report = Report.decode(text)
    except MalformedReport as refusal:
        assert str(refusal).isprintable() and len(str(refusal)) < 300
        return None
    counts = (
        report.items_delivered,
        report.items_skipped,
        report.items_failed,
        report.bytes_delivered,
        report.items_left_out,
    )
    assert all(type(count) is int and 0 <= count < 2**63 for count in counts)
    assert type(report.seconds) is float and 0 <= report.seconds < 1e10
    assert len(report.failed_items) <= 10 and len(report.left_out_items) <= 10
    kept = json.dumps(report.to_dict())
    assert len(kept) < 2**20
    json.loads(kept, parse_constant=pytest.fail)
    encoded = report.encode()
    assert len(encoded) <= REPORT_LIMIT
    assert Report.decode(encoded).encode() == encoded, "what is kept can be read again"
    return report


@given(TEXTS | mutated(PLAIN).map(json.dumps))
@example("[" * 4096)
@example("[" * 4096 + "]" * 4096)
@example('{"a":' * 20_000 + "1" + "}" * 20_000)
@example('{"reason": null, "message": ' + "[" * 900 + "]" * 900 + "}")
def test_decode_any_text_returns_a_bounded_report_or_refuses_it(text: str) -> None:
    read(text)


@given(VALUES | mutated(PLAIN))
def test_from_dict_any_value_returns_a_report_or_refuses_it(value: Any) -> None:
    try:
        report = Report.from_dict(value)
    except MalformedReport:
        return
    assert len(report.encode()) <= REPORT_LIMIT


@pytest.mark.parametrize(
    "changes",
    [
        {"message": 5},
        {"message": None},
        {"items_failed": "many"},
        {"items_failed": True},
        {"items_failed": None},
        {"items_delivered": -1},
        {"items_delivered": int("9" * 3950)},
        {"items_delivered": 2**63},
        {"items_delivered": 1.5},
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"seconds": -1},
        {"seconds": int("9" * 400)},
        {"seconds": "1"},
        {"retry_after": "60"},
        {"retry_after": float("inf")},
        {"reason": ["x"]},
        {"reason": 5},
        {"failed_items": {"a": 1}},
        {"failed_items": "abc"},
        {"failed_items": None},
        {"failed_items": [None]},
        {"failed_items": [{"item": "a"}]},
        {"failed_items": [{"item": 1, "reason": "SiteError", "message": ""}]},
        {"left_out_items": [["item", "why"]]},
        {"destination_url": ["https://x"]},
        {"remedy": {}},
    ],
)
def test_decode_field_of_another_type_refuses_the_report(changes: dict[str, Any]) -> None:
    assert read(json.dumps(PLAIN | changes)) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "5", '"text"', "[]", "{}", "NaN", "\ufeff{}", '{"reason": null}', "{" * 9999),
        '{"reason": null, "message": "", "seconds": 1e999}',
        '{"reason": null, "message": "", "seconds": NaN}',
        '{"reason": null, "message": ""',
        '{"reason": null, "message": ""} trailing',
        json.dumps({"reason": None, "message": "x" * READ_LIMIT}),
        b'\xff\xfe{"reason": null}'.decode(errors="replace"),
    ],
)
def test_decode_what_is_no_report_is_refused(text: str) -> None:
    assert read(text) is None


def test_decode_report_of_a_newer_worker_is_read() -> None:
    newer = PLAIN | {"speed": {"max": 3}, "version": 2}
    assert read(json.dumps(newer)) == REAL
    unknown = read(json.dumps(PLAIN | {"reason": "SiteOnHoliday", "message": "closed"}))
    assert unknown is not None
    assert (unknown.reason, unknown.message) == (Reason.WORKER_CRASHED, "SiteOnHoliday: closed")


def test_decode_duplicate_fields_last_one_counts() -> None:
    report = read('{"reason": null, "message": "a", "message": "b"}')
    assert report is not None and report.message == "b"


def test_decode_hundred_thousand_failed_items_is_refused_unread() -> None:
    item = {"item": "a", "reason": "SiteError", "message": "m"}
    assert read(json.dumps(PLAIN | {"failed_items": [item] * 100_000})) is None
    many = read(json.dumps(PLAIN | {"failed_items": [item] * 500}))
    assert many is not None and len(many.failed_items) == 10


def test_decode_surrogates_are_replaced_and_emoji_are_kept() -> None:
    items = [{"item": "\ud800 \U0001f600", "reason": "SiteError", "message": "\x00"}]
    report = read(json.dumps(PLAIN | {"message": "half \ud83d", "failed_items": items}))
    assert report is not None
    assert report.message == "half ?"
    assert report.failed_items[0].item == "? \U0001f600"


@given(st.sampled_from(["\U0001f600", "é", "\x00", "x", '"']), st.integers(0, 5000))
def test_encode_any_text_ends_within_the_limit(unit: str, length: int) -> None:
    """A remedy that nothing shortened once made it run forever."""
    text = unit * length
    item = FailedItem(text, Reason.SITE_ERROR, text)
    report = Report(
        Reason.SITE_ERROR,
        text,
        items_failed=2**62,
        failed_items=(item,) * 50,
        remedy=text,
        destination_id=text,
        destination_url=text,
        left_out_items=(LeftOutItem(text, text),) * 50,
    )
    assert len(report.encode()) <= REPORT_LIMIT


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "http://x.example/", "data:text/html,x", "https://x/\x1b[2J"]
)
def test_encode_what_is_no_link_to_a_folder_is_left_out(url: str) -> None:
    report = Report(None, "", destination_url=url)
    assert Report.decode(report.encode()).destination_url == ""
