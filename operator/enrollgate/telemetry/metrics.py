"""What Prometheus may ask: counted where it happens, in one registry of our own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
PASSES = Counter(
    "enrollgate_passes", "Passes, completed or given up.", ["result"], registry=REGISTRY
)
PASS_SECONDS = Histogram(
    "enrollgate_pass_seconds", "How long a completed pass took.", registry=REGISTRY
)
LAST_PASS = Gauge(
    "enrollgate_last_pass_timestamp_seconds", "When the last pass was completed.", registry=REGISTRY
)
LEADING = Gauge(
    "enrollgate_leading", "Whether this replica does the work: 1 or 0.", registry=REGISTRY
)


@contextmanager
def timed_pass() -> Iterator[None]:
    """Notes how long the pass took; not of one that is given up, which says more of what it waited for."""
    begin = time.monotonic()
    yield
    PASS_SECONDS.observe(time.monotonic() - begin)


def render() -> bytes:
    """Everything in Prometheus' text format."""
    return generate_latest(REGISTRY)
