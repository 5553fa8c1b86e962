"""Many live Jobs are observed by their names and statuses; what does not simply live is read."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from kubernetes import client
from tests.job_settings import job_settings

from enrollgate.domain.observation import Phase
from enrollgate.launchers import LauncherUnavailable
from enrollgate.launchers.kubernetes import Api, KubernetesLauncher
from enrollgate.launchers.kubernetes.launcher import FULL_LISTING_INTERVAL, NAMES_FROM

START = datetime(2026, 11, 1, tzinfo=UTC)
NAMES = [f"school-{number}-1" for number in range(1, NAMES_FROM + 1)]
COLUMNS = [{"name": name} for name in ("Name", "Status", "Completions", "Duration", "Age")]


class Cluster(Api):
    """An API server with these Jobs, by name: the status that `kubectl get jobs` prints."""

    def __init__(self) -> None:
        super().__init__(client.Configuration(), random=Random(1), sleep=lambda _seconds: True)
        self.jobs = dict.fromkeys(NAMES, "Running")
        self.tables = self.pod_listings = 0
        self.read: list[str] = []
        self.columns = COLUMNS
        self.page = 200
        self.now = START

    def _send(self, method: str, path: str, query: Any, _body: Any, accept: str, *_: Any) -> Any:
        assert method == "GET"
        if path.endswith(("/pods", "/events")):
            self.pod_listings += path.endswith("/pods")
            return self.answer({"items": []})
        if "/jobs/" in path:
            name = path.rpartition("/")[2]
            self.read.append(name)
            return self.answer(self.job(name)) if name in self.jobs else (404, {}, b"{}")
        if "as=Table" in accept:
            return self.table(query)
        selector = query["labelSelector"]
        names = list(self.jobs)
        if " in (" in selector:
            tasks = selector.partition(" in (")[2].removesuffix(")").split(",")
            names = [name for name in names if name.split("-")[1] in tasks]
        self.read += names
        return self.answer({"items": [self.job(name) for name in names]})

    def table(self, query: dict[str, str]) -> Any:
        self.tables += 1
        assert query["includeObject"] == "None" and query["labelSelector"].endswith(
            ",!enrollgate.io/recorded"
        )
        begin = int(query.get("continue", "0"))
        rows = [{"cells": [*each, "0/1", "", "1s"]} for each in self.jobs.items()]
        page: dict[str, Any] = {"rows": rows[begin : begin + self.page], "metadata": {}}
        if begin + self.page < len(rows):
            page["metadata"]["continue"] = str(begin + self.page)
        if begin == 0:
            page["columnDefinitions"] = self.columns
        return self.answer(page)

    def job(self, name: str) -> dict[str, Any]:
        labels = {"enrollgate.io/installation": "school", "enrollgate.io/claim": f"claim-{name}"}
        metadata = {
            "name": name,
            "uid": f"uid-{name}",
            "labels": labels,
            "creationTimestamp": f"{START:%Y-%m-%dT%H:%M:%SZ}",
        }
        kind = {"Complete": "Complete", "Failed": "Failed"}.get(self.jobs[name])
        conditions = [{"type": kind, "status": "True"}] if kind else []
        return {"metadata": metadata, "status": {"ready": 1, "conditions": conditions}}

    @staticmethod
    def answer(body: object) -> Any:
        return 200, {}, json.dumps(body).encode()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def launcher(cluster: Cluster) -> Iterator[KubernetesLauncher]:
    made = KubernetesLauncher(
        cluster, job_settings(), start_timeout=900, concurrency=4, clock=lambda: cluster.now
    )
    with closing(made):
        made.observe(NAMES)
        assert sorted(cluster.read) == sorted(NAMES) and cluster.tables == 0
        cluster.read.clear()
        yield made


def test_jobs_that_simply_live_are_not_read(cluster: Cluster, launcher: KubernetesLauncher) -> None:
    cluster.jobs[NAMES[3]] = "Suspended"
    seen = launcher.observe(NAMES)
    assert cluster.read == [] and cluster.tables == 3
    assert seen.keys() == set(NAMES) and {each.phase for each in seen.values()} == {Phase.LIVE}


@pytest.mark.parametrize(
    "status",
    ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet", "Terminating", "", None, 7],
)
def test_job_of_any_other_status_is_read(
    cluster: Cluster, launcher: KubernetesLauncher, status: Any
) -> None:
    cluster.jobs[NAMES[7]] = status
    seen = launcher.observe(NAMES)
    assert cluster.read == [NAMES[7]]
    expected = {"Complete": Phase.SUCCEEDED, "Failed": Phase.FAILED}.get(status, Phase.LIVE)
    assert seen[NAMES[7]].phase is expected and seen[NAMES[7]].uid == f"uid-{NAMES[7]}"


def test_finished_jobs_are_read_once_until_they_are_recorded(
    cluster: Cluster, launcher: KubernetesLauncher
) -> None:
    """Thousands that end at once are recorded in several passes."""
    cluster.jobs |= dict.fromkeys(NAMES[:450], "Complete")
    first = launcher.observe(NAMES)
    assert sorted(cluster.read) == sorted(NAMES[:450])
    cluster.read.clear()
    cluster.pod_listings = 0
    # The first ones are recorded, and not labelled yet.
    second = launcher.observe(NAMES[100:])
    assert cluster.read == [] and cluster.pod_listings == 0
    assert {name: second[name] for name in NAMES} == first
    assert first[NAMES[449]].report is not None
    # A focused pass reads what is there now.
    assert launcher.observe(NAMES[449:450], only=True)[NAMES[449]] == first[NAMES[449]]
    assert cluster.read == [NAMES[449]]
    # A new Job has this name now.
    cluster.jobs[NAMES[440]] = "Running"
    assert launcher.observe(NAMES[300:])[NAMES[440]].phase is Phase.LIVE
    # What has been labelled or deleted is gone.
    for name in NAMES[:200]:
        del cluster.jobs[name]
    assert launcher.observe(NAMES[300:]).keys() == set(NAMES[200:])
    assert launcher.observe(NAMES[300:]).keys() == set(NAMES[200:])


def test_missing_and_unexpected_jobs_are_looked_for(
    cluster: Cluster, launcher: KubernetesLauncher
) -> None:
    del cluster.jobs[NAMES[0]]
    cluster.jobs |= {"school-9000-1": "Running", "school-9001-1": "Complete"}
    seen = launcher.observe(NAMES)
    assert NAMES[0] not in seen
    assert seen["school-9000-1"].claim_id == "claim-school-9000-1"
    assert seen["school-9001-1"].phase is Phase.SUCCEEDED
    assert set(cluster.read) == {NAMES[0], "school-9000-1", "school-9001-1"}


@pytest.mark.parametrize("step", [FULL_LISTING_INTERVAL, -FULL_LISTING_INTERVAL])
def test_all_jobs_are_read_after_the_interval(
    cluster: Cluster, launcher: KubernetesLauncher, step: timedelta
) -> None:
    cluster.now += step
    launcher.observe(NAMES)
    assert sorted(cluster.read) == sorted(NAMES) and cluster.tables == 0


def test_few_jobs_are_always_read(cluster: Cluster, launcher: KubernetesLauncher) -> None:
    few = NAMES[:-1]
    del cluster.jobs[NAMES[-1]]
    launcher.observe(few)
    assert sorted(cluster.read) == sorted(few) and cluster.tables == 0


@pytest.mark.parametrize(
    "columns", [[], COLUMNS[:1] + COLUMNS[2:], [{"name": 7}, {}], [COLUMNS[1], COLUMNS[0]]]
)
def test_all_jobs_are_read_where_the_table_has_no_status(
    cluster: Cluster, launcher: KubernetesLauncher, columns: Any
) -> None:
    """Kubernetes before 1.31 prints none; another server may print anything."""
    cluster.columns = columns
    launcher.observe(NAMES)
    assert sorted(cluster.read) == sorted(NAMES)


@pytest.mark.parametrize(
    "row", [{}, {"cells": None}, {"cells": ["a"]}, {"cells": [["a"], "Running"]}]
)
def test_odd_row_of_a_table_leads_to_a_full_listing(
    cluster: Cluster, launcher: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch, row: Any
) -> None:
    page = {"columnDefinitions": COLUMNS, "rows": [row], "metadata": {}}
    monkeypatch.setattr(cluster, "table", lambda _query: Cluster.answer(page))
    launcher.observe(NAMES)
    assert sorted(cluster.read) == sorted(NAMES)


def test_list_in_place_of_a_table_is_no_observation(
    cluster: Cluster, launcher: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a listing must not pass for the whole."""
    monkeypatch.setattr(cluster, "table", lambda _query: Cluster.answer({"items": []}))
    with pytest.raises(LauncherUnavailable, match="not a page"):
        launcher.observe(NAMES)
