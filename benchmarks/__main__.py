"""Run every benchmark, print tables and promises, and write benchmarks/results.json.

docs/benchmarks.md is generated from that file. The exit code is 1 if a promise is not kept. A
quick run shows that the benchmarks work, and writes to build/ only.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.cluster.control_plane import Cluster, ControlPlaneAbsent
from tests.databases import ServerAbsent, start_mariadb
from tests.databases.server import fresh_database

from benchmarks.burst import measure_burst
from benchmarks.cluster import control_plane, measure_cluster_burst, measure_delays, measure_live
from benchmarks.drive_faults import measure_drive_faults
from benchmarks.idle import measure_idle
from benchmarks.latency import measure_latency
from benchmarks.overlap import MEGABYTE, measure_memory, measure_overlap
from benchmarks.page import RESULTS, build_heading
from benchmarks.peers.suite import FINDERS as PEERS
from benchmarks.peers.suite import FULL as PEERS_PLAN
from benchmarks.peers.suite import measure_peers
from benchmarks.promises import evaluate
from benchmarks.queue import measure_limits, measure_queue
from benchmarks.redaction import measure_redaction
from benchmarks.soak import measure_soak
from benchmarks.start import measure_start
from benchmarks.web import measure_web

# Tables by name.
Results = dict[str, Sequence[Mapping[str, object]]]
QUICK_RESULTS = Path("build/benchmarks.json")
# Numbers of waiting rows, and the number of all rows.
FULL = ((1_000, 10_000, 100_000), 1_000_000)
QUICK = ((100, 1_000), 10_000)
# Jobs of a burst: twice as many as those of the peers.
BURST = 2_000


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """Yield a fresh database of each kind, by name. Without MariaDB a warning is printed."""
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as mine,
        tempfile.TemporaryDirectory(
            prefix="enrollgate-bench-", ignore_cleanup_errors=True
        ) as theirs,
    ):
        sqlite = f"sqlite:///{Path(mine) / 'bench.db'}"
        try:
            server = start_mariadb(Path(theirs))
        except ServerAbsent as error:
            Console(stderr=True).print(f"[red]MariaDB is not measured: {error}[/]")
            yield {"sqlite": sqlite}
            return
        try:
            with fresh_database(server.url("")) as mariadb:
                yield {"mariadb": mariadb, "sqlite": sqlite}
        finally:
            server.kill()


def measure_databases(quick: bool) -> Results:
    """Measure idle passes, a burst and the latency, on each kind of database."""
    waiting, rows = QUICK if quick else FULL
    results: dict[str, list[dict[str, object]]] = {"idle": [], "latency": [], "burst": []}
    for name in ("mariadb", "sqlite"):
        with databases() as urls:
            if name in urls:
                results["idle"] += measure_idle(name, urls[name], waiting, rows)
        with databases() as urls:
            if name in urls:
                results["burst"] += measure_burst(name, urls[name], 100 if quick else 1_000)
        with databases() as urls:
            if name in urls:
                results["latency"] += measure_latency(
                    name, urls[name], 4 if quick else 100, rows, max(waiting)
                )
    return dict(results)


def measure_order(quick: bool) -> Results:
    """Measure a long queue and the limits, on each kind of database."""
    found: dict[str, list[dict[str, object]]] = {"queue": [], "limits": []}
    sizes = ((10_000, 1_000),) if quick else ((100_000, 10_000), (1_000_000, 100_000))
    with databases() as urls:
        for name, url in urls.items():
            found["limits"] += measure_limits(name, url, 200 if quick else 1_000)
            for rows, enrolled in sizes:
                found["queue"] += measure_queue(name, url, rows, enrolled)
    return dict(found)


def measure_pages(quick: bool) -> Results:
    """Measure the pages of `enrollgate web`, on each kind of database."""
    rows = QUICK[1] if quick else FULL[1]
    found: list[dict[str, object]] = []
    with databases() as urls:
        for name, url in urls.items():
            found += measure_web(name, url, rows)
    return {"web": found}


def measure_drive(quick: bool) -> Results:
    """Measure the worker between a site and a Drive."""
    sizes = (1, 10) if quick else (10, 100, 1000)
    return {
        "drive_memory": measure_memory(tuple(size * MEGABYTE for size in sizes)),
        "drive_faults": measure_drive_faults(100 if quick else 10_000),
    }


def measure_transfers(quick: bool) -> Results:
    """Measure how a worker overlaps download and upload. The course is as long as most are."""
    lectures, rate = (4, 50 * MEGABYTE) if quick else (120, 30 * MEGABYTE)
    return {"drive_overlap": measure_overlap(lectures, rate)}


def measure_burst_of_jobs(quick: bool) -> Results:
    """Measure bursts of Jobs, if there is a control plane."""
    return _on_a_cluster(
        lambda cluster, url: {
            "cluster_burst": measure_cluster_burst(cluster, url, 100 if quick else BURST)
        }
    )


def measure_notice(quick: bool) -> Results:
    """Measure how soon the operator acts on a change, if there is a control plane."""
    waiting, rows = (1_000, 10_000) if quick else (100_000, 1_000_000)
    return _on_a_cluster(
        lambda cluster, url: {
            "cluster_delays": measure_delays(cluster, url, 10 if quick else 100, waiting, rows)
        }
    )


def measure_live_jobs(quick: bool) -> Results:
    """Measure the operator's cost with many live Jobs, if there is a control plane."""
    levels = (200, 400) if quick else (1_000, 3_500, 10_000)
    return _on_a_cluster(lambda cluster, url: {"cluster_live": measure_live(cluster, url, levels)})


