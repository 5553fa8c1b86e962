"""Many requests at once: what one that fails means for the others. No cluster: the API server is a function of the path."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from random import Random
from typing import Any

import pytest
import urllib3
from kubernetes import client

from enrollgate.launchers import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes import Api, JobSettings, KubernetesLauncher
from enrollgate.launchers.kubernetes.api import TRIES
from enrollgate.wiring import utc_now

NAMES = [f"school-{number}-1" for number in range(1, 201)]
CONCURRENCY = 4
NOT_FOUND = (404, {}, b'{"reason": "NotFound", "message": "no such Job"}')


class Scripted(Api):
    """Answers each path as the test says, and counts."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        super().__init__(client.Configuration(), random=Random(1), sleep=lambda _seconds: time.sleep(0.01))
        self.answer = answer
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def _send(self, _method: str, path: str, *_more: Any) -> Any:
        with self._lock:
            self.asked.append(path)
        return self.answer(path)


@contextmanager
def launcher_of(api: Api, progress: Callable[[], None] = lambda: None) -> Iterator[KubernetesLauncher]:
    settings = JobSettings("courses", "school", "enrollgate:1")
    made = KubernetesLauncher(
        api, settings, start_timeout=900, concurrency=CONCURRENCY, clock=utc_now, progress=progress
    )
    with closing(made):
        yield made


def test_a_server_that_is_away_is_not_asked_for_each_of_many_jobs() -> None:
    def away(path: str) -> Any:
        raise urllib3.exceptions.ReadTimeoutError(None, path, "timed out")  # type: ignore[arg-type]  # no pool here

    api = Scripted(away)
    with launcher_of(api) as launcher, pytest.raises(LauncherUnavailable):
        launcher.observe(NAMES, only=True)
    assert len(api.asked) < len(NAMES) * TRIES / 2, "those under way end, the others never begin"


def test_what_is_refused_for_one_job_keeps_no_other_from_being_asked_for() -> None:
    refused = (403, {}, b'{"reason": "Forbidden", "message": "a policy"}')
    api = Scripted(lambda path: refused if path.endswith("/school-1-1") else NOT_FOUND)
    with launcher_of(api) as launcher, pytest.raises(LauncherRefused, match="a policy"):
        launcher.observe(NAMES, only=True)
    assert len(api.asked) == len(NAMES)


def test_each_served_request_is_progress() -> None:
    served: list[None] = []
    api = Scripted(lambda _path: (200, {}, b'{"items": []}'))
    with launcher_of(api, progress=lambda: served.append(None)) as launcher:
        assert launcher.observe([]) == {}
    assert len(served) == len(api.asked) == 1
