"""Many requests at the same time, on a fixed number of threads.

In: a function and its arguments. Out: the results, or the most important error. Separate because it
knows nothing of Jobs.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from operator import itemgetter
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
        numbered = self.as_completed(
            lambda argument: (argument[0], function(argument[1])), enumerate(arguments)
        )
        return [result for _, result in sorted(numbered, key=itemgetter(0))]

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
        ended, futures, running = SimpleQueue[Future[_R]](), list[Future[_R]](), 0
        is_unavailable = threading.Event()

        def note_end(future: Future[_R]) -> None:
            if _is_unavailable(future.exception()):
                is_unavailable.set()
            ended.put(future)

        try:
            while True:
                if not is_unavailable.is_set():
                    for argument in islice(rest, 2 * self._concurrency - running):
                        futures.append(self._executor.submit(function, argument))
                        futures[-1].add_done_callback(note_end)
                        running += 1
                if not running:
                    break
                future = ended.get()
                running -= 1
                if future.exception() is None:
                    yield future.result()
        finally:
            for _ in range(running):
                ended.get()
        errors = [error for future in futures if (error := future.exception()) is not None]
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


def _is_unavailable(error: BaseException | None) -> bool:
    return isinstance(error, LauncherUnavailable) and not isinstance(error, LauncherRefused)
