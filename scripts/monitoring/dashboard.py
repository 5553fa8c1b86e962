"""Write the Grafana dashboard: `python -m scripts.monitoring.dashboard [--check FILE]`.

The output is the JSON model of Grafana 9 and newer:
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/.
The chart ships it in a ConfigMap. Panels need no plug-in. They show all installations that the
variables at the top select.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from scripts.docs.generated import print_or_check

# What the variables select. In local mode there is no namespace, and `.*` matches that, too.
SELECTOR = 'namespace=~"$namespace", job=~"$job"'
WAITING, FAILED = 'state="waiting"', 'outcome="failed"'
WINDOW = "[$__rate_interval]"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
Json = dict[str, object]


@dataclass(frozen=True)
class Panel:
    """One panel: a title, what it means, and its queries with the legend of each."""

    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: Literal["stat", "timeseries"] = "timeseries"
    # Of 24 columns.
    width: int = 8
    # Above 0 the number of a stat is red.
    alarms: bool = False


def metric(name: str, matchers: str = "") -> str:
    """Return the selector of a metric; `name` is without the prefix `enrollgate_`."""
    own = f", {matchers}" if matchers else ""
    prefix = "" if name.startswith("process_") else "enrollgate_"
    return f"{prefix}{name}{{{SELECTOR}{own}}}"


def rate(name: str, *labels: str, matchers: str = "") -> str:
    """Return events per second over all replicas, by these labels."""
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} (rate({metric(name, matchers)}{WINDOW}))"


def of_range(name: str, matchers: str = "") -> str:
    """Return how many events the dashboard's time range has."""
    return f"sum(increase({metric(name, matchers)}[$__range]))"


