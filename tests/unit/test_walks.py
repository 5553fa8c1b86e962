"""The walks through the code in docs/architecture.md: short, and true."""

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest
from kubernetes import client
from tests.job_settings import job_settings
from tests.world import World

import enrollgate
from enrollgate.common.backoff import Backoff
from enrollgate.control.loop import Loop
from enrollgate.launchers.kubernetes import Api, KubernetesLauncher

PACKAGE = Path(enrollgate.__file__).parent
PAGE = (PACKAGE.parents[1] / "docs/architecture.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Three walks through the code")[1].split("\n## ")[0]
INTRODUCTION, *PARTS = re.split(r"\*\*(From .*)\*\*\n", SECTION)
WALKS = dict(zip(PARTS[::2], PARTS[1::2], strict=True))
ROW, URL, END = WALKS
# Functions here decide, convert or pass on. What `domain` has besides are types and texts.
TRACED = ("control/", "database/", "launchers/", "domain/planner.py")


def steps(walk: str) -> list[str]:
    return re.findall(r"^\d+\. `([^`]+)`", WALKS[walk], re.MULTILINE)


def tools() -> set[str]:
    return set(re.findall(r"`((?:control|database|launchers)/[^`]+)`", INTRODUCTION))


class OneJobApi(Api):
    """An API server with one Job, whose pod leaves no report. It creates what it is sent."""

    def __init__(self) -> None:
        super().__init__(client.Configuration(), random=Random(1), sleep=lambda _seconds: None)
        self.job: dict[str, Any] = {}

    def _send(self, method: str, path: str, _query: object, body: Any, *_more: object) -> Any:
        metadata = {"uid": "1", "name": "pod", "creationTimestamp": "2026-01-01T12:00:00Z"}
        if method == "POST" and path.endswith("/jobs"):
            self.job = {**body, "metadata": {**metadata, **body["metadata"]}}
        if method == "POST" or "/jobs/" in path:
            return 200, {}, json.dumps(self.job).encode()
        if path.endswith("/namespaces/courses"):
            return 200, {}, json.dumps({"metadata": {"uid": "uid-of-courses"}}).encode()
        items: list[dict[str, Any]] = []
        if path.endswith("/pods") and self.job:
            labels = {"batch.kubernetes.io/job-name": self.job["metadata"]["name"]}
            name = self.job["metadata"]["name"]
            owner = {"kind": "Job", "name": name, "uid": "1", "controller": True}
            owned = {**metadata, "labels": labels, "ownerReferences": [owner]}
            items = [{"metadata": owned, "status": {"phase": "Succeeded"}}]
        return 200, {}, json.dumps({"items": items}).encode()


@pytest.fixture
def api() -> OneJobApi:
    return OneJobApi()


@pytest.fixture
def world(sqlite_url: str, api: OneJobApi) -> Iterator[World]:
    launcher = KubernetesLauncher(
        api,
        job_settings(),
        start_timeout=900,
        concurrency=1,
        clock=lambda: datetime(2026, 1, 1, 12, tzinfo=UTC),
    )
    with closing(launcher), closing(World(sqlite_url)) as world:
        world.operator = world.new_operator(launcher=launcher)
        yield world


@contextmanager
def files_that_run() -> Iterator[set[str]]:
    """Collect the files of the traced packages whose functions are called meanwhile."""
    found = set[str]()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            found.add(path.relative_to(PACKAGE).as_posix())

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        found -= {each for each in found if not each.startswith(TRACED)}


def source(file: str) -> str:
    return (PACKAGE / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("walk", WALKS)
def test_walk_has_at_most_nine_files_that_exist(walk: str) -> None:
    files = steps(walk)
    assert len(set(files)) == len(files) <= 9
    for file, function in re.findall(r"^\d+\. `([^`]+)`.*\(`(\w+)`\)", WALKS[walk], re.MULTILINE):
        assert f"def {function}(" in source(file)


def test_row_becomes_a_job_through_the_files_of_its_walk(world: World, api: OneJobApi) -> None:
    world.reconcile()
    world.add("enrolled")
    with files_that_run() as files:
        world.look()
    assert api.job
    assert files - tools() == set(steps(ROW))


def test_finished_job_completes_its_task_through_the_files_of_its_walk(
    world: World, api: OneJobApi
) -> None:
    task = world.add("enrolled")
    world.reconcile()
    api.job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    readings = chain([1000.0], repeat(0.0))  # the first full pass is not due yet
    loop = Loop(
        interval=1000,
        backoff=Backoff(base=1, factor=2, cap=10),
        random=Random(1),
        after_pass=lambda _summary: loop.stop(),
        monotonic=lambda: next(readings),
    )
    with files_that_run() as files:
        loop.wake(api.job["metadata"]["name"])
        loop.run(world.operator.reconcile)
    assert world.status(task) == "completed"
    assert files - tools() == set(steps(END)[1:])
    assert steps(END)[0] == "control/kopf_controller.py"
    assert "runner.loop.wake" in source(steps(END)[0])
