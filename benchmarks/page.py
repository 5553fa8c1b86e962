"""Write docs/benchmarks.md from benchmarks/results.json.

Run `python -m benchmarks.page [--check FILE]`. It runs no benchmark: `make bench` runs them and
writes the results.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.docs.generated import print_or_check

from benchmarks.promises import Row, Tables, evaluate

RESULTS = Path(__file__).with_name("results.json")
_INTRODUCTION = """# Benchmarks

`make bench` runs all benchmarks but `peers` (about an hour and a half), writes
`benchmarks/results.json` and prints the tables. It fails if a promise is not kept.
`make bench-peers` does the same for `peers` (about 80 minutes). To run one part, use
`python -m benchmarks` with `databases`, `queue`, `web`, `drive`, `overlap`, `redaction`, `start`,
`delays`, `bursts`, `live`, `peers` or `soak`; `--minutes` says how long the soak lasts.
With `--quick` it only checks that they run.

Ratios matter: both sides are measured in the same run, on the same machine. Compare the seconds
of this page with each other, not with seconds on your machine.

## The promises

Each value is the worst one measured.
"""
# Titles and descriptions of the tables.
_ABOUT = {
    "idle": (
        "An idle pass",
        """\
Nothing changes while this many tasks wait, and all of them are tracked. The operator makes a full
pass: it reads the whole backlog by one exact query
([why](decisions/0002-one-exact-backlog-query.md)). The old worker sent one SELECT for each waiting
task; here they go through the bare driver, on one connection.

The first times include Python's. The database's time is the processor time of the server, for a
pass, for all SELECTs and for a look. The last ratio is that of the old worker's round every 10
seconds, divided by all that the operator asks in 10 seconds by default. SQLite answers a
SELECT within the process, in a few microseconds. So one SELECT per task was never slow there.""",
    ),
    "burst": (
        "A burst of enrolled rows",
        "One pass finds and claims them all. The launcher keeps the runs in memory.",
    ),
    "latency": (
        "Row enrolled to worker started",
        """\
The time from the commit of `enrolled` to the start of the worker's process, in local mode with the
default settings, and to the launch as it is recorded. The rows change at random points. A look at
the gate finds them, so the check interval has no part in it.""",
    ),
    "queue": (
        "A long queue",
        """\
Tasks of 1,000 accounts wait for 50 slots, which become free all at once. The accounts take turns,
so the queue is ranked; the ranking reads all of it. What it finds fills the next slots, too, so
most refills need none.""",
    ),
    "limits": (
        "Limits per account and per host",
        "A pass over a burst, without and with both limits, in turns. The limits allow all runs.",
    ),
    "web": (
        "The page",
        """\
Each page of `enrollgate web` with a million tasks, a tenth of them waiting, and a run of each other
one. Its own process, over HTTP. The first request also compiles the template and connects.""",
    ),
    "drive_overlap": (
        "Download and upload overlap",
        """\
A course with lectures of 1 to 50 MB goes from a site to a Drive. The bandwidth of both is in the
table. The bare transfers move the same bytes in one direction and do nothing else. yt-dlp is its
command with its defaults, followed by one plain upload per file.

This row is of 28 November 2026. The worker also checks every file to its end, which costs CPU. Its
start, the first file and the last one take a few seconds in any course.""",
    ),
    "drive_memory": (
        "The worker's memory",
        "Three files of each size, without a bandwidth limit.",
    ),
    "drive_faults": (
        "Uploads to a Drive with faults",
        """\
The product's worker with its own retry policy and a run's three attempts. Only the pauses are
shorter. The Drive drops, truncates, delays or refuses responses, or loses them later.""",
    ),
    "redaction": (
        "Redaction of output",
        """\
