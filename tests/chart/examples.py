"""The values in the examples of the docs: for Helm, and for Argo CD and Flux."""

import itertools
import re

import yaml
from tests.chart.rendering import REQUIRED, Json
from tests.cluster.chart import CHART, REPOSITORY

# The names of the chart's values.
VALUES = set(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))


def _yaml_blocks() -> list[tuple[str, str]]:
    """Return every YAML block of the docs, with the page and line where it begins."""
    pages = [
        REPOSITORY / "README.md",
        CHART / "README.md",
        REPOSITORY / "manifests" / "README.md",
        *sorted((REPOSITORY / "docs").rglob("*.md")),
    ]
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```ya?ml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 1
            found.append((f"{page.relative_to(REPOSITORY)}:{line}", match[1]))
    return found


def _values_in(document: object) -> list[Json]:
    """Return the chart's values in a YAML document: its own, or those for Argo CD or Flux."""
    if not isinstance(document, dict):
        return []
    spec = document.get("spec", {})
    match document.get("kind"):
        case "Application":
            return [
                source["helm"]["valuesObject"]
                for source in spec.get("sources", [spec.get("source")])
                if "helm" in source
            ]
        case "HelmRelease":
            return [spec["values"]]
        case None if VALUES.intersection(document):
            return [document]
        case _:
            return []


# By page and line, with what the chart requires and the example leaves out.
EXAMPLES = {
    f"{place} {number}": {name: value for name, value in REQUIRED.items() if name not in values}
    | values
    for place, text in _yaml_blocks()
    for number, values in enumerate(
        itertools.chain.from_iterable(map(_values_in, yaml.safe_load_all(text)))
    )
}
