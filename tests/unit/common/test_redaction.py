"""Redaction removes what must not be shown, in a time that is linear in the text."""

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
    ],
)
def test_redact_removes_addresses_users_and_queries(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "unit", ["a", "a.", "a@", "a://", "x%40", "http://a?", "a b ", "a@b.", "@.", "%40%40."]
)
def test_redact_ends_for_a_megabyte_of_hostile_text(unit: str) -> None:
    """With a pattern that backtracks, this would take hours: the suite's timeout would end it."""
    text = unit * (MEGABYTE // len(unit))
    assert len(redact(text)) <= 1000
    assert len(redact(text, limit=MEGABYTE)) <= MEGABYTE + 3


def test_a_long_text_is_cut_before_a_parted_address_is_shown() -> None:
    text = "word " * 3198 + "ada@example.com and more " * 1000
    assert "ada@" not in redact(text, limit=1000)
    assert "ada@" not in redact(text, limit=16_000)
