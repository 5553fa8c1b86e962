"""The operator accepts what the chart renders: its settings are loaded from the variables."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
from tests.chart.rendering import EVERYTHING, container_settings, one, render

from enrollgate.settings.loading import load_settings
from enrollgate.settings.operator import Settings
from enrollgate.settings.sources import PREFIX

LEAST = {
    "database": {"existingSecret": "courses-database"},
    "destination": "directory:/courses",
    "destinationVolume": {"existingClaim": "courses"},
}


def _everything_but_drive() -> dict[str, Any]:
    values = copy.deepcopy(EVERYTHING) | {"destination": "directory:/courses", "drive": {}}
    values["destinationVolume"] = {"existingClaim": "courses"}
    for name in (
        "downloads",
        "uploads",
        "downloadRate",
        "uploadRate",
        "maxRetryAfter",
        "minDownloadRate",
    ):
        del values["worker"][name]
    return values


def _loaded(values: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    container = one(render(folder, values), "Deployment")["spec"]["template"]["spec"]["containers"][
        0
    ]
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in container_settings(container).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENROLLGATE_DATABASE_URL", "mysql://u:p@db:3306/courses")
    return load_settings()


def test_the_defaults_of_the_chart_are_those_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _loaded(LEAST, tmp_path, monkeypatch)
    different = {
        name
        for name, field in Settings.model_fields.items()
        if name not in ("database", "kubernetes", "web") and getattr(loaded, name) != field.default
    }

    assert different == {
        "database_url",
        "destination",
        "http_address",
        "http_port",
        "installation",
        "launcher",
        "log_format",
        "work_dir",
    }


def test_every_value_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = _loaded(_everything_but_drive(), tmp_path, monkeypatch)

    assert loaded.enrollment_timeout == 1_000_000
    assert loaded.check_interval == 2.5
    assert loaded.run_timeout == 12 * 3600
    assert list(loaded.download_command) == EVERYTHING["downloadCommand"]
    assert list(loaded.allowed_hosts) == EVERYTHING["allowedHosts"]
    assert loaded.statuses().waiting == ("new", "paying")
    assert loaded.task_columns().table == "school.tasks"
    assert loaded.installation == "night-school"
    assert loaded.http_port == 9090
    kubernetes = loaded.kubernetes
    assert (
        kubernetes.image
        == f"registry.example.com:5000/mirror/team/enrollgate@{EVERYTHING['image']['digest']}"
    )
    assert kubernetes.scratch_volume == 20 * 2**30
    assert kubernetes.leader_election
    assert (kubernetes.cookies_secret, kubernetes.destination_claim) == ("cookies", "courses")
    assert (kubernetes.lease_name, kubernetes.lease_duration) == ("night", 20)
    assert kubernetes.deployment == "night"
    assert not loaded.database.tls_verify_hostname


@pytest.mark.parametrize(
    ("volume", "limit"),
    [("20MiB", "19MiB"), ("1.1GB", "1GiB"), (2**31, "2147483647"), ("", ""), ("2 T", "1.8TiB")],
)
def test_a_scratch_volume_above_the_limit_is_taken(
    volume: str | int, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chart and the settings compare sizes alike (test_refusals.py has the refused ones)."""
    values = LEAST | {"worker": {"scratchVolume": volume, "scratchLimit": limit}}

    loaded = _loaded(values, tmp_path, monkeypatch)

    assert loaded.kubernetes.scratch_volume > loaded.scratch_limit
