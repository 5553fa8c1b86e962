"""Measure all systems, compare them, and keep the stored results of systems that are absent."""

import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from subprocess import SubprocessError

from rich.console import Console
from tests.databases import start_mariadb
from tests.databases.server import fresh_database
from urllib3.exceptions import HTTPError

from benchmarks.cluster import control_plane
from benchmarks.page import RESULTS
from benchmarks.peers import keda, loop, ours, prefect
from benchmarks.peers.harness import (
    Row,
    Stage,
    measure_kill,
    measure_load,
    measure_rest,
    median_row,
)
from benchmarks.peers.load import Load
from benchmarks.peers.system import PeerAbsent, System
from enrollgate.launchers import LauncherRefused, LauncherUnavailable
from enrollgate.launchers.kubernetes import ApiError

Tables = dict[str, list[Row]]
# Each finds the systems of one kind, or raises PeerAbsent.
FINDERS: Mapping[str, Callable[[], list[System]]] = {
    "Enrollgate": ours.systems,
    "plain loop": loop.systems,
    "KEDA": keda.systems,
    "Prefect": prefect.systems,
}


@dataclass(frozen=True)
class Plan:
    """The sizes of the measurements. `rounds`: how often a system is measured to which a ratio is
    computed; the others are measured once.
    """

    loads: tuple[Load, ...]
    rounds: int
    waiting: int
    rest_seconds: float
    killed_rows: int
    # Whether a kind of system is measured in all its configurations, or in the first one only.
    every_configuration: bool


FULL = Plan(
    (Load(100, gap=0.5), Load(200), Load(1_000)), 3, 10_000, 30.0, 200, every_configuration=True
)
QUICK = Plan((Load(10, gap=0.5), Load(50)), 1, 1_000, 5.0, 30, every_configuration=False)


def measure_peers(quick: bool, kinds: Collection[str], rounds: int) -> Tables:
    """Measure the systems of these kinds, one at a time. A system that fails is left out.

    `rounds` is that of `Plan`; a quick run makes one.

    Raises ControlPlaneAbsent and ServerAbsent.
    """
    plan = QUICK if quick else replace(FULL, rounds=rounds)
    systems, absent = find_systems(kinds, plan.every_configuration)
    failed = dict[str, str]()
    tables: Tables = {
        "peers_launches": [],
        "peers_write_back": [],
        "peers_rest": [],
        "peers_faults": [],
    }
    with _stage() as stage:
        for load in plan.loads:
            _measure_rounds(stage, systems, load, plan.rounds, tables, failed)
        for system in (each for each in systems if each.name not in failed):
            with _noting_failure(system, failed):
                _say(f"{system.name}: at rest, and killed")
                tables["peers_rest"].append(
                    measure_rest(stage, system, plan.waiting, plan.rest_seconds)
                )
                tables["peers_faults"].append(measure_kill(stage, system, plan.killed_rows))
                if not system.writes_back and system.is_compared:
                    tables["peers_faults"].append(keda.measure_late_mark(stage, system, 5, 3.0))
    tables = {
        "peers_ratios": compare(tables, systems),
        "peers_systems": [describe(system, failed) for system in systems],
        **tables,
    }
    stored = json.loads(RESULTS.read_text()).get("peers", {}).get("tables", {})
    kept = keep_absent(tables, stored, absent)
    return {name: rows for name, rows in kept.items() if rows}


def find_systems(
    kinds: Collection[str], every_configuration: bool
) -> tuple[list[System], dict[str, str]]:
    """Return the systems of these kinds that can be measured here, and why others are not."""
    systems, absent = list[System](), {}
    for kind, find in FINDERS.items():
        if kind not in kinds:
            absent[kind] = "left out by --systems"
            continue
        try:
            found = find()
            systems += found if every_configuration else found[:1]
        except PeerAbsent as error:
            absent[kind] = str(error)
            _say(f"[red]{kind} is not measured: {error}[/]")
    return systems, absent


@contextmanager
def _stage() -> Iterator[Stage]:
    with (
        tempfile.TemporaryDirectory(
            prefix="enrollgate-bench-", ignore_cleanup_errors=True
        ) as folder,
        control_plane() as cluster,
    ):
        server = start_mariadb(Path(folder))
        try:
            with fresh_database(server.url("")) as url:
                yield Stage(cluster, server, url)
        finally:
            server.kill()


