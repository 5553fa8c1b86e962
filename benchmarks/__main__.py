"""Runs every benchmark, prints the tables and writes build/benchmarks.json."""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.databases import ServerAbsent, start_mariadb
from tests.databases.server import fresh_database

from benchmarks.burst import measure_burst
from benchmarks.drive_faults import measure_drive_faults
from benchmarks.idle import measure_idle
from benchmarks.latency import measure_latency

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="sizes a hundred times smaller: does it run at all?")
    options = parser.parse_args()
    waiting, rows = QUICK if options.quick else FULL
    results: dict[str, list[dict[str, object]]] = {"idle": [], "latency": [], "burst": []}
    for name in ("mariadb", "sqlite"):
        with databases() as urls:
            if name in urls:
                results["idle"] += measure_idle(name, urls[name], waiting, rows)
        with databases() as urls:
            if name in urls:
                results["burst"] += measure_burst(name, urls[name], 100 if options.quick else 1_000)
        with databases() as urls:
            if name in urls:
                results["latency"] += measure_latency(name, urls[name], 4 if options.quick else 40)
    results["drive_faults"] = measure_drive_faults(100 if options.quick else 10_000)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(results, indent=1))
    show(results)


def show(results: dict[str, list[dict[str, object]]]) -> None:
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
