"""The dashboard and the alert rules agree with the registry, the reasons and the docs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts.docs.reasons import anchor
from scripts.docs.reasons import render as render_reasons
from scripts.monitoring import alerts, dashboard
from tests.repository import REPOSITORY

from enrollgate.domain.reasons import Reason
from enrollgate.telemetry.metrics import REGISTRY

CHART = REPOSITORY / "charts" / "enrollgate" / "monitoring"
SELECTOR = re.compile(r"\b((?:enrollgate|process)_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=|=~)"([^"]*)"')
# Prometheus adds these to every series.
TARGET = {"namespace", "job", "instance"}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboard.render())["panels"]
    return found


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(alerts.render(alerts.Times()))["groups"][0][
        "rules"
    ]
    return found


def expressions() -> list[str]:
    shown = [query["expr"] for panel in panels() for query in panel.get("targets", ())]
    return shown + [rule["expr"] for rule in rules()]


def selectors() -> Iterator[tuple[str, str]]:
    for expression in expressions():
        yield from SELECTOR.findall(expression)


def declared() -> dict[str, set[str]]:
    """Return the labels of each series of the registry, with those of histograms."""
    labels = {
        name: set(getattr(collector, "_labelnames", ()))
        for name, collector in REGISTRY._names_to_collectors.items()
    }
    found: dict[str, set[str]] = {}
    for family in REGISTRY.collect():
        series = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        for ending in series.get(family.type, [""]):
            own = {"le"} if ending == "_bucket" else set()
            found[family.name + ending] = labels.get(family.name, set()) | own
    return found


def test_every_expression_uses_metrics_and_labels_of_the_registry() -> None:
    known = declared()
    for name, matchers in selectors():
        assert name in known, name
        assert {label for label, _, _ in MATCHER.findall(matchers)} <= known[name] | TARGET, name
    for expression in expressions():
        for labels in re.findall(r"(?:by|on|group_left) \(([^)]*)\)", expression):
            assert set(labels.split(", ")) <= set.union(TARGET, *known.values()), expression


def test_every_label_value_that_is_selected_exists() -> None:
    values = {
        (sample.name, label, value)
        for family in REGISTRY.collect()
        for sample in family.samples
        for label, value in sample.labels.items()
    }
    for name, matchers in selectors():
        for label, _, wanted in MATCHER.findall(matchers):
            if label not in TARGET and name != "enrollgate_tasks":  # whose states come with a pass
                for each in wanted.split("|"):
                    assert (name, label, each) in values, (name, label, each)


def test_every_metric_is_on_the_dashboard_or_in_a_rule() -> None:
    used = {re.sub("_(bucket|count|sum)$", "", name) for name, _ in selectors()}
    ours = {
        re.sub("_(bucket|count|sum)$", "", name)
        for name in declared()
        if name.startswith("enrollgate_")
    }
    assert ours <= used


def test_every_query_selects_by_the_variables_of_the_dashboard() -> None:
    for panel in panels():
        for query in panel.get("targets", ()):
            for _, matchers in SELECTOR.findall(query["expr"]):
                assert matchers.startswith(dashboard.SELECTOR), query["expr"]


def test_every_rule_selects_what_the_chart_replaces() -> None:
    for rule in rules():
        for _, matchers in SELECTOR.findall(rule["expr"]):
            assert matchers.startswith(alerts.SELECTOR), rule["alert"]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_alert_links_to_a_heading_of_the_docs() -> None:
    page = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", page, re.MULTILINE)}
    for rule in rules():
        link = rule["annotations"]["runbook_url"].removeprefix(f"{alerts.DOCS}/")
        assert rule["alert"].lower() in headings, rule["alert"]
        assert link in (f"monitoring.md#{rule['alert'].lower()}", alerts.REASON_LINK)
    reasons = render_reasons()
    assert all(anchor(reason) in reasons for reason in Reason)


@pytest.mark.parametrize(
    ("page", "file"),
    [
        (alerts.render(alerts.Times()), CHART / "alerts.yaml"),
        (dashboard.render(), CHART / "dashboard.json"),
    ],
    ids=["alerts", "dashboard"],
)
def test_files_of_the_chart_are_up_to_date(page: str, file: Path) -> None:
    assert file.read_text(encoding="utf-8") == page, "run `make docs`"


@pytest.mark.parametrize(
    ("seconds", "speed", "text"),
    [(3600, 1, "1h"), (300, 1, "5m"), (300, 100, "3s"), (300, 200, "1500ms"), (90, 1, "90s")],
)
def test_durations_are_written_as_prometheus_reads_them(
    seconds: float, speed: float, text: str
) -> None:
    assert alerts.Times(speed).duration(seconds) == text