@contextmanager
def _noting_failure(system: System, failed: dict[str, str]) -> Iterator[None]:
    """Note why a system failed, and go on with the others."""
    try:
        yield
    except (
        AssertionError,
        OSError,
        ApiError,
        LauncherUnavailable,
        LauncherRefused,
        SubprocessError,
        HTTPError,
    ) as error:
        failed[system.name] = f"{type(error).__name__}: {error}"[:500]
        _say(f"[red]{system.name} failed: {failed[system.name]}[/]")


def _measure_rounds(
    stage: Stage,
    systems: Sequence[System],
    load: Load,
    rounds: int,
    tables: Tables,
    failed: dict[str, str],
) -> None:
    """Measure one load. Every second round goes backwards, so that none always comes last."""
    launches: dict[str, list[Row]] = {}
    writes: dict[str, list[Row]] = {}
    for number in range(rounds):
        for system in systems[:: -1 if number % 2 else 1]:
            if (number and not system.is_compared) or system.name in failed:
                continue
            _say(f"{system.name}: {load.name}, round {number + 1}")
            with _noting_failure(system, failed):
                launched, written = measure_load(stage, system, load)
                launches.setdefault(system.name, []).append(launched)
                if written is not None:
                    writes.setdefault(system.name, []).append(written)
    tables["peers_launches"] += map(median_row, launches.values())
    tables["peers_write_back"] += map(median_row, writes.values())


def _say(text: str) -> None:
    Console(stderr=True).print(f"{datetime.now(UTC):%H:%M:%S} {text}")


def describe(system: System, failed: Mapping[str, str]) -> Row:
    """Say what was measured, and when, or why it failed."""
    return {
        "system": system.name,
        "version": system.version,
        "settings": system.settings,
        "not_comparable": system.not_comparable,
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
        "state": f"failed: {failed[system.name]}" if system.name in failed else "measured",
    }


# What is compared: the table, the column, and how the ratio is called.
_COMPARED = (
    ("peers_launches", "jobs_per_second", "Jobs per second"),
    ("peers_launches", "cpu_s_per_1000", "CPU per 1,000 Jobs launched"),
    ("peers_launches", "to_job_p50_s", "p50 from commit to Job"),
    ("peers_write_back", "rows_per_second", "rows written back per second"),
    ("peers_write_back", "cpu_s_per_1000", "CPU per 1,000 rows written back"),
    ("peers_write_back", "to_row_p50_s", "p50 from finished to row"),
)


def compare(tables: Mapping[str, Sequence[Row]], systems: Sequence[System]) -> list[Row]:
    """Divide the first system's values by those of each other compared one, load by load."""
    mine, *others = [system.name for system in systems if system.is_compared]
    ratios = list[Row]()
    for other in others:
        for table, column, measure in _COMPARED:
            values = {(str(row["system"]), str(row["load"])): row[column] for row in tables[table]}
            for (name, load), value in values.items():
                own = float(str(values.get((mine, load), 0)))
                if name == other and own and value:
                    ratios.append(
                        {
                            "against": other,
                            "measure": measure,
                            "load": load,
                            "enrollgate": own,
                            "other": float(str(value)),
                            "ratio": own / float(str(value)),
                        }
                    )
    return ratios


def keep_absent(
    tables: Tables, stored: Mapping[str, Sequence[Row]], absent: Mapping[str, str]
) -> Tables:
    """Add the stored rows of systems that could not be measured now; `peers_systems` says why."""
    kept = {name: list(rows) for name, rows in tables.items()}
    for kind, error in absent.items():
        for name, rows in stored.items():
            column = "against" if name == "peers_ratios" else "system"
            kept[name] += [dict(row) for row in rows if str(row[column]).startswith(kind)]
        described = [
            row
            for row in kept["peers_systems"]
            if str(row["system"]).startswith(kind) and row["state"] == "measured"
        ] or [
            {
                "system": kind,
                "version": "",
                "settings": "",
                "not_comparable": "",
                "measured": f"{datetime.now(UTC):%Y-%m-%d}",
                "state": f"not measured: {error}",
            }
        ]
        others = [row for row in kept["peers_systems"] if not str(row["system"]).startswith(kind)]
        kept["peers_systems"] = others + described
    return kept
