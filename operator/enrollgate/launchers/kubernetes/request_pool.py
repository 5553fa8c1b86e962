"""Many requests at the same time, on a fixed number of threads.

In: a function and its arguments. Out: the results, or the most important error. Separate because it
knows nothing of Jobs.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from queue import SimpleQueue
from typing import TypeVar

from enrollgate.launchers.base import LauncherRefused, LauncherUnavailable

_T = TypeVar("_T")
_R = TypeVar("_R")


class RequestPool:
    """Runs requests on `concurrency` threads."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="kubernetes")

    def map(self, function: Callable[[_T], _R], arguments: Iterable[_T]) -> list[_R]:
        """Call a function with each argument and return the results in order.

        A single call is made by the caller's own thread. An argument is taken only when a thread is
        nearly free. When all calls have ended, the first error is raised, LauncherUnavailable
        before all others. After a LauncherUnavailable no further call starts: each would wait as
        long.
        """
        rest = iter(arguments)
        first = list(islice(rest, 2))
        if len(first) < 2:
            return [function(argument) for argument in first]
        futures = list[Future[_R]]()
        is_unavailable = threading.Event()
        slots = threading.Semaphore(2 * self._concurrency)

        def call(argument: _T) -> _R:
            try:
                return function(argument)
            except LauncherUnavailable as error:
                if _is_unavailable(error):
                    is_unavailable.set()
                raise
            finally:
                slots.release()

        try:
            for argument in chain(first, rest):
                slots.acquire()
                if is_unavailable.is_set():
                    break
                futures.append(self._executor.submit(call, argument))
        finally:
            wait(futures)
        for future in futures:
            error = future.exception()
            if error is not None and _is_unavailable(error):
                raise error
        return [future.result() for future in futures]

    def as_completed(self, function: Callable[[_T], _R], arguments: Iterable[_T]) -> Iterator[_R]:
        """Call a function with each argument, and yield the results as they come, in any order.

        Else as `map`: the errors are raised as there, when all calls have ended.
        """
        rest = iter(arguments)
        first = list(islice(rest, 2))
        if len(first) < 2:
            yield from map(function, first)
            return
        rest = chain(first, rest)
        ended = SimpleQueue[Future[_R]]()
        errors = list[BaseException]()
        running = 0
        try:
            while True:
                if not any(map(_is_unavailable, errors)):
                    for argument in islice(rest, 2 * self._concurrency - running):
                        running += 1
                        self._executor.submit(function, argument).add_done_callback(ended.put)
                if not running:
                    break
                future = ended.get()
                running -= 1
                if (error := future.exception()) is not None:
                    errors.append(error)
                else:
                    yield future.result()
        finally:
            for _ in range(running):
                ended.get()
        for error in sorted(errors, key=_is_unavailable, reverse=True):
            raise error

    def stream(self, function: Callable[[_T], _R], arguments: Iterable[_T]) -> Iterator[_R]:
        """Call a function with each argument, and yield the results as they come, in any order.

        An argument is taken only when a thread is free. The first error is raised, without waiting
        for the calls that are under way.
        """
        running = set[Future[_R]]()
        for argument in arguments:
            running.add(self._executor.submit(function, argument))
            is_full = len(running) >= self._concurrency
            done, running = wait(running, None if is_full else 0, FIRST_COMPLETED)
            yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)

    def close(self) -> None:
        """End the threads, after their current request."""
        self._executor.shutdown(wait=True)


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, LauncherUnavailable) and not isinstance(error, LauncherRefused)
