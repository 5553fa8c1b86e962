"""The looks at the gate keep to their interval, and to their part of the database."""

import pytest

from enrollgate.control.look_interval import LookInterval


def paced(*costs: float, interval: float = 0.05, share: float = 0.01) -> float:
    look_interval = LookInterval(interval=interval, share=share)
    for cost in costs:
        look_interval.record(cost)
    return look_interval.pause


def test_cheap_looks_keep_to_the_interval() -> None:
    assert paced() == paced(0.0004) == 0.05


@pytest.mark.parametrize(("cost", "pause"), [(0.001, 0.1), (0.08, 8.0), (0.5, 50.0)])
def test_costly_looks_keep_to_their_share_of_the_database(cost: float, pause: float) -> None:
    assert paced(cost) == pytest.approx(pause)


def test_one_slow_look_among_many_delays_nothing() -> None:
    assert paced(0.0004, 0.0004, 3.0, 0.0004, 0.0004) == 0.05


def test_looks_that_become_cheap_again_come_often_again() -> None:
    assert paced(*[0.5] * 20, *[0.0001] * 5) == 0.05


def test_look_that_asked_nothing_is_followed_after_the_interval() -> None:
    assert paced(0.08, 0.08, 0.0) == 0.05
    assert paced(0.08, 0.0, 0.08) == pytest.approx(8.0)


def test_larger_share_shortens_the_pause() -> None:
    assert paced(0.08, share=0.1) == pytest.approx(0.8)
