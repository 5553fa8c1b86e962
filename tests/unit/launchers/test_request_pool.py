"""Requests on threads: which thread makes them, and which error is raised."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from enrollgate.launchers.base import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes.request_pool import RequestPool


@pytest.fixture
def pool() -> Iterator[RequestPool]:
    with closing(RequestPool(2)) as pool:
        yield pool


def current_thread(_: object) -> int:
    return threading.get_ident()


@pytest.mark.parametrize("count", [0, 1])
def test_single_request_runs_on_the_current_thread_its_caller(
    pool: RequestPool, count: int
) -> None:
    assert pool.map(current_thread, range(count)) == [threading.get_ident()] * count
    assert (
        pool.map(current_thread, (each for each in range(count))) == [threading.get_ident()] * count
    )


def test_several_requests_run_at_the_same_time_in_order(pool: RequestPool) -> None:
    together = threading.Barrier(2, timeout=30)

    def meet(argument: int) -> tuple[int, bool]:
        together.wait()
        return argument, threading.get_ident() == threading.main_thread().ident

    assert pool.map(meet, iter(range(4))) == [(each, False) for each in range(4)]


def test_results_come_while_other_requests_are_under_way(pool: RequestPool) -> None:
    release = threading.Event()

    def call(is_slow: bool) -> bool:
        assert not is_slow or release.wait(30)
        return is_slow

    results = pool.as_completed(call, [True, False])
    assert next(results) is False
    release.set()
    assert list(results) == [True]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_results_are_yielded_before_the_error_is_raised(pool: RequestPool, count: int) -> None:
    asked = list[int]()

    def call(argument: int) -> int:
        asked.append(argument)
        if argument == 0:
            raise LauncherUnavailable("away")
        return argument

    results = list[int]()
    with pytest.raises(LauncherUnavailable, match="away"):
        results.extend(pool.as_completed(call, range(count)))
    assert sorted([0, *results]) == sorted(asked)
    assert len(asked) <= 8  # none is begun once the error is seen


@pytest.mark.parametrize("count", [1, 3])
def test_unavailable_is_raised_before_a_refusal(pool: RequestPool, count: int) -> None:
    def call(argument: int) -> None:
        if argument == count - 1:
            raise LauncherUnavailable("away")
        raise LauncherRefused("no")

    with pytest.raises(LauncherUnavailable, match="away"):
        pool.map(call, range(count))
