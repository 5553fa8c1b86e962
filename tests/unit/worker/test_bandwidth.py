"""The limit on bytes per second, with a clock that only sleeps move."""

from hypothesis import given
from hypothesis import strategies as st

from enrollgate.worker.bandwidth import Bandwidth, Meter


class FakeClock:
    """A clock that moves only when it sleeps."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(
    sizes=st.lists(st.integers(0, 10_000), max_size=50),
    idle=st.lists(st.floats(0, 10), min_size=50, max_size=50),
)
def test_busy_transfers_never_move_more_than_the_rate(sizes: list[int], idle: list[float]) -> None:
    time = FakeClock()
    bandwidth = Bandwidth(1000, monotonic=time.monotonic, sleep=time.sleep)
    started, busy_since, moved = time.now, time.now, 0
    for size, pause in zip(sizes, idle, strict=False):
        if pause > 5:  # idle time saves up no bytes for later
            time.sleep(pause)
            busy_since, moved = time.now, 0
        bandwidth.spend(size)
        moved += size
        assert moved <= (time.now - busy_since) * 1000 + 1e-3
    assert time.now >= started


def test_all_transfers_of_a_direction_share_one_limit() -> None:
    time = FakeClock()
    bandwidth = Bandwidth(1000, monotonic=time.monotonic, sleep=time.sleep)
    for meter in (Meter(bandwidth), Meter(bandwidth)):
        meter(500)
    assert time.now == 101.0


def test_bytes_that_an_earlier_attempt_moved_cost_nothing() -> None:
    time = FakeClock()
    meter = Meter(Bandwidth(1000, monotonic=time.monotonic, sleep=time.sleep), start=1_000_000)
    meter(1_000_500)
    meter(1_000_100)  # the transfer started again, with fewer bytes
    assert time.now == 100.5


def test_a_transfer_without_a_limit_never_waits() -> None:
    time = FakeClock()
    Bandwidth(None, monotonic=time.monotonic, sleep=time.sleep).spend(10**12)
    assert time.now == 100.0