CPU time for 1 MB from a site or a download command. A message is cut to 1,000 characters. No
program's output is shown whole: that column shows that the time is linear in the text.""",
    ),
    "start": (
        "Start of a command",
        """\
CPU time until a command has answered, on a small SQLite file, and that of `python -c pass`.""",
    ),
    "cluster_burst": (
        "Jobs from a burst of rows",
        """\
On a real etcd, kube-apiserver and kube-controller-manager. The bare loop creates the same Jobs with
the same client and the same number of parallel requests. The operator's time starts with the commit
of the rows and ends with the last Job in a watch. In production the control plane has its own
machines. Here it has its own core, and the operator (or the bare loop) has the other cores. If
they share all cores, the Job controller and the watch also take time from the operator.

Then all Jobs finish while the operator is stopped (SIGSTOP). Rows completed per second: from when
it goes on to the last row. The CPU times are the operator's own, Events and labels included.""",
    ),
    "cluster_delays": (
        "Time until a change is noticed",
        """\
A look at the gate finds an enrolled row. The watch reports the end of a Job. The check interval has
no part in either.""",
    ),
    "cluster_live": (
        "Many live Jobs",
        """\
The operator is restarted at each level. An event is a change to a Job that needs no reaction. A
finished Job is read, recorded and labelled, and its row is updated. Idle: the default interval, and
nothing changes.""",
    ),
    "peers_ratios": (
        "Beside other ways to turn rows into Jobs: ratios",
        """\
Enrollgate's value divided by the other system's, both from the same run: medians of three rounds.
The next five tables have the values themselves. All systems run on the same etcd, API server and
Job controller, the same MariaDB, with the same Job and the same pods, one at a time, on shared
cores. One watch with one clock measures all of them: the k-th Job belongs to the k-th commit.
`make bench-peers` repeats it; `benchmarks/peers` is the source.""",
    ),
    "peers_systems": (
        "The systems",
        """\
Each has its best documented configuration. KEDA is built from its Go module, and Prefect is
installed from its packages. A system that a machine cannot run keeps its last values and date.""",
    ),
    "peers_launches": (
        "From the commit of a row to its Job",
        """\
A trickle: rows become `enrolled` one by one, at random moments up to half a second apart. A burst:
all in one commit. Twice: surplus Jobs. Lost: rows without a Job after ten minutes. The CPU time is
that of the system's own processes until three seconds after the last Job; their peaks of memory are
added up. In a trickle, it contains all idle work of that time.""",
    ),
    "peers_write_back": (
        "From a finished Job to its row",
        """\
The Jobs of the table above end, one by one or all at once. The time of one row counts from the
moment that the watch shows its Job as complete, and the rows per second from the moment that pods
begin to end. KEDA and Prefect are missing, since neither writes to the table.""",
    ),
    "peers_rest": (
        "At rest, while rows wait",
        """\
Nothing happens. Commands are all that MariaDB counts, pings included.""",
    ),
    "peers_faults": (
        "Faults",
        """\
`kill -9` hits the process that creates Jobs when a third of a burst has Jobs; it is started again
at once. The second fault is KEDA's alone: there, the pod marks its row. If it does so after the Job
has ended, KEDA takes the row for one more to do.""",
    ),
    "soak": (
        "Soak",
        """\
One operator in local mode on MariaDB. Every five seconds Node.js adds a task; of ten, one is
failed, one deleted and one renamed to an unknown status, perhaps while it runs. /metrics is read
every two seconds. The first fifth of the time does not count. Start and end are the means of the
first and the last tenth of the samples. The growth is that of a straight line through all samples.
It may be 5% of the memory, and 1 of everything else.""",
    ),
}
# Headings that are not simply the column's name.
_HEADINGS = {
    "control_plane_core": "core of the control plane",
    "faulty_share": "share of faulty responses",
    "cpu_s_per_1000": "CPU s per 1,000",
    "cpu_s_per_1000_events": "CPU s per 1,000 events",
    "cpu_s_per_1000_finished": "CPU s per 1,000 finished",
    "cpu_s_per_1000_launched": "CPU s per 1,000 launched",
    "database_commands_per_second": "database commands per second",
    "database_percent_of_a_core": "database % of a core",
    "enrollgate": "Enrollgate",
    "not_comparable": "not comparable",
    "relative_to_bare_loop": "relative to the bare loop",
    "relative_to_slower_side": "relative to the slower side",
    "system_percent_of_a_core": "system % of a core",
    "to_job_p50_s": "to Job p50 s",
    "to_job_p99_s": "to Job p99 s",
    "to_row_p50_s": "to row p50 s",
    "to_row_p99_s": "to row p99 s",
    "relative_to_yt_dlp": "relative to yt-dlp",
    "select_per_task_ms": "one SELECT per task ms",
    "worker_cpu_s_per_gb": "worker CPU s per GB",
    "yt_dlp_cpu_s_per_gb": "yt-dlp CPU s per GB",
    "yt_dlp_requests_per_lecture": "yt-dlp requests per lecture",
    "yt_dlp_s": "yt-dlp s",
}


def page() -> str:
    """Return the page as Markdown."""
    results = json.loads(RESULTS.read_text())
    tables: Tables = {
        name: rows for suite in results.values() for name, rows in suite["tables"].items()
    }
    promises: list[Row] = [
        {
            "promise": promise.description,
            "bound": promise.bound,
            "measured": value,
            "kept": "yes" if kept else "**no**",
        }
        for promise, value, kept in evaluate(tables)
    ]
    parts = [_INTRODUCTION, _table(promises)]
    for name, rows in tables.items():
        title, about = _ABOUT[name]
        parts.append(f"\n## {title}\n\n{about}\n\n{_table(rows)}")
    parts.append("\n## Machines and dates\n")
    parts.append(
        _table([{"suite": name} | suite["environment"] for name, suite in results.items()])
    )
    parts.append("\nThis page is generated from benchmarks/results.json: run `make docs`.")
    return "\n".join(parts) + "\n"


def build_heading(column: str) -> str:
    """Return the heading of a column, as people read it."""
    words = _HEADINGS.get(column, column.replace("_", " "))
    return words.replace(" mb", " MB")


def _table(rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    headings = [build_heading(column) for column in columns]
    numeric = [not isinstance(rows[0][column], str) for column in columns]
    lines = ["| " + " | ".join(headings) + " |"]
    lines += ["| " + " | ".join("---:" if right else "---" for right in numeric) + " |"]
    lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(print_or_check(page(), sys.argv[1:]))
