"""The operator's metrics for Prometheus, in a registry of our own.

Code counts where something happens; `telemetry.http` serves the registry. Names follow
https://prometheus.io/docs/practices/naming/. Every label value that can be known is there from the
start, at 0: otherwise `increase()` misses the first event of each kind. docs/operations.md lists
all metrics, and a test compares the list with the registry.
"""

import collections
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from enrollgate import version
from enrollgate.domain.hold import Hold, Scope
from enrollgate.domain.holds import PAUSED, SCOPES
from enrollgate.domain.reasons import Reason
from enrollgate.domain.run import Outcome

# Their series would double the number of series, and nothing here reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# Seconds. Waits for Node.js and for a free slot reach from a moment to hours, runs to a day.
_WAITS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600)
_RUNS = (10, 30, 60, 120, 300, 600, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 24 * 3600)
_PASSES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# What a pass is about: all tasks, or the runs that have changed.
PASS_KINDS = ("full", "focused")
# Reasons why a run that is needed no more is stopped.
_REVOKED = (
    Reason.TASK_NOT_FOUND,
    Reason.TASK_FAILED,
    Reason.TASK_COMPLETED,
    Reason.TASK_CHANGED,
    Reason.ENROLLMENT_WITHDRAWN,
    Reason.UNEXPECTED_STATUS,
    Reason.STOPPED,
    Reason.CANCELLED,
)

BUILD_INFO = Gauge("enrollgate_build_info", "Always 1.", ["version"], registry=REGISTRY)
BUILD_INFO.labels(version()).set(1)
TASKS = Gauge("enrollgate_tasks", "Open tasks at the last full pass.", ["state"], registry=REGISTRY)
OLDEST_WAITING = Gauge(
    "enrollgate_oldest_waiting_seconds",
    "For how long the longest waiting task is known; 0 if none waits.",
    registry=REGISTRY,
)
CAPACITY = Gauge("enrollgate_capacity_runs", "Runs allowed at the same time.", registry=REGISTRY)
QUEUED = Gauge(
    "enrollgate_queued_tasks",
    "Enrolled tasks without an unfinished run and not held, at the last full pass.",
    registry=REGISTRY,
)
HELD = Gauge(
    "enrollgate_held_tasks",
    "Enrolled tasks that wait for a hold or a pause, at the last full pass.",
    registry=REGISTRY,
)
OLDEST_QUEUED = Gauge(
    "enrollgate_oldest_queued_seconds",
    "For how long the longest queued task is enrolled; 0 if none is queued.",
    registry=REGISTRY,
)
RUNS_UNFINISHED = Gauge(
    "enrollgate_runs_unfinished", "Runs that are not finished.", registry=REGISTRY
)
RUNS_LAUNCHED = Counter("enrollgate_runs_launched", "Runs launched.", registry=REGISTRY)
RUNS_ADOPTED = Counter(
    "enrollgate_runs_adopted",
    "Runs that existed at the launcher before their launch was recorded.",
    registry=REGISTRY,
)
RUNS_FINISHED = Counter(
    "enrollgate_runs_finished", "Runs finished.", ["outcome", "reason"], registry=REGISTRY
)
RUNS_FINISHED.labels(Outcome.SUCCEEDED.value, "none")
RUNS_FINISHED.labels(Outcome.LOST.value, Reason.LOST.value)
for _reason in Reason:
    RUNS_FINISHED.labels(Outcome.FAILED.value, _reason.value)
for _reason in _REVOKED:
    RUNS_FINISHED.labels(Outcome.REVOKED.value, _reason.value)
ENROLLMENT_WAIT = Histogram(
    "enrollgate_enrollment_wait_seconds",
    "From the moment when a task was first seen until it was seen as enrolled.",
    buckets=_WAITS,
    registry=REGISTRY,
)
LAUNCH_WAIT = Histogram(
    "enrollgate_launch_wait_seconds",
    "From the moment when a task was seen as enrolled until its run was launched.",
    buckets=_WAITS,
    registry=REGISTRY,
)
RUN_DURATION = Histogram(
    "enrollgate_run_duration_seconds",
    "From the start of a run's worker until the run ended, by outcome.",
    ["outcome"],
    buckets=_RUNS,
    registry=REGISTRY,
)
for _outcome in Outcome:
    RUN_DURATION.labels(_outcome.value)
