"""The promises of the project about performance.

They are bounds on ratios, counts and memory, not on seconds, which depend on the machine. The two
exceptions have a large margin: the redaction of a message, and a page of `enrollgate web`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Row = Mapping[str, object]
Tables = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Promise:
    """A bound on one column of one table.

    It applies to the rows whose columns equal those of `where`, and to all rows if it is empty.
    """

    description: str
    table: str
    column: str
    at_least: float | None = None
    at_most: float | None = None
    where: Mapping[str, object] = field(default_factory=dict)

    @property
    def bound(self) -> str:
        """Return the bound as text, such as `≥ 50`."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def values(self, tables: Tables) -> list[float]:
        """Return the measured values, or an empty list if nothing was measured."""
        return [
            float(str(row[self.column]))
            for row in tables.get(self.table, [])
            if self.column in row and all(row[key] == value for key, value in self.where.items())
        ]

    def is_kept(self, value: float) -> bool:
        """Return whether the value is within the bound."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


# KEDA at its fastest polling, with more requests to the API server allowed than by default.
KEDA = "KEDA, 1 s, raised limits"


def _promises_on_ratios(
    against: str,
    measure: str,
    at_least: float | None = None,
    at_most: float | None = None,
    loads: tuple[str, ...] = ("burst of 200", "burst of 1,000"),
) -> Iterator[Promise]:
    """Yield a bound on Enrollgate's value divided by that of another system, for each load."""
    for load in loads:
        yield Promise(
            f"{measure[0].upper()}{measure[1:]}, {load}: relative to {against}",
            "peers_ratios",
            "ratio",
            at_least=at_least,
            at_most=at_most,
            where={"against": against, "measure": measure, "load": load},
        )