def _on_a_cluster(measure: Callable[[Cluster, str], Results]) -> Results:
    """Measure on a control plane of its own, which takes its leftovers with it when it ends."""
    try:
        with databases() as urls, control_plane() as cluster:
            return measure(cluster, urls.get("mariadb", urls["sqlite"]))
    except ControlPlaneAbsent as error:
        Console(stderr=True).print(f"[red]Nothing is measured on a cluster: {error}[/]")
        return {}


def measure_side_by_side(quick: bool, kinds: Sequence[str], rounds: int) -> Results:
    """Measure Enrollgate and its peers, if there are a control plane and MariaDB.

    `kinds` names the systems; the stored results of the others are kept.
    """
    try:
        return dict(measure_peers(quick, kinds, rounds))
    except (ControlPlaneAbsent, ServerAbsent) as error:
        Console(stderr=True).print(f"[red]No peer is measured: {error}[/]")
        return {}


SUITES: dict[str, Callable[[bool], Results]] = {
    "databases": measure_databases,
    "queue": measure_order,
    "web": measure_pages,
    "drive": measure_drive,
    "overlap": measure_transfers,
    "redaction": lambda _quick: {"redaction": measure_redaction()},
    "start": lambda _quick: {"start": measure_start()},
    "delays": measure_notice,
    "bursts": measure_burst_of_jobs,
    "live": measure_live_jobs,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suites that the arguments name, by default those of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run the benchmarks and check their promises."
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check that the benchmarks work: use small sizes, write to build/ only, "
        "and do not fail if a promise is not kept",
    )
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="SUITE",
        help=f"one of {', '.join(SUITES)}, peers and soak (default: all but peers)",
    )
    parser.add_argument(
        "--minutes", type=float, help="how long the soak lasts (default: 30; with --quick: 1)"
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=PEERS,
        default=tuple(PEERS),
        help="which systems the suite peers measures (default: all)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=PEERS_PLAN.rounds,
        help="how often the suite peers measures what it compares "
        f"(default: {PEERS_PLAN.rounds}; with --quick: 1)",
    )
    options = parser.parse_args(arguments)
    minutes = options.minutes or (1 if options.quick else 30)
    suites = SUITES | {
        "soak": lambda _quick: {"soak": measure_soak(minutes)},
        "peers": lambda quick: measure_side_by_side(quick, options.systems, options.rounds),
    }
    unknown = set(options.suites) - set(suites)
    if unknown:
        parser.error(
            f"unknown suite: {', '.join(sorted(unknown))}; choose from {', '.join(suites)}"
        )
    broken = 0
    for suite in options.suites or (*SUITES, "soak"):
        results = suites[suite](options.quick)
        if results:
            save(suite, results, QUICK_RESULTS if options.quick else RESULTS)
            print_tables(results)
            broken += print_promises(results)
    sys.exit(1 if broken and not options.quick else 0)


def save(suite: str, results: Results, path: Path) -> None:
    """Write the results into the file, and keep those of the other suites."""
    path.parent.mkdir(exist_ok=True)
    before = json.loads(path.read_text()) if path.exists() else {}
    suite_results = {"environment": describe_environment(), "tables": results}
    path.write_text(json.dumps(before | {suite: suite_results}, indent=1) + "\n")


def describe_environment() -> dict[str, object]:
    """Return the date, the machine and the version of Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def print_promises(results: Results) -> int:
    """Print the promises about these tables. Returns how many are not kept."""
    broken = 0
    for promise, value, kept in evaluate(results):
        broken += not kept
        print(
            f"{'kept  ' if kept else 'BROKEN'}  {value:10,.2f} {promise.bound:>8}  "
            f"{promise.description}"
        )
    return broken


def print_tables(results: Results) -> None:
    console = Console(width=150)
    for title, rows in results.items():
        table = Table(title=title, title_justify="left")
        for column in rows[0] if rows else ():
            table.add_column(build_heading(column), justify="right")
        for row in rows:
            table.add_row(
                *(
                    f"{value:,.2f}" if isinstance(value, float) else f"{value}"
                    for value in row.values()
                )
            )
        console.print(table)


if __name__ == "__main__":
    main()