ATTEMPTS = Counter(
    "enrollgate_attempts",
    "Attempts that workers have begun, counted by their progress and their reports.",
    registry=REGISTRY,
)
DELIVERED_BYTES = Counter(
    "enrollgate_delivered_bytes", "Bytes delivered by finished runs.", registry=REGISTRY
)
DELIVERED_ITEMS = Counter(
    "enrollgate_delivered_items", "Items delivered by finished runs.", registry=REGISTRY
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
    REFUSALS.labels(_by)
DATABASE_ERRORS = Counter(
    "enrollgate_database_errors",
    "Errors of the database: of the server as a whole, of a setting, or of a single row.",
    ["kind"],
    registry=REGISTRY,
)
for _kind in (
    "DatabaseUnavailable",
    "DatabaseMisconfigured",
    "RowHeld",
    "RowRefused",
    "RowTimedOut",
):
    DATABASE_ERRORS.labels(_kind)
API_ERRORS = Counter(
    "enrollgate_api_errors",
    "Requests to the Kubernetes API server that failed, each try by itself.",
    ["kind"],
    registry=REGISTRY,
)
for _kind in ("unreachable", "throttled", "server", "denied", "invalid"):
    API_ERRORS.labels(_kind)
COOKIES_EXPIRY = Gauge(
    "enrollgate_cookies_expiry_timestamp_seconds",
    "When the last cookie of an account's file expires; the account by its file's first digits.",
    ["account"],
    registry=REGISTRY,
)
UNEXPECTED_ERRORS = Counter(
    "enrollgate_unexpected_errors",
    "Unexpected errors in the handling of one task, or of a whole pass.",
    registry=REGISTRY,
)
PASSES = Counter(
    "enrollgate_passes", "Passes that completed or were aborted.", ["result"], registry=REGISTRY
)
for _result in ("completed", "aborted"):
    PASSES.labels(_result)
PASS_ERRORS = Counter(
    "enrollgate_pass_errors",
    "Aborted passes, by what was at fault.",
    ["kind"],
    registry=REGISTRY,
)
for _kind in (
    "DatabaseUnavailable",
    "DatabaseMisconfigured",
    "LauncherUnavailable",
    "LauncherRefused",
    "unexpected",
):
    PASS_ERRORS.labels(_kind)
RECONCILE_DURATION = Histogram(
    "enrollgate_reconcile_duration_seconds",
    "Duration of a completed pass.",
    ["kind"],
    buckets=_PASSES,
    registry=REGISTRY,
)
for _kind in PASS_KINDS:
    RECONCILE_DURATION.labels(_kind)
LOOK_DURATION = Histogram(
    "enrollgate_look_duration_seconds",
    "Time that a look at the gate took in the database.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
    registry=REGISTRY,
)
HOLDS = Gauge("enrollgate_holds", "Open holds and pauses.", ["scope", "reason"], registry=REGISTRY)
_HOLD_LABELS = [(scope.value, reason.value) for reason, scope in SCOPES.items()] + [
    (scope.value, PAUSED) for scope in Scope
]
for _labels in _HOLD_LABELS:
    HOLDS.labels(*_labels)


def show_holds(holds: Iterable[Hold]) -> None:
    """Set how many holds are open. One whose reason a person has made up counts as `Paused`."""
    pairs = [(hold.scope.value, hold.reason) for hold in holds]
    counts = collections.Counter(
        pair if pair in _HOLD_LABELS else (pair[0], PAUSED) for pair in pairs
    )
    for labels in _HOLD_LABELS:
        HOLDS.labels(*labels).set(counts[labels])


LAST_PASS = Gauge(
    "enrollgate_last_pass_timestamp_seconds", "When the last pass completed.", registry=REGISTRY
)
LEADING = Gauge(
    "enrollgate_leading", "Whether this replica does the work: 1 or 0.", registry=REGISTRY
)
LEADER_CHANGES = Counter(
    "enrollgate_leader_changes",
    "Times that this replica took the lease, or lost it while it worked.",
    ["change"],
    registry=REGISTRY,
)
for _change in ("acquired", "lost"):
    LEADER_CHANGES.labels(_change)
# What only the replica that works reports; the next one reports it then.
OF_THE_LEADER = (RUNS_UNFINISHED, OLDEST_WAITING, OLDEST_QUEUED, QUEUED, HELD, TASKS_SET_ASIDE)
