"""Runs every benchmark, prints the tables and writes build/benchmarks.json."""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.databases import ServerAbsent, start_mariadb
from tests.databases.server import fresh_database

from benchmarks.burst import measure_burst
from benchmarks.cluster import control_plane, measure_cluster_burst, measure_delays, measure_live
from benchmarks.drive_faults import measure_drive_faults
from benchmarks.idle import measure_idle
from benchmarks.latency import measure_latency
from benchmarks.overlap import MEGABYTE, measure_memory, measure_overlap

Results = dict[str, list[dict[str, object]]]
"""Tables by title."""
OUTPUT = Path("build/benchmarks.json")
FULL = ((1_000, 10_000, 100_000), 1_000_000)
QUICK = ((100, 1_000), 10_000)


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """A fresh database of each kind, by name. MariaDB is left out, loudly, where there is none."""
    with (
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-") as mine,
        tempfile.TemporaryDirectory(prefix="enrollgate-bench-", ignore_cleanup_errors=True) as theirs,
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
    waiting, rows = QUICK if quick else FULL
    results: Results = {"idle": [], "latency": [], "burst": []}
    for name in ("mariadb", "sqlite"):
        with databases() as urls:
            if name in urls:
                results["idle"] += measure_idle(name, urls[name], waiting, rows)
        with databases() as urls:
            if name in urls:
                results["burst"] += measure_burst(name, urls[name], 100 if quick else 1_000)
        with databases() as urls:
            if name in urls:
                results["latency"] += measure_latency(name, urls[name], 4 if quick else 40)
    return results


def measure_drive(quick: bool) -> Results:
    sizes = (1, 10) if quick else (10, 100, 1000)
    return {
        "drive_overlap": measure_overlap(4, 50 * MEGABYTE) if quick else measure_overlap(40, 20 * MEGABYTE),
        "drive_memory": measure_memory(tuple(size * MEGABYTE for size in sizes)),
        "drive_faults": measure_drive_faults(100 if quick else 10_000),
    }


def measure_cluster(quick: bool) -> Results:
    jobs, tasks, levels = (100, 10, (200, 400)) if quick else (5_000, 200, (1_000, 3_500, 10_000))
    with databases() as urls, control_plane() as cluster:
        url = urls.get("mariadb", urls["sqlite"])
        return {
            "cluster_burst": measure_cluster_burst(cluster, url, jobs),
            "cluster_delays": measure_delays(cluster, url, tasks),
            "cluster_live": measure_live(cluster, url, levels),
        }


SUITES: dict[str, Callable[[bool], Results]] = {
    "databases": measure_databases,
    "drive": measure_drive,
    "cluster": measure_cluster,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="sizes a hundred times smaller: does it run at all?")
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"what to measure; all, if none is named: {', '.join(SUITES)}"
    )
    options = parser.parse_args()
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    for suite in options.suites or SUITES:
        results = SUITES[suite](options.quick)
        keep(results)
        show(results)


def keep(results: Results) -> None:
    """Writes the results beside those of the other suites."""
    OUTPUT.parent.mkdir(exist_ok=True)
    before = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    OUTPUT.write_text(json.dumps(before | results, indent=1))


def show(results: Results) -> None:
    console = Console(width=150)
    for title, rows in results.items():
        table = Table(title=title, title_justify="left")
        for heading in rows[0] if rows else ():
            table.add_column(heading.replace("_", " "), justify="right")
        for row in rows:
            table.add_row(*(f"{value:,.2f}" if isinstance(value, float) else f"{value}" for value in row.values()))
        console.print(table)
    console.print(f"written to {OUTPUT}")


if __name__ == "__main__":
    main()
