"""The limit on bytes per second, on a driven clock."""

from hypothesis import given
from hypothesis import strategies as st

from enrollgate.worker.bandwidth import Bandwidth, Meter


class DrivenTime:
    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(
    sizes=st.lists(st.integers(0, 10_000), max_size=50),
    idle=st.lists(st.floats(0, 10), min_size=50, max_size=50),
)
def test_never_more_than_the_rate_over_any_stretch_of_work(
    sizes: list[int], idle: list[float]
) -> None:
    time = DrivenTime()
    bandwidth = Bandwidth(1000, monotonic=time.monotonic, sleep=time.sleep)
    begun, busy_since, moved = time.now, time.now, 0
    for size, pause in zip(sizes, idle, strict=False):
        if pause > 5:  # an idle stretch saves nothing up
            time.sleep(pause)
            busy_since, moved = time.now, 0
        bandwidth.spend(size)
        moved += size
        assert moved <= (time.now - busy_since) * 1000 + 1e-3
    assert time.now >= begun


def test_all_transfers_of_a_direction_share_it() -> None:
    time = DrivenTime()
    bandwidth = Bandwidth(1000, monotonic=time.monotonic, sleep=time.sleep)
    for meter in (Meter(bandwidth), Meter(bandwidth)):
        meter(500)
    assert time.now == 101.0


def test_what_an_earlier_try_has_moved_costs_nothing() -> None:
    time = DrivenTime()
    meter = Meter(Bandwidth(1000, monotonic=time.monotonic, sleep=time.sleep), start=1_000_000)
    meter(1_000_500)
    meter(1_000_100)  # started again from less
    assert time.now == 100.5


def test_without_a_limit_nothing_waits() -> None:
    time = DrivenTime()
    Bandwidth(None, monotonic=time.monotonic, sleep=time.sleep).spend(10**12)
    assert time.now == 100.0
