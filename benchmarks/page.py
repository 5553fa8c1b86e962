"""Renders docs/benchmarks.md from benchmarks/results.json: `python -m benchmarks.page [--check FILE]`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.docs.generated import print_or_check

from benchmarks.promises import Row, Tables, verdicts

RESULTS = Path(__file__).with_name("results.json")
_INTRODUCTION = """# Benchmarks

`make bench` measures all this (about an hour; `python -m benchmarks databases`, `drive` or `cluster` for one part, `--quick` to see
that it runs), writes `benchmarks/results.json`, prints the tables, and ends with an error if a promise is not kept. What counts are
ratios: both sides are measured side by side in one run, on whatever machine it is. Seconds are there to be compared with each
other, not with yours.

## The promises

The value is the worst of those measured.
"""
_ABOUT = {
    "idle": (
        "An idle pass",
        """\
Nothing happens; so many tasks wait. The old way asked for each of them by one SELECT (the bare driver, one connection). Of
ours the whole pass is measured, Python included. Within a minute one pass is *exact*, and the others take a *glance*
([why](decisions/0002-glance-and-survey.md)); the average is that of a minute at the default interval. SQLite answers a SELECT
within the process, in a microsecond: there the old way was never slow.""",
    ),
    "burst": (
        "A burst of enrolled rows",
        "One pass that finds them all, up to the launcher (in memory).",
    ),
    "latency": (
        "Row enrolled to worker started",
        """\
From the commit of `enrolled` to the worker's process, in local mode, rows at random phases of the check interval: on
average half the interval, at most all of it, and the start of a process.""",
    ),
    "drive_overlap": (
        "Download and upload overlap",
        """\
A course of lectures of 1 to 50 MB, from a site to a Drive, both as fast as the table says. The bare transfers move the
same bytes in one direction, and nothing else.""",
    ),
    "drive_memory": (
        "The worker's memory",
        "Three files of each size, as fast as the wire allows.",
    ),
    "drive_faults": (
        "Uploads to a Drive with faults",
        """\
The product's own worker, with its retry_policy and a run's three tries; only the pauses are cut short. Answers are dropped, cut,
late, refused, or lost after the fact.""",
    ),
    "cluster_burst": (
        "Jobs from a burst of rows",
        """\
On a real etcd, kube-apiserver and kube-controller-manager. The bare loop creates the same Jobs by the same client, with as
many requests at once. The operator's time begins with the commit of the rows and ends with the last Job in a watch. In life the
control plane has machines of its own; here it has a core of its own, and the operator (or the bare loop) the rest. Where all share
what there is, the watch of the new Jobs and the pods that the Job controller makes meanwhile take from the operator's time.""",
    ),
    "cluster_delays": (
        "How soon things are noticed",
        "A row is seen within the check interval. The end of a Job is told by the watch, whatever the interval.",
    ),
    "cluster_live": (
        "Many live Jobs",
        """\
The operator is begun anew at each level. An event is a change of a Job that means nothing; a finished Job is read, recorded
and labelled, and its row moved. Steady: the default interval, and nothing happens.""",
    ),
}


def page() -> str:
    """The page as Markdown."""
    results = json.loads(RESULTS.read_text())
    tables: Tables = {
        name: rows for suite in results.values() for name, rows in suite["tables"].items()
    }
    promises: list[Row] = [
        {
            "promise": promise.words,
            "bound": promise.bound(),
            "measured": value,
            "kept": "yes" if kept else "**no**",
        }
        for promise, value, kept in verdicts(tables)
    ]
    parts = [_INTRODUCTION, _table(promises)]
    for name, rows in tables.items():
        title, about = _ABOUT[name]
        parts.append(f"\n## {title}\n\n{about}\n\n{_table(rows)}")
    parts.append("\n## Where and when\n")
    parts.append(_table([{"suite": name} | suite["where"] for name, suite in results.items()]))
    parts.append("\nThis page is generated from benchmarks/results.json: `make docs`.")
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Row]) -> str:
    headings = list(rows[0])
    lines = ["| " + " | ".join(heading.replace("_", " ") for heading in headings) + " |"]
    lines.append(
        "| "
        + " | ".join("---" if _is_text(rows[0][heading]) else "---:" for heading in headings)
        + " |"
    )
    lines += ["| " + " | ".join(_cell(row[heading]) for heading in headings) + " |" for row in rows]
    return "\n".join(lines)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(print_or_check(page(), sys.argv[1:]))
