"""What the figures must be, for the promises of the project to be kept: bounds on ratios and counts, never on a clock's seconds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Row = Mapping[str, object]
Tables = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Promise:
    """A bound on one column of one table, in the rows that `where` picks out (all, if it is empty)."""

    words: str
    table: str
    column: str
    at_least: float | None = None
    at_most: float | None = None
    where: Mapping[str, object] = field(default_factory=dict)

    def bound(self) -> str:
        """The bound as people write it."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def values(self, tables: Tables) -> list[float]:
        """What was measured; empty if it was not."""
        rows = [
            row
            for row in tables.get(self.table, [])
            if all(row[key] == value for key, value in self.where.items())
        ]
        return [float(str(row[self.column])) for row in rows]

    def is_kept(self, value: float) -> bool:
        """Whether this value keeps it."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


_LARGE = {"database": "mariadb", "rows": 1_000_000, "index": True, "waiting": 100_000}
PROMISES = (
    Promise(
        "An idle pass over 100,000 waiting rows, against one SELECT for each of them",
        "idle",
        "times_less",
        # 100 with the checksums of the backlog, which are removed (docs/decisions/0002): the exact query reads more.
        50,
        where=_LARGE,
    ),
    Promise(
        "The operator's memory at a million rows, MB",
        "idle",
        "peak_MB",
        at_most=150,
        where={"rows": 1_000_000},
    ),
    Promise(
        "Statements that claim a burst of 1,000 enrolled rows",
        "burst",
        "claim_statements",
        at_most=1,
    ),
    Promise(
        "A course's wall time, of downloading all and then uploading all",
        "drive_overlap",
        "of_one_after_the_other",
        at_most=0.60,
    ),
    Promise(
        "A course's wall time, of the slower side's bare transfer",
        "drive_overlap",
        "of_the_slower_side",
        at_most=1.10,
    ),
    Promise(
        "The worker's memory whatever the files' size, MB",
        "drive_memory",
        "worker_peak_mb",
        at_most=200,
    ),
    Promise(
        "10,000 uploads with a fifth of all answers faulty: files missing",
        "drive_faults",
        "missing",
        at_most=0,
    ),
    Promise("... files twice", "drive_faults", "twice", at_most=0),
    Promise("... files corrupt", "drive_faults", "corrupt", at_most=0),
    Promise("... the worker's memory, MB", "drive_faults", "worker_peak_mb", at_most=200),
    Promise(
        "Jobs per second from a burst of rows, of a bare loop's",
        "cluster_burst",
        "of_the_bare_loop",
        0.85,
        where={"control_plane_s_core": "of its own"},
    ),
    Promise(
        "The operator's memory with up to 10,000 live Jobs, MB",
        "cluster_live",
        "peak_mb",
        at_most=300,
    ),
    Promise(
        "What a Job's event costs at each number of live Jobs, of what it costs at 1,000",
        "cluster_live",
        "event_cost_against_the_first",
        at_most=1.5,
    ),
)


def verdicts(tables: Tables) -> Iterator[tuple[Promise, float, bool]]:
    """Every promise about these tables, with the value that is worst for it, and whether it is kept."""
    for promise in PROMISES:
        values = promise.values(tables)
        if values:
            worst = min(values) if promise.at_least is not None else max(values)
            yield promise, worst, promise.is_kept(worst)
