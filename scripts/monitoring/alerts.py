"""Write the alert rules for Prometheus: `python -m scripts.monitoring.alerts [--check FILE]`.

The output is a rule file that Prometheus can load as it is, for a scrape job named `enrollgate`.
The chart makes a PrometheusRule of it. docs/monitoring.md explains each alert under its own
heading, to which `runbook_url` leads. Every expression keeps the labels `namespace` and `job`, so
several installations alert separately.
"""

import sys
from dataclasses import dataclass

import yaml
from scripts.docs.generated import print_or_check

from enrollgate.domain.reasons import Reason

DOCS = "https://github.com/enrollgate/enrollgate/blob/main/docs"
REASON_LINK = "reasons.md#{{ $labels.reason | toLower }}"
# What selects the operators. The chart replaces it by the namespace and the job of its release.
SELECTOR = 'job="enrollgate"'
# Reasons that end one task only, and say nothing about the next one: the task's row, the course or
# the site is at fault. EnrollgateManyRunsFailed alerts if there are many of them.
OF_ONE_TASK = frozenset(
    {
        Reason.NODE_LOST,  # no run ends with it
        Reason.ENROLLMENT_TIMEOUT,
        Reason.UNEXPECTED_STATUS,
        Reason.TASK_NOT_FOUND,
        Reason.TASK_FAILED,
        Reason.TASK_COMPLETED,
        Reason.TASK_CHANGED,
        Reason.ENROLLMENT_WITHDRAWN,
        Reason.INVALID_TASK,
        Reason.INVALID_COURSE_URL,
        Reason.ACCESS_DENIED,
        Reason.COURSE_NOT_FOUND,
        Reason.DRM_PROTECTED,
        Reason.UNSUPPORTED_COURSE,
        Reason.EMPTY_COURSE,
        Reason.RATE_LIMITED,
        Reason.SITE_ERROR,
        Reason.NETWORK_ERROR,
        Reason.INCOMPLETE_DOWNLOAD,
        Reason.COMMAND_FAILED,
        Reason.DESTINATION_UNAVAILABLE,
        Reason.CORRUPT_UPLOAD,
        Reason.DEADLINE_EXCEEDED,
        Reason.STOPPED,
        Reason.CANCELLED,
    }
)
# The other reasons meet the next tasks, too, until a person changes something.
FOR_A_PERSON = tuple(reason for reason in Reason if reason not in OF_ONE_TASK)
_HEAD = """\
# Alert rules of Enrollgate for a scrape job named `enrollgate`. docs/monitoring.md explains them.
# Generated from scripts/monitoring/alerts.py: `make docs`. Do not edit.
"""
Rule = dict[str, object]
# Seconds before an account's cookies expire, from which on a person should export new ones.
_COOKIES_SOON = 3 * 86400


class _Dumper(yaml.SafeDumper):
    """Write texts of several lines as blocks."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


@dataclass(frozen=True)
class Times:
    """The durations in the rules, in seconds, divided by `speed`. Tests raise the speed."""

    speed: float = 1
    # For how long a task may be enrolled before its run is launched.
    oldest_enrolled: float = 3600
    # For how long no pass may complete.
    no_pass: float = 300

    def duration(self, seconds: float) -> str:
        """Return a duration in Prometheus' syntax."""
        shortened = seconds / self.speed
        for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
            if shortened >= length and shortened % length == 0:
                return f"{shortened / length:.0f}{unit}"
        return f"{shortened * 1000:.0f}ms"

    def seconds(self, seconds: float) -> str:
        """Return seconds as a number to compare with."""
        return f"{seconds / self.speed:g}"


def metric(name: str, matchers: str = "") -> str:
    """Return the selector of one of our metrics."""
    return f"enrollgate_{name}{{{', '.join(each for each in (SELECTOR, matchers) if each)}}}"


def total(expression: str, *labels: str) -> str:
    """Return the sum over the replicas of an installation, by these labels."""
    return f"sum by ({', '.join(('namespace', 'job', *labels))}) ({expression})"


def latest(expression: str) -> str:
    """Return a gauge of an installation. Only the replica that works sets it; it is 0 elsewhere."""
    return f"max by (namespace, job) ({expression})"


def grown(selector: str, window: str, *labels: str) -> str:
    """Return an expression that is there if a counter has grown, also by its very first event.

    `increase()` alone misses what happened between a start and the first scrape: it sees no growth
    in a series whose first sample is 1 already.
    """
    grows = f"\n  increase({selector}[{window}]) > 0"
    new = f"\n  or ({selector} > 0\n    unless {selector} offset {window})\n"
    return total(grows + new, *labels)


def operator_alerts(times: Times) -> list[Rule]:
    """Return the alerts on the operator itself: it is down, or does not get on."""
    minutes5, minutes10, hour = map(times.duration, (300, 600, 3600))
    aborted = total(f"increase({metric('pass_errors_total')}[{minutes10}])", "kind")
    return [
        _alert(
            "EnrollgateDown",
            f"absent({metric('build_info')})",
            "critical",
            "No operator of Enrollgate can be scraped.",
            "No task is decided: no timeout, no launch, no result. Live runs continue.",
            wait=minutes5,
        ),
        _alert(
            "EnrollgateNoPass",
            f"time() - {latest(metric('last_pass_timestamp_seconds'))}"
            f" > {times.seconds(times.no_pass)}",
            "critical",
            "No pass has completed for {{ $value | humanizeDuration }}.",
            "The operator runs but decides nothing. Its log names what it waits for.",
            wait=minutes5,
        ),
        _alert(
            "EnrollgatePassesAborted",
            f"{aborted} > 3",
            "warning",
            "Passes are aborted: {{ $labels.kind }}.",
            "{{ $value | humanize }} passes in 10 minutes. Each is tried again.",
            wait=minutes5,
        ),
        _alert(
            "EnrollgateUnexpectedErrors",
            grown(metric("unexpected_errors_total"), hour),
            "warning",
            "The operator met an unexpected error.",
            "This is a defect. The log has its traceback; please report it.",
        ),
    ]


