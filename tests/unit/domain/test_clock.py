"""A clock that was set, as opposed to time that passed."""

from datetime import datetime, timedelta

import pytest

from enrollgate.domain.clock import ClockReading

NOON = datetime(2026, 1, 1, 12)  # noqa: DTZ001 -- times in the database have no zone


def step(advance: float, *, gap: float = 10.0, took: float = 0.1) -> float:
    """Return the step between two readings that each took so long, `gap` seconds apart."""
    earlier = ClockReading(NOON, 0.0, took, 0)
    now = NOON + timedelta(seconds=advance)
    return ClockReading(now, gap, gap + took, 0).step_since(earlier).total_seconds()


@pytest.mark.parametrize(("advance", "gap"), [(10, 10), (10.9, 10), (9.2, 10), (86400, 86400)])
def test_time_that_passed_is_no_step(advance: float, gap: float) -> None:
    assert step(advance, gap=gap) == 0


@pytest.mark.parametrize("set_by", [3600, -3600, 2, -2, 300])
def test_clock_that_was_set_is_a_step_within_the_time_of_reading(set_by: float) -> None:
    assert set_by <= step(10 + set_by) <= set_by + 0.2


@pytest.mark.parametrize("advance", [5.0, 10.0, 19.0, 39.0])
def test_slow_reading_leaves_the_moment_open_and_is_no_step(advance: float) -> None:
    assert step(advance, gap=20, took=20) == 0


@pytest.mark.parametrize("set_by", [3600, -3600])
def test_step_of_a_slow_reading_lets_tasks_wait_longer(set_by: float) -> None:
    assert set_by <= step(20 + set_by, gap=20, took=20) <= set_by + 40
