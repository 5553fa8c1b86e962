"""The operator's metrics for Prometheus, in a registry of our own.

Code counts where something happens; `telemetry.http` serves the registry.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

TASKS = Gauge("enrollgate_tasks", "Open tasks at the last full pass.", ["state"], registry=REGISTRY)
RUNS_UNFINISHED = Gauge(
    "enrollgate_runs_unfinished", "Runs that are not finished.", registry=REGISTRY
)
RUNS_LAUNCHED = Counter("enrollgate_runs_launched", "Runs launched.", registry=REGISTRY)
RUNS_FINISHED = Counter(
    "enrollgate_runs_finished", "Runs finished.", ["outcome", "reason"], registry=REGISTRY
)
TASKS_EXPIRED = Counter(
    "enrollgate_tasks_expired", "Tasks failed by the enrollment timeout.", registry=REGISTRY
)
TASKS_SET_ASIDE = Gauge(
    "enrollgate_tasks_set_aside",
    "Tasks that the database or the launcher refused, and that are tried again later.",
    registry=REGISTRY,
)
REFUSALS = Counter(
    "enrollgate_refusals",
    "Times that the database or the launcher refused one task.",
    ["by"],
    registry=REGISTRY,
)
for _by in ("database", "launcher"):
    REFUSALS.labels(_by)  # so that `increase()` sees the first one
UNEXPECTED_ERRORS = Counter(
    "enrollgate_unexpected_errors",
    "Unexpected errors in the handling of one task, or of a whole pass.",
    registry=REGISTRY,
)
PASSES = Counter(
    "enrollgate_passes", "Passes that completed or were aborted.", ["result"], registry=REGISTRY
)
RECONCILE_DURATION = Histogram(
    "enrollgate_reconcile_duration_seconds", "Duration of a completed pass.", registry=REGISTRY
)
LAST_PASS = Gauge(
    "enrollgate_last_pass_timestamp_seconds", "When the last pass completed.", registry=REGISTRY
)
LEADING = Gauge(
    "enrollgate_leading", "Whether this replica does the work: 1 or 0.", registry=REGISTRY
)


@contextmanager
def timed_pass() -> Iterator[None]:
    """Measure how long the pass takes. An aborted pass does not count: it mostly waited."""
    begin = time.monotonic()
    yield
    RECONCILE_DURATION.observe(time.monotonic() - begin)