def quantiles(name: str, matchers: str = "", by: str = "") -> list[tuple[str, str]]:
    """Return the queries of a histogram's median and 95th percentile, by this label."""
    labels, legend = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    buckets = f"sum by ({labels}) (rate({metric(name + '_bucket', matchers)}{WINDOW}))"
    return [
        (f"histogram_quantile({share}, {buckets})", f"{legend}p{percent}")
        for share, percent in ((0.5, 50), (0.95, 95))
    ]


ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Operators at work",
            "Replicas that do the work: one for each installation.",
            [(f"sum({metric('leading')})", "")],
            kind="stat",
            width=3,
        ),
        Panel(
            "Last pass",
            "How long ago the last pass completed.",
            [(f"time() - max({metric('last_pass_timestamp_seconds')})", "")],
            "s",
            kind="stat",
            width=3,
        ),
        Panel(
            "Waiting",
            "Tasks whose enrollment has not finished.",
            [(f"sum({metric('tasks', WAITING)})", "")],
            kind="stat",
            width=3,
        ),
        Panel(
            "Queued",
            "Enrolled tasks without an unfinished run that are not held.",
            [(f"sum({metric('queued_tasks')})", "")],
            kind="stat",
            width=3,
        ),
        Panel(
            "Runs",
            "Runs that are not finished.",
            [(f"sum({metric('runs_unfinished')})", "")],
            kind="stat",
            width=3,
        ),
        Panel(
            "Succeeded",
            "Runs that delivered their course, in the selected time.",
            [(of_range("runs_finished_total", 'outcome="succeeded"'), "")],
            kind="stat",
            width=3,
        ),
        Panel(
            "Failed",
            "Runs that failed, in the selected time.",
            [(of_range("runs_finished_total", FAILED), "")],
            kind="stat",
            width=3,
            alarms=True,
        ),
        Panel(
            "Set aside",
            "Tasks that the database or the launcher refuses.",
            [(f"sum({metric('tasks_set_aside')})", "")],
            kind="stat",
            width=3,
            alarms=True,
        ),
    ),
    "Tasks": (
        Panel(
            "Open tasks",
            "By state, at the last full pass. `unknown`: a status that is none of ours.",
            [(f"sum by (state) ({metric('tasks')})", "{{state}}")],
        ),
        Panel(
            "Oldest task",
            "The longest wait for the enrollment, and the longest wait for a slot.",
            [
                (f"max({metric('oldest_waiting_seconds')})", "waiting"),
                (f"max({metric('oldest_queued_seconds')})", "queued"),
            ],
            "s",
        ),
        Panel(
            "Holds",
            "Open holds by what they are about, and pauses by people. Their tasks wait.",
            [
                (f"max by (scope, reason) ({metric('holds')}) > 0", "{{scope}}: {{reason}}"),
                (f"sum({metric('held_tasks')})", "tasks that wait"),
            ],
        ),
        Panel(
            "Timeouts and refusals",
            "Tasks that the enrollment timeout failed, and single tasks that were refused.",
            [
                (rate("tasks_expired_total"), "timeouts"),
                (rate("refusals_total", "by"), "refused by the {{by}}"),
            ],
            "ops",
        ),
    ),
    "Runs": (
        Panel(
            "Runs and capacity",
            "Unfinished runs, and how many are allowed at the same time.",
            [
                (f"sum({metric('runs_unfinished')})", "runs"),
                (f"sum(max by (namespace, job) ({metric('capacity_runs')}))", "capacity"),
                (f"sum({metric('queued_tasks')})", "queued"),
            ],
        ),
        Panel(
            "Launched and finished",
            "Per second, by outcome.",
            [
                (rate("runs_launched_total"), "launched"),
                (rate("runs_adopted_total"), "adopted"),
                (rate("attempts_total"), "attempts"),
                (rate("runs_finished_total", "outcome"), "{{outcome}}"),
            ],
            "ops",
        ),
        Panel(
            "Failures by reason",
            "In the selected time. docs/reasons.md has the remedies.",
            [
                (
                    "sum by (reason) (increase("
                    f"{metric('runs_finished_total', FAILED)}[$__range])) > 0",
                    "{{reason}}",
                )
            ],
        ),
        Panel(
            "Duration of successful runs",
            "From the start of the worker to the end of the run.",
            quantiles("run_duration_seconds", 'outcome="succeeded"'),
            "s",
        ),
        Panel(
            "Delivered bytes",
            "Per second, counted when a run ends.",
            [(rate("delivered_bytes_total"), "bytes")],
            "Bps",
        ),
        Panel(
            "Delivered items",
            "Per second, counted when a run ends.",
            [(rate("delivered_items_total"), "items")],
            "ops",
        ),
    ),
    "Speed": (
        Panel(
            "Wait for the enrollment",
            "From first seen to enrolled.",
            quantiles("enrollment_wait_seconds"),
            "s",
            width=6,
        ),
        Panel(
            "Wait for the launch",
            "From enrolled to launched. It grows if all slots are taken.",
            quantiles("launch_wait_seconds"),
            "s",
            width=6,
        ),
        Panel(
            "Duration of a pass",
            "`full`: all tasks. `focused`: the runs that have changed.",
            quantiles("reconcile_duration_seconds", by="kind"),
            "s",
            width=6,
        ),
        Panel(
            "Look at the gate",
            "Time that a look takes in the database.",
            quantiles("look_duration_seconds"),
            "s",
            width=6,
        ),
    ),
    "Operator": (
        Panel(
            "Passes",
            "Per second, and the aborted ones by what was at fault.",
            [
                (rate("passes_total", "result"), "{{result}}"),
                (f"{rate('pass_errors_total', 'kind')} > 0", "{{kind}}"),
            ],
            "ops",
            width=6,
        ),
        Panel(
            "Unexpected errors and lease changes",
            "In the selected time. An unexpected error is a defect.",
            [
                (of_range("unexpected_errors_total"), "unexpected errors"),
                (
                    f"sum by (change) (increase({metric('leader_changes_total')}[$__range]))",
                    "lease {{change}}",
                ),
            ],
            width=6,
        ),
        Panel(
            "Errors of database and API server",
            "Per second, by kind. Most are tried again at once.",
            [
                (rate("database_errors_total", "kind"), "database: {{kind}}"),
                (rate("api_errors_total", "kind"), "API server: {{kind}}"),
            ],
            "ops",
            width=6,
        ),
        Panel(
            "Cookies expire",
            "Time until the last cookie of an account's file expires, where the operator sees it.",
            [
                (
                    f"min by (account) ({metric('cookies_expiry_timestamp_seconds')}) - time()",
                    "{{account}}",
                )
            ],
            "s",
            width=6,
        ),
        Panel(
            "CPU and version",
            "Cores of each replica.",
            [
                (
                    f"rate({metric('process_cpu_seconds_total')}{WINDOW})"
                    f" * on (namespace, job, instance) group_left (version)"
                    f" {metric('build_info')}",
                    "{{instance}} {{version}}",
                )
            ],
            width=6,
        ),
        Panel(
            "Memory",
            "Resident memory of each replica.",
            [(metric("process_resident_memory_bytes"), "{{instance}}")],
            "bytes",
            width=6,
        ),
    ),
}


def render() -> str:
    """Return the dashboard as JSON."""
    dashboard = {
        "uid": "enrollgate",
        "title": "Enrollgate",
        "description": "Tasks, runs and operators of Enrollgate. docs/monitoring.md explains it.",
        "tags": ["enrollgate"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _variables() -> Iterator[Json]:
    yield {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
    }
    # "All" is `.*`, which also matches series without the label.
    for name, query in (
        ("namespace", "label_values(enrollgate_build_info, namespace)"),
        ("job", 'label_values(enrollgate_build_info{namespace=~"$namespace"}, job)'),
    ):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }


def _panels() -> Iterator[Json]:
    number = top = 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        top += 1
        left = 0
        height = 4 if panels[0].kind == "stat" else 8
        for panel in panels:
            if left + panel.width > _WIDTH:
                left, top = 0, top + height
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            yield _panel(panel, number, place)
            left += panel.width
        top += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.alarms:
        steps.append({"color": "red", "value": 1e-9})
    options: Json = {
        "tooltip": {"mode": "multi", "sort": "desc"},
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
    }
    if panel.kind == "stat":
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value" if panel.alarms else "none",
            "graphMode": "area",
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    sys.exit(print_or_check(render(), sys.argv[1:]))
