"""JSON from outside is plain bounded data, or one ValueError."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.odd_json import TEXTS, VALUES

from enrollgate.common.strict_json import DEPTH_LIMIT, parse_json


@given(TEXTS | st.binary(max_size=60))
def test_parse_json_any_text_is_storable_or_one_error(text: str | bytes) -> None:
    try:
        value = parse_json(text)
    except ValueError:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@given(VALUES)
def test_parse_json_ordinary_values_are_unchanged(value: Any) -> None:
    text = json.dumps(value)
    try:
        found = parse_json(text)
    except ValueError:
        return
    assert found == json.loads(text) or "\\ud" in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1), "nested too deep"),
        ("[" * 100_000, "nested too deep|Expecting value"),
        (str(2**63), "more than 64 bits"),
        ("9" * 5000, "digits"),
        ("1e999", "not finite"),
        ("-Infinity", "not finite"),
        ("[" + "1," * 600_000 + "1]", "too large"),
        (b"\xff", "decode"),
    ],
)
def test_parse_json_what_cannot_be_stored_is_refused(text: str | bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


def test_parse_json_nested_within_the_limit_is_read() -> None:
    assert parse_json("[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT) is not None
    assert parse_json(b'{"a": "\\ud800", "b": -9223372036854775808}') == {"a": "?", "b": -(2**63)}
