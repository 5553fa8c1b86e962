"""Time spans and sizes read the same everywhere, and never round up to a full unit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.common.units import duration, size

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (-3, "0 s"),
        (0, "0 s"),
        (0.44, "0.4 s"),
        (5, "5 s"),
        (9.96, "10 s"),
        (45.4, "45 s"),
        (59.6, "1 min"),
        (725, "12 min 5 s"),
        (3599.9, "1 h"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_a_duration_is_written_as_people_say_it(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "unknown"),
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (5 * 10**18, "5000.0 PB"),
    ],
)
def test_a_size_is_written_with_the_largest_unit(number: float | None, text: str) -> None:
    assert size(number) == text


@given(st.floats(0, 1e9))
def test_a_duration_differs_by_less_than_its_last_unit(seconds: float) -> None:
    parts = re.findall(r"([\d.]+) (\w+)", duration(seconds))
    read = sum(float(number) * SECONDS[unit] for number, unit in parts)
    # The unit after the first is the last that is written, also if it is 0.
    finest = {"s": 0.5, "min": 1, "h": 60, "d": 3600}[parts[0][1]]
    assert read - 0.5 <= seconds < read + finest + 0.5
    limits = {"s": 60, "min": 60, "h": 24, "d": 1e9}
    assert all(float(number) < limits[unit] for number, unit in parts)


@given(st.integers(0, 10**18 - 10**14))
def test_a_size_is_right_to_a_tenth_and_below_a_thousand(number: int) -> None:
    value, unit = size(number).split()
    assert float(value) < 1000
    assert abs(float(value) * BYTES[unit] - number) <= 0.0501 * BYTES[unit]
