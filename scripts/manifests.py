"""Renders manifests/base from the chart: `python scripts/manifests.py [--check]`.

Helm's hooks do not exist here: the migration becomes an init container of the operator, which every start repeats without harm,
and the doctor pod, with what is only for it, is left out (`kubectl exec deploy/enrollgate -- enrollgate doctor`). What says
"Helm" goes.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from scripts.docs.generated import print_or_check

REPOSITORY = Path(__file__).parents[1]
BASE = REPOSITORY / "manifests" / "base"
_HEAD = "# Rendered from charts/enrollgate with manifests/values.yaml: `make manifests`. Change it by an overlay.\n"
Json = dict[str, Any]


def render() -> str:
    """All objects of the base as one YAML stream."""
    tools = subprocess.run(
        [REPOSITORY / "scripts" / "helm-kubectl"], check=True, capture_output=True, text=True
    )
    chart, values = (
        str(REPOSITORY / "charts" / "enrollgate"),
        str(REPOSITORY / "manifests" / "values.yaml"),
    )
    helm = [
        tools.stdout.strip() + "/helm",
        "template",
        "enrollgate",
        chart,
        "-n",
        "enrollgate",
        "-f",
        values,
    ]
    rendered = subprocess.run(helm, check=True, capture_output=True, text=True).stdout
    return _HEAD + yaml.safe_dump_all(
        from_chart(list(yaml.safe_load_all(rendered))), sort_keys=False, width=120
    )


def from_chart(objects: list[Json]) -> list[Json]:
    """The chart's objects without its hooks, and the migration where it can be."""
    hooks = [each for each in objects if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    (doctor,) = (each["metadata"]["name"] for each in hooks if each["kind"] == "Pod")
    kept = [
        _without_helm(each)
        for each in objects
        if each not in hooks and each["metadata"]["name"] != doctor
    ]
    (deployment,) = (each for each in kept if each["kind"] == "Deployment")
    (migration,) = (each["spec"]["template"]["spec"] for each in hooks if each["kind"] == "Job")
    deployment["spec"]["template"]["spec"]["initContainers"] = migration["containers"]
    return kept


def _without_helm(thing: Any) -> Any:
    if isinstance(thing, list):
        return [_without_helm(each) for each in thing]
    if not isinstance(thing, dict):
        return thing
    cleaned = {
        name: _without_helm(value)
        for name, value in thing.items()
        if not name.startswith(("helm.sh/", "checksum/"))
        and (name, value) != ("app.kubernetes.io/managed-by", "Helm")
    }
    return {name: value for name, value in cleaned.items() if (name, value) != ("annotations", {})}


if __name__ == "__main__":
    target = BASE / "enrollgate.yaml"
    if sys.argv[1:] == ["--check"]:
        sys.exit(print_or_check(render(), ["--check", str(target)]))
    target.write_text(render(), encoding="utf-8")