def task_alerts(times: Times) -> list[Rule]:
    """Return the alerts on tasks that wait too long."""
    minutes5, minutes15, hour = map(times.duration, (300, 900, 3600))
    expired = total(f"increase({metric('tasks_expired_total')}[{hour}])")
    enrolled = total(f"increase({metric('enrollment_wait_seconds_count')}[{hour}])")
    launched = total(f"increase({metric('runs_launched_total')}[{minutes15}])")
    return [
        _alert(
            "EnrollgateNothingLaunched",
            f"{latest(metric('queued_tasks'))} > 0\nand {latest(metric('runs_unfinished'))}"
            f" < {latest(metric('capacity_runs'))}\nand {launched} == 0",
            "critical",
            "Tasks are enrolled and slots are free, but nothing is launched.",
            "This has been so for 15 minutes. {{ $value | humanize }} tasks wait.",
            wait=minutes15,
        ),
        _alert(
            "EnrollgateOldestEnrolled",
            f"{latest(metric('oldest_queued_seconds'))} > {times.seconds(times.oldest_enrolled)}",
            "warning",
            "A task is enrolled for {{ $value | humanizeDuration }} without a run.",
            "All slots are taken, or its launch is refused.",
            wait=minutes5,
        ),
        _alert(
            "EnrollgateTimeoutsRising",
            f"{expired} > 0.2 * ({expired} + {enrolled})\nand {expired} > 3",
            "warning",
            "More than a fifth of the enrollments time out.",
            "{{ $value | humanize }} tasks timed out within an hour.",
        ),
        _alert(
            "EnrollgateHoldOpen",
            f"max by (namespace, job, scope, reason) ({metric('holds')}) > 0",
            "warning",
            "Launches are on hold: {{ $labels.scope }}, {{ $labels.reason }}.",
            "It has been so for an hour. `enrollgate holds` says which tasks wait, and what to do.",
            wait=hour,
        ),
        _alert(
            "EnrollgateTasksSetAside",
            f"{latest(metric('tasks_set_aside'))} > 0",
            "warning",
            "The database or the launcher refuses {{ $value | humanize }} tasks.",
            "They are tried again with pauses. The log names each with its remedy.",
            wait=minutes15,
        ),
    ]


def run_alerts(times: Times) -> list[Rule]:
    """Return the alerts on runs that fail."""
    hour = times.duration(3600)
    reasons = "|".join(reason.value for reason in FOR_A_PERSON)
    failed = metric("runs_finished_total", f'outcome="failed", reason=~"{reasons}"')
    finished = metric("runs_finished_total", 'outcome=~"succeeded|failed"')
    all_failed = metric("runs_finished_total", 'outcome="failed"')
    failures = total(f"increase({all_failed}[{hour}])")
    return [
        _alert(
            "EnrollgateRunFailed",
            grown(failed, hour, "reason"),
            "warning",
            "Runs fail until a person acts: {{ $labels.reason }}.",
            "`enrollgate status --failed` shows the tasks, the messages and the remedies.",
            runbook=REASON_LINK,
        ),
        _alert(
            "EnrollgateCookiesExpiring",
            "min by (namespace, job, account)"
            f" ({metric('cookies_expiry_timestamp_seconds')}) - time() < {_COOKIES_SOON}",
            "warning",
            "The cookies of account {{ $labels.account }} expire within days.",
            "{{ if gt $value 0.0 }}In {{ $value | humanizeDuration }}{{ else }}They have expired"
            "{{ end }}. Export them from a browser again.",
        ),
        _alert(
            "EnrollgateManyRunsFailed",
            f"{failures} > 0.5 * {total(f'increase({finished}[{hour}])')}\nand {failures} > 3",
            "warning",
            "More than half of all runs have failed within an hour.",
            "{{ $value | humanize }} runs failed, each for its own reason.",
        ),
    ]


def render(times: Times) -> str:
    """Return the rule file."""
    alerts = [*operator_alerts(times), *task_alerts(times), *run_alerts(times)]
    document = {"groups": [{"name": "enrollgate", "rules": alerts}]}
    return _HEAD + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000)


def _alert(
    name: str,
    expression: str,
    severity: str,
    summary: str,
    description: str,
    *,
    wait: str = "",
    runbook: str = "",
) -> Rule:
    anchor = runbook or f"monitoring.md#{name.lower()}"
    annotations = {
        "summary": summary,
        "description": description,
        "runbook_url": f"{DOCS}/{anchor}",
    }
    return {
        "alert": name,
        "expr": expression,
        **({"for": wait} if wait else {}),
        "labels": {"severity": severity},
        "annotations": annotations,
    }


if __name__ == "__main__":
    sys.exit(print_or_check(render(Times()), sys.argv[1:]))