PROMISES = (
    Promise(
        "An idle pass with 100,000 waiting rows: times faster than one SELECT for each of them",
        "idle",
        "times_faster",
        # By the clock, Python's time included. The database's own time has a promise below.
        at_least=50,
        where={"database": "mariadb", "rows": 1_000_000, "index": True, "waiting": 100_000},
    ),
    Promise(
        "All passes and looks with 100,000 waiting rows: times less of the database's processor "
        "time than one SELECT for each of them every 10 s",
        "idle",
        "times_less_database_time",
        at_least=150,
        where={"database": "mariadb", "rows": 1_000_000, "index": True, "waiting": 100_000},
    ),
    Promise(
        "The operator's memory with a million rows, MB",
        "idle",
        "peak_mb",
        at_most=150,
        where={"rows": 1_000_000},
    ),
    Promise(
        "Statements that claim a burst of 1,000 enrolled rows",
        "burst",
        "claim_statements",
        at_most=20,  # one for each 50 Jobs, which are created while the next ones are claimed
    ),
    Promise(
        "A burst of 1,000 rows with limits per account and per host, relative to one without",
        "limits",
        "relative",
        at_most=1.1,
    ),
    Promise(
        "Statements per launched run, while 100,000 tasks wait for 50 slots",
        "queue",
        "statements_per_run",
        at_most=0.2,
        where={"enrolled": 100_000},
    ),
    Promise(
        "Any page of `enrollgate web` with a million tasks and runs, ms",
        "web",
        "median_ms",
        at_most=200,
    ),
    Promise(
        "Wall time relative to sequential download, then upload",
        "drive_overlap",
        "relative_to_sequential",
        at_most=0.60,
    ),
    Promise(
        "Wall time relative to the bare transfer of the slower side",
        "drive_overlap",
        "relative_to_slower_side",
        at_most=1.05,
    ),
    Promise(
        "Wall time relative to the yt-dlp command, then plain uploads",
        "drive_overlap",
        "relative_to_yt_dlp",
        at_most=0.60,
    ),
    Promise(
        "Requests to the site per lecture",
        "drive_overlap",
        "worker_requests_per_lecture",
        at_most=1.1,
    ),
    Promise(
        "The worker's memory with files of any size, MB",
        "drive_memory",
        "worker_peak_mb",
        at_most=200,
    ),
    Promise(
        "Files missing after 10,000 uploads, while a fifth of all responses are faulty",
        "drive_faults",
        "missing",
        at_most=0,
    ),
    Promise("Files delivered twice, same run", "drive_faults", "duplicated", at_most=0),
    Promise("Corrupt files, same run", "drive_faults", "corrupt", at_most=0),
    Promise("The worker's memory, same run, MB", "drive_faults", "worker_peak_mb", at_most=200),
    Promise(
        "CPU time to redact a message of 1 MB, whatever is in it, ms",
        "redaction",
        "message_ms",
        at_most=100,
    ),
    Promise(
        "CPU time to redact a text of 1 MB and show as much of it as is ever shown, ms",
        "redaction",
        "all_of_it_ms",
        at_most=100,
    ),
    Promise(
        "CPU time to redact a text and show all of it, relative to half the text",
        "redaction",
        "relative_to_half_the_text",
        at_most=3,
    ),
    Promise(
        "CPU time of `enrollgate --version`, relative to `python -c pass`",
        "start",
        "relative_to_python",
        at_most=25,
        where={"command": "enrollgate --version"},
    ),
    Promise(
        "CPU time of `enrollgate status`, relative to `python -c pass`",
        "start",
        "relative_to_python",
        at_most=60,
        where={"command": "enrollgate status"},
    ),
    Promise(
        "Jobs per second from a burst of rows, relative to a bare loop",
        "cluster_burst",
        "relative_to_bare_loop",
        at_least=0.85,
        where={"control_plane_core": "dedicated"},
    ),
    Promise(
        "Rows completed per second when all Jobs finish at once",
        "cluster_burst",
        "rows_completed_per_second",
        at_least=120,
    ),
    Promise(
        "The operator's CPU per 1,000 Jobs launched, s",
        "cluster_burst",
        "cpu_s_per_1000_launched",
        at_most=2.5,
    ),
    Promise(
        "The operator's CPU per 1,000 Jobs finished, s",
        "cluster_burst",
        "cpu_s_per_1000_finished",
        at_most=4,
    ),
    Promise(
        "The operator's memory with up to 10,000 live Jobs, MB",
        "cluster_live",
        "peak_mb",
        at_most=200,
    ),
    Promise(
        "The operator's CPU while 10,000 live Jobs do not change, percent of a core",
        "cluster_live",
        "idle_percent_of_a_core",
        at_most=3,
        where={"live_jobs": 10_000},
    ),
    Promise(
        "The operator's CPU per 1,000 changes of Jobs that need no action, s",
        "cluster_live",
        "cpu_s_per_1000_events",
        at_most=0.3,
    ),
    *_promises_on_ratios("plain loop", "Jobs per second", at_least=0.95),
    *_promises_on_ratios("plain loop", "CPU per 1,000 Jobs launched", at_most=1.3),
    *_promises_on_ratios("plain loop", "rows written back per second", at_least=2),
    *_promises_on_ratios(KEDA, "Jobs per second", at_least=1),
    *_promises_on_ratios(KEDA, "CPU per 1,000 Jobs launched", at_most=1),
    *_promises_on_ratios(KEDA, "p50 from commit to Job", at_most=0.1, loads=("trickle",)),
    Promise(
        "Tasks with two Jobs, or none, after kill -9 in a burst",
        "peers_faults",
        "wrong",
        at_most=0,
        where={"system": "Enrollgate"},
    ),
    Promise(
        "What an operator holds after half an hour of tasks: growth relative to the allowed one",
        "soak",
        "growth_relative_to_allowed",
        at_most=1,
    ),
)


def evaluate(tables: Tables) -> Iterator[tuple[Promise, float, bool]]:
    """Yield each promise about these tables, its worst value, and whether the promise is kept."""
    for promise in PROMISES:
        values = promise.values(tables)
        if values:
            worst = min(values) if promise.at_least is not None else max(values)
            yield promise, worst, promise.is_kept(worst)
