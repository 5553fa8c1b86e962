"""The watcher of local runs notices every exit, also when open files run short."""

import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from enrollgate.launchers.local.watcher import Watcher

SLEEPERS = 20


@pytest.fixture
def few_open_files() -> Iterator[None]:
    """Let this process open only a few files more than it has."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 -- names alone
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 45, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.usefixtures("few_open_files")
def test_watcher_leaves_open_files_to_others_and_sees_each_exit() -> None:
    ended, exits = threading.Event(), list[str]()

    def note(name: str) -> None:
        exits.append(name)
        ended.set()

    with closing(Watcher(note)) as watcher, ExitStack() as stack:
        sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(SLEEPERS)]
        for each in sleepers:
            stack.callback(each.wait)
            stack.callback(each.kill)
            assert watcher.watch(f"run-{each.pid}", each.pid)
        spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(25)]
        for descriptor in spare:
            os.close(descriptor)
        for each in (sleepers[0], sleepers[-1]):
            ended.clear()
            each.kill()
            assert ended.wait(30)
            assert exits[-1] == f"run-{each.pid}"
