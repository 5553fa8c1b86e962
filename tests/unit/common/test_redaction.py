"""Redaction removes what must not be shown, in a time that is linear in the text."""

import time

import pytest

from enrollgate.common.redaction import redact

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mail ada@example.com now", "mail <e-mail> now"),
        ("/users/ada%40example.com/x", "/users/<e-mail>/x"),
        ("mysql://user:p@ss@host/courses", "mysql://host/courses"),
        ("GET https://c.example/1.mp4?sig=abc done", "GET https://c.example/1.mp4?... done"),
        ("https://c.example/#/play?token=abc", "https://c.example/#/play?..."),
        ('<a href="https://c.example/?t=1">', '<a href="https://c.example/?...">'),
        ("1http://user:secret@host/", "1http://host/"),
        ("Write to ada@example.com.", "Write to <e-mail>."),
        ("ada@mail.example.co.uk, bob@b.example; eve", "<e-mail>, <e-mail>; eve"),
        ("https://a:b@c.example/x?t=1#ada@example.com", "https://c.example/x?..."),
        ("a@b and 1@2", "a@b and 1@2"),
        ("red\x1b[31m\r\ttitle\x00\x9b", r"red\x1b[31m\r\ttitle\x00\x9b"),
        ("two\nlines\u2028and\u2029more\x85", r"two\nlines\u2028and\u2029more\x85"),
        ("turned \u202egpj.exe", r"turned \u202egpj.exe"),
        (
            "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
            "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
        ),
    ],
)
def test_redact_removes_addresses_users_and_queries(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "unit",
    [
        *("a", "a.", "a@", "a://", "x%40", "http://a?", "a b ", "a@b.", "@.", "%40%40."),
        *("a@b.c.", "://", "://@", "\x1b", "\n", "a@b.example ", "http://u:p@h/?x "),
    ],
)
def test_redact_ends_for_a_megabyte_of_hostile_text(unit: str) -> None:
    """With a pattern that backtracks, this would take hours: the suite's timeout would end it."""
    text = unit * (MEGABYTE // len(unit))
    assert len(redact(text)) <= 1000
    assert "\x1b" not in redact(text)
    assert len(redact(text, limit=MEGABYTE)) <= MEGABYTE + 3


def test_a_long_text_is_cut_before_a_parted_address_is_shown() -> None:
    text = "word " * 3198 + "ada@example.com and more " * 1000
    assert "ada@" not in redact(text, limit=1000)
    assert "ada@" not in redact(text, limit=16_000)


@pytest.mark.parametrize("unit", ["x%40a.", "a@b.", "://a@", "a@b.example ", "%40%40.", "a\x1b"])
def test_redaction_takes_linear_work(unit: str) -> None:
    """Twice the text takes about twice the work, in calls that the interpreter makes."""

    def work(size: int) -> float:
        text = unit * (size // len(unit))
        # The time of this thread alone, the best of several: others on this machine do not count.
        times = []
        for _ in range(5):
            start = time.thread_time()
            redact(text, limit=size)
            times.append(time.thread_time() - start)
        return min(times)

    assert work(400_000) < 5 * work(100_000) + 0.02
