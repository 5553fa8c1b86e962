"""Back-off: bounded, growing, and repeatable with the same seed."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollgate.common.backoff import Backoff, delay

policies = st.builds(
    Backoff,
    base=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    cap=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
failures = st.integers(1, 10_000)
seeds = st.integers(0, 2**32)


@given(failures, policies, seeds)
def test_a_wait_is_never_negative_and_never_above_the_cap(
    count: int, policy: Backoff, seed: int
) -> None:
    assert 0 <= delay(count, policy, Random(seed)) <= policy.cap


@given(failures, policies, seeds)
def test_jitter_cuts_off_no_more_than_its_share(count: int, policy: Backoff, seed: int) -> None:
    calm = Backoff(policy.base, policy.factor, policy.cap, jitter=0)
    full = delay(count, calm, Random(seed))
    assert full * (1 - policy.jitter) <= delay(count, policy, Random(seed)) <= full


@given(failures, policies, seeds)
def test_without_jitter_no_wait_is_shorter_than_the_one_before(
    count: int, policy: Backoff, seed: int
) -> None:
    calm = Backoff(policy.base, policy.factor, policy.cap, jitter=0)
    assert delay(count, calm, Random(seed)) <= delay(count + 1, calm, Random(seed))


@given(failures, policies, seeds)
def test_the_same_seed_gives_the_same_wait(count: int, policy: Backoff, seed: int) -> None:
    assert delay(count, policy, Random(seed)) == delay(count, policy, Random(seed))


def test_waits_double_up_to_the_cap() -> None:
    policy = Backoff(base=5, factor=2, cap=60, jitter=0)
    assert [delay(count, policy, Random(0)) for count in range(1, 7)] == [5, 10, 20, 40, 60, 60]


@pytest.mark.parametrize(
    "parameters", [{"base": -1}, {"cap": -1}, {"factor": 0.5}, {"jitter": 1.1}, {"jitter": -0.1}]
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="back-off needs"):
        Backoff(**parameters)
